"""What a study of outliers says: one score with its threshold, its promise, and how well it detects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.domain.conformal import Calibration, calibrate
from emvfm.domain.detection import Detection, Measured, measure_detection, rate_of_flags
from emvfm.domain.outliers import SCORES
from emvfm.errors import UsageError

__all__ = ["Against", "OutlierStudy", "Scored", "study_outliers"]


@dataclass(frozen=True)
class Scored:
    """Scores ``(n,)`` of some images and their block labels; in one part of one dataset."""

    values: NDArray[np.float64]
    blocks: Sequence[int]


@dataclass(frozen=True)
class Against:
    """One set of outliers: how well they are told apart, and the share flagged at the threshold."""

    detection: Detection
    flagged: Measured

    def to_json(self) -> dict[str, Any]:
        return {**self.detection.to_json(), "flagged": asdict(self.flagged)}


@dataclass(frozen=True)
class OutlierStudy:
    """One score of one layer, fitted, calibrated and tested on separate parts of one dataset.

    Attributes
    ----------
    inside
        The in-distribution dataset.
    score, note
        Name of the score and what its fit decided.
    layer
        Block of the backbone.
    scale
        What the score of an image is made from: ``image`` (its one vector), or ``patch mean`` or
        ``patch p95`` (mean and 95th percentile of the scores of its patches).
    n_fit, blocks_fit, dimension
        Images and blocks that were fitted; length of an embedding.
    calibration
        The threshold and what it promises.
    false_alarms, slice_false_alarms
        Share of test images above the threshold, and above the one that (wrongly) counts slices.
    block_alarms
        Share of test blocks with an image above the threshold by block maxima, None where there is none.
    against
        By set of outliers.
    """

    inside: str
    score: str
    note: str
    layer: int
    scale: str
    n_fit: int
    blocks_fit: int
    dimension: int
    calibration: Calibration
    n_test: int
    blocks_test: int
    false_alarms: Measured
    slice_false_alarms: Measured | None
    block_alarms: float | None
    against: Mapping[str, Against]

    @property
    def title(self) -> str:
        return SCORES[self.score]

    def verdict_on(self, outside: str) -> str:
        """One sentence on one set of outliers."""
        found = self.against[outside]
        auroc = found.detection.auroc
        n, blocks = found.detection.n, found.detection.blocks
        which = f"{self.title}, n = {n[0]} and {n[1]} in {blocks[0]} and {blocks[1]} blocks"
        flagged = (
            f"{found.flagged.value:.0%} of them and {self.false_alarms.value:.0%} of {self.inside}'s own test "
            "images are flagged"
        )
        if auroc.low is None or auroc.high is None:
            return (
                f"{outside} against {self.inside}: too few blocks of slices for an interval, AUROC "
                f"{auroc.value:.3f} ({which}); {flagged}"
            )
        measured = f"AUROC {auroc.text()} ({which})"
        if auroc.low > 0.5:
            sure = "" if auroc.low > 0.8 else "somewhat "
            return f"{outside} is {sure}outlying to a model of {self.inside}: {measured}; {flagged}"
        if auroc.high < 0.5:
            return (
                f"{outside} lies closer to the fitted images than {self.inside}'s own test part: {measured}"
            )
        return f"{outside}: no evidence that it is outlying to a model of {self.inside}: {measured}"

    @property
    def verdict(self) -> str:
        """What is said of each set of outliers, and of the threshold."""
        return "; ".join([*(self.verdict_on(name) for name in self.against), self.calibration.verdict])

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the verdict as plain JSON values."""
        plain = {name: value for name, value in vars(self).items() if name not in ("against", "calibration")}
        for name in ("false_alarms", "slice_false_alarms"):
            plain[name] = None if plain[name] is None else asdict(plain[name])
        return {
            **plain,
            "calibration": self.calibration.to_json(),
            "against": {name: found.to_json() for name, found in self.against.items()},
            "verdict": self.verdict,
        }


def _share_of_blocks(flags: ArrayLike, blocks: Sequence[int]) -> float:
    index = np.unique(np.asarray(blocks), return_inverse=True)[1]
    return float((np.bincount(index, weights=np.asarray(flags, np.float64)) > 0).mean())


def study_outliers(
    inside: str,
    score: str,
    calibration: Scored,
    test: Scored,
    outside: Mapping[str, Scored],
    *,
    layer: int,
    scale: str,
    note: str,
    n_fit: int,
    blocks_fit: int,
    dimension: int,
    false_alarms: float = 0.05,
    level: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> OutlierStudy:
    """Calibrate a score, and compare test images with each set of outliers.

    Parameters
    ----------
    calibration, test
        In-distribution images that were not fitted, in separate blocks.
    outside
        Outliers by name, at least one set.
    false_alarms
        Rate asked of the threshold.
    level
        Coverage of the intervals.
    """
    if not outside:
        raise UsageError("no outliers to compare with", where=inside)
    line = calibrate(calibration.values, calibration.blocks, level=false_alarms)
    options: dict[str, Any] = {"level": level, "bootstrap": bootstrap, "seed": seed}

    def above(scored: Scored, threshold: float) -> Measured:
        return rate_of_flags(scored.values > threshold, scored.blocks, **options)

    return OutlierStudy(
        inside=inside,
        score=score,
        note=note,
        layer=layer,
        scale=scale,
        n_fit=n_fit,
        blocks_fit=blocks_fit,
        dimension=dimension,
        calibration=line,
        n_test=len(test.values),
        blocks_test=len(set(test.blocks)),
        false_alarms=above(test, line.threshold),
        slice_false_alarms=None if line.slice_threshold is None else above(test, line.slice_threshold),
        block_alarms=(
            None
            if line.maximum_threshold is None
            else _share_of_blocks(test.values > line.maximum_threshold, test.blocks)
        ),
        against={
            name: Against(
                measure_detection(test.values, other.values, test.blocks, other.blocks, **options),
                above(other, line.threshold),
            )
            for name, other in outside.items()
        },
    )
