"""Scoring runs on test sets at native resolution, one slice in memory at a time; results stay with the runs.

A run is scored on a test set once: ``metrics.json`` keeps what came out with a digest of all that decided it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.datasets.catalog import open_dataset, parse_reference
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.datasets.masks import read_mask
from emvfm.errors import UsageError
from emvfm.segmentation.calibration import reliability
from emvfm.segmentation.cells import PROTOCOL, Cell, ImageScore
from emvfm.segmentation.checkpoints import Segmenter, load_run
from emvfm.segmentation.chosen_threshold import ChosenThreshold, slice_probability, validation_threshold
from emvfm.segmentation.evaluation_files import (
    file_name,
    fingerprint_of,
    keep_result,
    recipe_of,
    result_key,
)
from emvfm.segmentation.evaluation_options import EvalConfig
from emvfm.segmentation.failures import ObjectFailure
from emvfm.segmentation.geometry import target_of
from emvfm.segmentation.intervals import Estimate, block_labels
from emvfm.segmentation.losses import IGNORE
from emvfm.segmentation.metrics import Counts, Statistic, bootstrap_pooled, count
from emvfm.segmentation.scoring import Measured, Tally, estimates, measure
from emvfm.segmentation.slices import Slices
from emvfm.segmentation.thresholds import precision_recall
from emvfm.workspace import Workspace, write_bytes

if TYPE_CHECKING:
    from rich.console import Console

#: Image, mask, prediction and title of one slice.
Panel = tuple[np.ndarray, np.ndarray, np.ndarray, str]

__all__ = ["PROTOCOL", "Cell", "ImageScore", "evaluate"]

#: Points of the precision-recall curve that are kept: every 8th of 1024 thresholds.
_CURVE_STEP = 8


@dataclass(frozen=True)
class _Judge:
    """A run with what turns its probabilities into predictions."""

    segmenter: Segmenter
    config: EvalConfig
    threshold: float
    chosen_on: str | None

    def probability(self, slices: Slices, i: int) -> NDArray[np.float32]:
        """Return ``(H, W)`` float32 of slice `i` at native size."""
        return slice_probability(self.segmenter, slices, i, self.config.tta)


def _mask(dataset: Dataset, sample: Sample) -> NDArray[np.bool_]:
    path = dataset.mask_path(sample)
    assert path is not None
    return read_mask(path)


def _pooled(
    counts: Sequence[Counts], blocks: Sequence[int], statistic: Statistic, config: EvalConfig
) -> Estimate:
    options: dict[str, Any] = {"samples": config.samples, "level": config.level, "seed": config.seed}
    return bootstrap_pooled(counts, blocks, statistic=statistic, **options)


def _resized_counts(judge: _Judge, slices: Slices, i: int) -> Counts:
    """Return counts on the pixels of the model's input, most probable class, as the reference scores."""
    sample = slices.samples[i]
    logits, input_size = slices.input_logits(i)
    patch = judge.segmenter.preprocess.patch
    grid = (logits.shape[-2] // patch, logits.shape[-1] // patch)
    target = target_of(_mask(slices.dataset, sample), grid, patch, input_size)
    prediction = (logits[0, 1] > logits[0, 0]).cpu().numpy()
    return count(prediction, target == 1, target != IGNORE)


def _score(
    judge: _Judge, slices: Slices, test: str, fingerprint: str
) -> tuple[Cell, tuple[ObjectFailure, ...]]:
    config, segmenter, samples = judge.config, judge.segmenter, slices.samples
    blocks = block_labels([s.volume for s in samples], [s.z for s in samples])
    tally, measured, resized = Tally(max(blocks) + 1), [], []
    for i, (sample, block) in enumerate(zip(samples, blocks, strict=True)):
        one, histogram = measure(
            judge.probability(slices, i), _mask(slices.dataset, sample), judge.threshold, config,
            id=sample.id, source=sample.domain, block=block, pixel_size_nm=sample.pixel_size_nm,
        )  # fmt: skip
        tally.add(block, histogram)
        measured.append(one)
        if segmenter.config.protocol == "paper":
            resized.append(_resized_counts(judge, slices, i))
    scores = estimates(measured, tally, config)
    if resized:
        scores["iou_resized"] = _pooled(resized, blocks, "iou", config)
        scores["dice_resized"] = _pooled(resized, blocks, "dice", config)
    counts = [one.counts for one in measured]
    whole = tally.whole
    cell = Cell(
        **_names(segmenter),
        test=test,
        iou=_pooled(counts, blocks, "iou", config),
        dice=_pooled(counts, blocks, "dice", config),
        iou_per_image=scores["iou_per_image"].value,
        per_source=_per_source(measured, config),
        images=tuple(ImageScore(m.id, m.source, m.counts, m.block, m.extra()) for m in measured),
        scores=scores,
        curve=precision_recall(whole).to_json(_CURVE_STEP),
        reliability=tuple(row.to_json() for row in reliability(whole)),
        threshold=judge.threshold,
        chosen_on=judge.chosen_on,
        tta=config.tta,
        fingerprint=fingerprint,
    )
    return cell, tuple(failure for one in measured for failure in one.failures)


def _names(segmenter: Segmenter) -> dict[str, Any]:
    config, provenance = segmenter.config, segmenter.run.provenance
    return {
        "run": segmenter.run.path.name,
        "train": "+".join(config.data),
        "adaptation": provenance["adaptation"],
        "backbone": provenance["backbone"],
        "head": config.head,
        "seed": config.seed,
        "recipe": recipe_of(segmenter.run),
    }


def _per_source(measured: Sequence[Measured], config: EvalConfig) -> dict[str, Estimate]:
    sources = dict.fromkeys(one.source for one in measured)
    members = {name: [one for one in measured if one.source == name] for name in sources}
    return {
        name: _pooled([one.counts for one in own], [one.block for one in own], "iou", config)
        for name, own in members.items()
    }


def _examples(judge: _Judge, slices: Slices, cell: Cell) -> list[Panel]:
    """Return the worst, the median and the best slice with their masks and predictions."""
    order = np.argsort([image.counts.iou for image in cell.images], kind="stable")
    chosen = {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
    panels = []
    for name, i in chosen.items():
        sample = slices.samples[i]
        title = f"{name}, IoU {cell.images[i].counts.iou:.2f}\n{sample.id}"
        image = read_image(slices.dataset.image_path(sample))
        prediction = judge.probability(slices, int(i)) > judge.threshold
        panels.append((image, _mask(slices.dataset, sample), prediction, title))
    return panels


def _test_sets(references: Sequence[str], workspace: Workspace) -> dict[str, Dataset]:
    if not references:
        raise UsageError("no data to score on", where="--data", expected="the name of a dataset")
    tests = {}
    for reference in references:
        name = reference if parse_reference(reference)[1] else f"{reference}:test"
        tests[name] = open_dataset(workspace, name).annotated()
        if len(tests[name]) == 0:
            raise UsageError("no annotated slices to score on", where=name)
    return tests


def evaluate(
    runs: Sequence[Path],
    config: EvalConfig,
    workspace: Workspace,
    *,
    again: bool = False,
    draw: Callable[[Sequence[Panel]], bytes] | None = None,
    console: Console | None = None,
) -> list[Cell]:
    """Score each run on each test set; results also go into the runs' ``metrics.json``.

    A run's folder ``evaluation/`` gets the scores of each slice, and with ``metrics="full"`` the list of missed
    and false objects, as CSV.

    Parameters
    ----------
    again
        Score anew what was scored before.
    draw
        Makes a PNG of the worst, the median and the best slice of a cell, for the run's figures.

    Raises
    ------
    UsageError
        Nothing to score on, a test set without masks, or a threshold chosen on slices of the test set.
    """
    tests = _test_sets(config.data, workspace)
    cells = []
    for folder in runs:
        scoring = _Scoring(load_run(folder, workspace), config, workspace, console)
        cells += [scoring.cell(name, dataset, again, draw) for name, dataset in tests.items()]
    return cells


class _Scoring:
    """One run on several test sets: the threshold is chosen once, and only if a score needs it."""

    def __init__(
        self, segmenter: Segmenter, config: EvalConfig, workspace: Workspace, console: Console | None
    ) -> None:
        self.segmenter, self.config = segmenter, config
        self.workspace, self.console = workspace, console
        self._chosen: ChosenThreshold | None = None

    def _judge(self, test: str, dataset: Dataset) -> _Judge:
        if self.config.threshold != "validation":
            return _Judge(self.segmenter, self.config, float(self.config.threshold), None)
        if self._chosen is None:
            self._chosen = validation_threshold(
                self.segmenter, self.workspace, tta=self.config.tta, console=self.console
            )
        chosen = self._chosen
        if any(sample.image_sha256 in chosen.images for sample in dataset.samples):
            raise UsageError(
                "the threshold would be chosen on slices that are scored", where=test,
                todo="score other slices, or give --threshold a number",
            )  # fmt: skip
        return _Judge(self.segmenter, self.config, chosen.value, chosen.chosen_on)

    def cell(
        self, test: str, dataset: Dataset, again: bool, draw: Callable[[Sequence[Panel]], bytes] | None
    ) -> Cell:
        """Return the scores on one test set, from what is kept if it is the same."""
        run, key = self.segmenter.run, result_key(test, self.config)
        fingerprint = fingerprint_of(run, dataset, self.config)
        picture = run.path / "figures" / f"{file_name(key)}.png"
        kept = run.metrics.get("eval", {}).get(key, {})
        same = kept.get("fingerprint") == fingerprint and not again
        if same and (draw is None or picture.is_file()):
            return replace(Cell.from_json(kept), run=run.path.name)
        judge = self._judge(test, dataset)
        slices = self.segmenter.slices(dataset, self.workspace, self.console)
        if same:
            cell = replace(Cell.from_json(kept), run=run.path.name)
        else:
            cell, failures = _score(judge, slices, test, fingerprint)
            keep_result(run, key, cell, failures if self.config.metrics == "full" else None)
        if draw is not None:
            write_bytes(picture, draw(_examples(judge, slices, cell)))
        return cell
