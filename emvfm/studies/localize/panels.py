"""Which images are shown with truth and prediction, and their pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.channel_names import channel_names
from emvfm.datasets.images import read_channels
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.localization.predictions import Predictions
from emvfm.report.localization_panels import composite, image_panels
from emvfm.studies.localize.grid import Localization, MemberRun
from emvfm.studies.localize.titles import run_titles
from emvfm.studies.profile_tables import is_table
from emvfm.workspace import Workspace

__all__ = ["panels", "pick_examples"]

_COLOURS = ("red", "green", "blue")


def pick_examples(predictions: Predictions, fold: int, n: int, seed: int = 0) -> list[int]:
    """Return up to `n` units of a fold: half of them predicted right, half not, as different in labels as there are.

    Parameters
    ----------
    predictions
        What was predicted; its rows are returned.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(predictions.fold == fold))
    right = (predictions.labels[rows] == predictions.decided[rows]).all(axis=1)
    chosen: list[list[int]] = []
    for side in (rows[right], rows[~right]):
        seen: dict[bytes, int] = {}
        ranks = []
        for row in side:  # the first of each set of labels, then the second of each
            key = predictions.labels[row].tobytes()
            seen[key] = seen.get(key, -1) + 1
            ranks.append(seen[key])
        chosen.append([int(side[i]) for i in np.argsort(ranks, kind="stable")])
    ours, theirs = chosen
    wrong = min(len(theirs), n - min(len(ours), n - n // 2))
    return ours[: n - wrong] + theirs[:wrong]


def _colours(names: Sequence[str]) -> dict[str, str]:
    """Return colour → channel: the protein red, the nucleus green, what is left in order."""
    from emvfm.backbones.channels import natural_map

    found = natural_map(names, _COLOURS)
    left = [name for name in names if name not in found.values()]
    return found | dict(zip((c for c in _COLOURS if c not in found), left, strict=False))


def _pixels(dataset: Dataset, sample: Sample) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    """Return the channels of an image by name, and a composite where there are several."""
    planes = read_channels(dataset.image_path(sample))
    known = channel_names(dataset)
    names = [f"channel {i}" for i in range(1, len(planes) + 1)] if known is None else list(known)
    if len(names) != len(planes):
        names = [f"channel {i}" for i in range(1, len(planes) + 1)]
    if len(planes) == 1:
        return {names[0] if known else "image": planes[0]}, None
    channels = dict(zip(names, planes, strict=True))
    return channels, composite(channels, _colours(names))


def _best_fold(run: MemberRun, score: str) -> int:
    values = run.run.mean(score).values
    return max(range(len(values)), key=lambda i: -1.0 if values[i] is None else float(values[i] or 0))


def _rows_of_units(found: Localization, run: MemberRun) -> Mapping[int, int]:
    """Return a row of the task for each unit that is scored: itself, or the first of the unit or group."""
    level, task = run.run.protocol.level, found.task
    if level == "row":
        return {i: i for i in range(len(task.rows))}
    _, first = np.unique(np.asarray(task.units if level == "unit" else task.groups), return_index=True)
    return dict(enumerate(first.tolist()))


def panels(found: Localization, workspace: Workspace, n: int, seed: int = 0) -> bytes | None:
    """Draw images of the best fold of the best run; None where the source is a table, or none are wanted."""
    run = found.best
    if n == 0 or is_table(run.member.source):
        return None
    dataset = open_dataset(workspace, run.member.source)
    samples = {sample.id: sample for sample in dataset.samples}
    predictions, names, fold = run.run.predictions, run.run.names, _best_fold(run, found.score)
    row_of = _rows_of_units(found, run)
    items = []
    for at in pick_examples(predictions, fold, n, seed):
        name = found.task.ids[row_of[int(predictions.unit[at])]]
        channels, joined = _pixels(dataset, samples[name])
        truth, decided = predictions.labels[at], predictions.decided[at]
        items.append(
            {"id": name, "channels": channels, "composite": joined,
             "true": [c for c, own in zip(names, truth.tolist(), strict=True) if own],
             "predicted": {c: float(p) for c, own, p in
                           zip(names, decided.tolist(), predictions.scores[at], strict=True) if own},
             "right": bool((truth == decided).all())}
        )  # fmt: skip
    where = (
        f"fold {fold + 1} of {found.task.folds.k}, the best" if found.task.folds.k > 1 else "the test rows"
    )
    title = next(name for name, one in zip(run_titles(found.runs), found.runs, strict=True) if one is run)
    return image_panels(items, f"{title}: {where}; half right, half wrong where there are so many")
