"""Overlap of predicted and true masks: counts, IoU and Dice pooled over pixels, and their uncertainty. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np

from emvfm.errors import UsageError
from emvfm.segmentation.intervals import Estimate, block_labels, bootstrap

__all__ = [
    "Counts",
    "Estimate",
    "Statistic",
    "block_labels",
    "bootstrap_pooled",
    "count",
    "pooled",
    "scores",
]

Statistic = Literal["iou", "dice"]
STATISTICS = ("iou", "dice")


@dataclass(frozen=True)
class Counts:
    """Pixels of a binary segmentation by outcome; counts of several images add up.

    Where truth and prediction are both empty IoU and Dice are 1 by definition: there was nothing to find and
    nothing was found. Where only the truth is empty they are 0.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def iou(self) -> float:
        """Intersection over union of the foreground, in [0, 1]."""
        return float(scores(np.array(astuple(self), dtype=np.float64), "iou"))

    @property
    def dice(self) -> float:
        """Twice the intersection over the sum of the areas, in [0, 1]; equals F1."""
        return float(scores(np.array(astuple(self), dtype=np.float64), "dice"))


def count(
    prediction: np.ndarray[Any, Any],
    truth: np.ndarray[Any, Any],
    valid: np.ndarray[Any, Any] | None = None,
) -> Counts:
    """Count the pixels of one image by outcome.

    Parameters
    ----------
    prediction, truth
        `(H, W)` bool.
    valid
        `(H, W)` bool, the pixels that count; None means all.

    Raises
    ------
    UsageError
        When a mask is not bool (a probability or a label image) or the shapes differ.
    """
    masks = {"prediction": prediction, "truth": truth} | ({} if valid is None else {"valid": valid})
    for name, mask in masks.items():
        if mask.dtype != np.bool_:
            raise UsageError("wrong dtype", where=name, got=mask.dtype, expected="bool")
        if mask.shape != truth.shape:
            raise UsageError("wrong shape", where=name, got=mask.shape, expected=truth.shape)
    counted = np.ones_like(truth) if valid is None else valid
    total = int(np.count_nonzero(counted))
    tp = int(np.count_nonzero(prediction & truth & counted))
    fp = int(np.count_nonzero(prediction & counted)) - tp
    fn = int(np.count_nonzero(truth & counted)) - tp
    return Counts(tp, fp, fn, total - tp - fp - fn)


def pooled(counts: Sequence[Counts]) -> Counts:
    """Add up the counts of several images; none give zeros."""
    return sum(counts, start=Counts())


def bootstrap_pooled(
    counts: Sequence[Counts],
    blocks: Sequence[int],
    *,
    statistic: Statistic = "iou",
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Estimate pooled IoU or Dice with a percentile interval from resampled blocks.

    Whole blocks are drawn with replacement, as many as there are. With few blocks the interval is too narrow,
    as any bootstrap of few units is; `method` tells how many there were.

    Parameters
    ----------
    counts
        Of each slice.
    blocks
        Label of each slice, of :func:`block_labels`.
    statistic
        ``iou`` or ``dice``.
    samples
        Number of resamples.
    level
        Nominal coverage in (0, 1).
    seed
        Of the resampling.

    Raises
    ------
    UsageError
        Without slices, when labels and slices differ in number, or for an option out of range.
    """
    _known(statistic)
    return bootstrap(
        _table(counts),
        blocks,
        lambda table: scores(table, statistic),
        samples=samples,
        level=level,
        seed=seed,
    )


def _table(counts: Sequence[Counts]) -> np.ndarray[Any, Any]:
    if not counts:
        raise UsageError("no images to score", where="counts", got=0, expected="at least 1")
    return np.array([astuple(each) for each in counts], dtype=np.float64)  # exact below 2 ** 53 pixels


def scores(table: np.ndarray[Any, Any], statistic: str) -> np.ndarray[Any, Any]:
    """Return IoU or Dice of counts ``(..., 4)`` in the order tp, fp, fn, tn; 1 where there was nothing to find."""
    tp, wrong = table[..., 0], table[..., 1] + table[..., 2]
    hit = tp if statistic == "iou" else 2 * tp
    whole = hit + wrong
    return np.divide(hit, whole, out=np.ones_like(whole), where=whole > 0)


def _known(statistic: str) -> str:
    if statistic not in STATISTICS:
        raise UsageError(
            "unknown statistic", where="metric", got=repr(statistic), expected=" | ".join(STATISTICS)
        )
    return statistic
