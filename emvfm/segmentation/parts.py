"""The slices that are trained on and those that judge, for each dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from emvfm.datasets.manifest import Dataset
from emvfm.errors import UsageError
from emvfm.segmentation.config import TrainConfig

__all__ = ["Parts", "check_validation", "part"]

_SHARE, _SEED = 0.1, 42  # of the reference


@dataclass(frozen=True)
class Parts:
    """One dataset's annotated slices, without its test split.

    Attributes
    ----------
    both
        The slices of `train` and `val`, in the manifest's order.
    """

    both: Dataset
    train: Dataset
    val: Dataset


def _random_tenth(n: int) -> set[int]:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(_SEED)).tolist()
    return set(order[: round(_SHARE * n)])


def _thinned(dataset: Dataset, most: int | None) -> Dataset:
    """Return at most so many slices, evenly spaced over all of them."""
    if most is None or most >= len(dataset):
        return dataset
    kept = {dataset.samples[(2 * i + 1) * len(dataset) // (2 * most)].id for i in range(most)}
    return dataset.where(lambda s: s.id in kept)


def part(dataset: Dataset, validation: str, slices: int | None = None) -> Parts:
    """Return what of `dataset` trains and what judges.

    Parameters
    ----------
    validation
        ``split``: the dataset's own val split. ``random``: a tenth of train and val together, drawn whatever
        the seed of the training is; neighbours of what is trained, so its scores flatter.
    slices
        At most so many train, evenly spaced; None: all.

    Raises
    ------
    UsageError
        Nothing to train on.
    """
    both = dataset.split("train", "val").annotated()
    if validation == "random":
        drawn = _random_tenth(len(both))
        ids = {sample.id for i, sample in enumerate(both.samples) if i in drawn}
        parts = Parts(both, both.where(lambda s: s.id not in ids), both.where(lambda s: s.id in ids))
    else:
        parts = Parts(both, both.split("train"), both.split("val"))
    if len(parts.train) == 0:
        raise UsageError("no annotated slices in the train split", where=dataset.name)
    train = _thinned(parts.train, slices)
    ids = {sample.id for sample in (*train.samples, *parts.val.samples)}
    return Parts(both.where(lambda s: s.id in ids), train, parts.val)


def check_validation(parts: Sequence[Parts], config: TrainConfig) -> None:
    """Raise UsageError where options need validation slices and there are none."""
    if any(len(p.val) for p in parts):
        return
    for option, asked in (
        ("--early-stop", config.early_stop > 0),
        ("--select loss", config.select == "loss"),
    ):
        if asked:
            raise UsageError("there are no validation slices to judge by", where=option)
