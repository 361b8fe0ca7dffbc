"""One slice's probability against its mask, and all slices' scores with intervals. No files, no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.segmentation.boundary import BoundaryScore, boundary_f1, boundary_score
from emvfm.segmentation.calibration import calibration_error
from emvfm.segmentation.evaluation_options import EvalConfig
from emvfm.segmentation.failures import ObjectFailure, object_failures
from emvfm.segmentation.histograms import BINS, ProbabilityHistogram, probability_histogram
from emvfm.segmentation.instances import (
    InstanceMatch,
    average_precision,
    label_instances,
    match_instances,
    panoptic,
    split_instances,
)
from emvfm.segmentation.intervals import Estimate, bootstrap, draw_blocks, estimate_from
from emvfm.segmentation.metrics import Counts, count, scores
from emvfm.segmentation.thresholds import average_precision_of

__all__ = ["Measured", "Tally", "estimates", "measure"]

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Measured:
    """All that is kept of one slice: nothing of the size of its image.

    Parameters
    ----------
    boundary
        In px; None where outlines were not asked for.
    match
        Of objects; None where they were not asked for.
    """

    id: str
    source: str
    block: int
    pixel_size_nm: float | None
    counts: Counts
    boundary: BoundaryScore | None = None
    match: InstanceMatch | None = None
    failures: tuple[ObjectFailure, ...] = ()

    def extra(self) -> dict[str, float | int | None]:
        """Return the scores beyond overlap by name, None where undefined."""
        values: dict[str, float | int | None] = {}
        if self.boundary is not None:
            far = {"assd": self.boundary.mean_assd, "hd95": self.boundary.mean_hausdorff}
            values["boundary_f1"] = self.boundary.f1
            defined = self.boundary.defined > 0
            for name, value in far.items():
                values[f"{name}_px"] = value if defined else None
                size = self.pixel_size_nm
                values[f"{name}_nm"] = value * size if defined and size is not None else None
        if self.match is not None:
            table = self.match.counts()
            values["pq"] = float(panoptic(table)["pq"])
            values |= {
                "objects_true": len(self.match.true_iou),
                "objects_predicted": len(self.match.predicted_iou),
                "objects_matched": int(table[1]),
            }
        return values


class Tally:
    """Histograms of blocks of slices, as they come: memory of a block, not of a slice."""

    def __init__(self, n_blocks: int) -> None:
        self.blocks = [ProbabilityHistogram.empty() for _ in range(n_blocks)]

    def add(self, block: int, histogram: ProbabilityHistogram) -> None:
        self.blocks[block] = self.blocks[block] + histogram

    @property
    def whole(self) -> ProbabilityHistogram:
        """All blocks added up."""
        return sum(self.blocks, start=ProbabilityHistogram.empty())

    def table(self) -> NDArray[np.float64]:
        """Return ``(blocks, 4 BINS + 2)``: counts, totals and squares side by side."""
        rows = [np.concatenate([h.counts.ravel(), h.totals.ravel(), h.squares]) for h in self.blocks]
        return np.stack(rows)


def measure(
    probability: NDArray[np.float32],
    truth: NDArray[np.bool_],
    threshold: float,
    config: EvalConfig,
    *,
    id: str,  # noqa: A002 - the name of the column of the manifest
    source: str,
    block: int,
    pixel_size_nm: float | None = None,
) -> tuple[Measured, ProbabilityHistogram]:
    """Score one slice.

    Parameters
    ----------
    probability
        ``(H, W)`` of the foreground, in [0, 1].
    truth
        ``(H, W)`` bool.
    threshold
        Foreground is where the probability is above it.
    """
    prediction = probability > threshold
    measured = Measured(id, source, block, pixel_size_nm, count(prediction, truth))
    histogram = probability_histogram(probability, truth)
    if config.metrics == "basic":
        return measured, histogram

    def objects(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
        label = split_instances if config.objects == "watershed" else label_instances
        return label(mask, minimum=config.smallest)

    true, predicted = objects(truth), objects(prediction)
    match = match_instances(true, predicted, probability)
    failures = object_failures(match, true, predicted, image=id, source=source, pixel_size_nm=pixel_size_nm)
    boundary = boundary_score(prediction, truth, tolerance=config.tolerance)
    return replace(measured, boundary=boundary, match=match, failures=tuple(failures)), histogram


def _ratio(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sum over number of ``(..., 2)``, NaN where the number is 0."""
    total, number = table[..., 0], table[..., 1]
    return np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)


def _macro(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean IoU of the sources that are there, ``(..., sources * 4)``."""
    counts = table.reshape(*table.shape[:-1], -1, 4)
    there = counts.sum(axis=-1) > 0
    return _ratio(np.stack([(scores(counts, "iou") * there).sum(axis=-1), there.sum(axis=-1)], axis=-1))


def estimates(slices: Sequence[Measured], tally: Tally, config: EvalConfig) -> dict[str, Estimate]:
    """Return all scores over slices by name, each with its interval; those defined nowhere are left out.

    All draw the same blocks, so that they vary together.
    """
    blocks = [each.block for each in slices]
    options: dict[str, Any] = {"samples": config.samples, "level": config.level, "seed": config.seed}

    def over(rows: Sequence[Sequence[float]], statistic: Statistic = _ratio) -> Estimate:
        return bootstrap(np.array(rows, np.float64), blocks, statistic, **options)

    found = {
        "iou_per_image": over([(s.counts.iou, 1) for s in slices]),
        "dice_per_image": over([(s.counts.dice, 1) for s in slices]),
    }
    sources = list(dict.fromkeys(s.source for s in slices))
    if len(sources) > 1:
        rows = np.zeros((len(slices), len(sources), 4))
        for row, each in zip(rows, slices, strict=True):
            row[sources.index(each.source)] = astuple(each.counts)
        found["iou_macro"] = over(rows.reshape(len(slices), -1).tolist(), _macro)
    found |= _of_probabilities(tally, len(slices), options)
    if all(s.boundary is not None for s in slices):
        found |= _of_outlines(slices, over)
    if all(s.match is not None for s in slices):
        found |= _of_objects(slices, over, options)
    return {name: each for name, each in found.items() if np.isfinite(each.value)}


def _of_probabilities(tally: Tally, n: int, options: dict[str, Any]) -> dict[str, Estimate]:
    def parts(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        shape = (*table.shape[:-1], 2, BINS)
        return table[..., : 2 * BINS].reshape(shape), table[..., 2 * BINS : 4 * BINS].reshape(shape)

    def brier(table: NDArray[np.float64]) -> NDArray[np.float64]:
        counts, totals = parts(table)
        error = (
            table[..., -2:].sum(axis=-1) - 2 * totals[..., 1, :].sum(axis=-1) + counts[..., 1, :].sum(axis=-1)
        )
        return _ratio(np.stack([np.maximum(error, 0), counts.sum(axis=(-2, -1))], axis=-1))

    statistics: dict[str, Statistic] = {
        "average_precision": lambda table: average_precision_of(parts(table)[0]),
        "calibration_error": lambda table: calibration_error(*parts(table)),
        "brier": brier,
    }
    table = tally.table()
    drawn = {k: bootstrap(table, range(len(table)), each, **options) for k, each in statistics.items()}
    return {name: replace(each, n=n) for name, each in drawn.items()}


def _of_outlines(slices: Sequence[Measured], over: Callable[..., Estimate]) -> dict[str, Estimate]:
    rows = [s.boundary for s in slices if s.boundary is not None]
    found = {"boundary_f1": over([astuple(row) for row in rows], boundary_f1)}
    for name, field in (("assd", "assd"), ("hd95", "hausdorff")):
        found[f"{name}_px"] = over([(getattr(row, field), row.defined) for row in rows])
        sizes = [s.pixel_size_nm for s in slices]
        found[f"{name}_nm"] = over(
            [(getattr(row, field) * (size or 0), row.defined * (size is not None))
             for row, size in zip(rows, sizes, strict=True)]
        )  # fmt: skip
    return found


def _of_objects(
    slices: Sequence[Measured], over: Callable[..., Estimate], options: dict[str, Any]
) -> dict[str, Estimate]:
    matches = [s.match for s in slices if s.match is not None]
    table = [m.counts() for m in matches]
    found = {
        name: over(table, lambda t, name=name: panoptic(t)[name])
        for name in ("pq", "sq", "rq", "count_error")
    }
    names, block = np.unique([s.block for s in slices], return_inverse=True)
    for name, threshold in (("ap50", 0.5), ("ap75", 0.75)):
        replicates = np.zeros(0)
        if len(names) > 1:
            times = draw_blocks(len(names), options["samples"], options["seed"])[:, block]
            replicates = average_precision(matches, threshold, times=times)
        found[name] = estimate_from(
            float(average_precision(matches, threshold)), replicates,
            level=options["level"], n=len(slices), n_blocks=len(names),
        )  # fmt: skip
    return found
