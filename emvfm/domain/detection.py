"""How well a score tells outliers from in-distribution images: AUROC, AUPR, FPR95, with block bootstrap.

Larger scores are more outlying. Two of the measures depend on which side is called positive, and the literature
has both, so both are given and named: ``out`` takes the outliers as positive (as pytorch-ood does), ``in`` the
in-distribution images (with the sign of the score turned).
AUPR is scikit-learn's average precision; pytorch-ood joins the points of the curve by straight lines, which
differs in the third digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["MEASURES", "Detection", "Measured", "detection_measures", "measure_detection", "rate_of_flags"]

Floats = NDArray[np.float64]

#: Names with what they are.
MEASURES = {
    "auroc": "probability that an outlier scores above an in-distribution image, ties count half",
    "aupr_out": "average precision, outliers positive",
    "aupr_in": "average precision, in-distribution images positive",
    "fpr95_out": "share of in-distribution images flagged where 95 % of the outliers are",
    "fpr95_in": "share of outliers accepted where 95 % of the in-distribution images are",
}
#: With fewer blocks a side there are too few different resamples for an interval.
LEAST_BLOCKS = 3
_REPLICATES = 64  # weighed at a time


def _sided(
    positive: Floats, negative: Floats, order: NDArray[np.intp], last: NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return average precision, FPR at 95 % TPR, and the cumulative rates, by columns of weights.

    Parameters
    ----------
    positive, negative
        ``(m, B)`` weights of the rows as positive or negative.
    order, last
        Rows from the most to the least positive score, and which of them end a run of ties.
    """
    hits, alarms = (np.cumsum(w[order], axis=0)[last] for w in (positive, negative))
    tpr, fpr = hits / hits[-1], alarms / alarms[-1]
    gained = np.diff(tpr, axis=0, prepend=0)
    precision = hits / np.maximum(hits + alarms, 1e-300)
    reached = (tpr >= 0.95 - 1e-12).argmax(axis=0)
    return (gained * precision).sum(axis=0), fpr[reached, np.arange(fpr.shape[1])], tpr, fpr


def detection_measures(
    inside: ArrayLike, outside: ArrayLike, inside_weights: ArrayLike, outside_weights: ArrayLike
) -> dict[str, Floats]:
    """Return each of `MEASURES` for ``(n,)`` and ``(m,)`` scores, by columns of weights ``(n, B)``, ``(m, B)``.

    A weight says how often a row counts, as in a bootstrap; a column of ones is the plain value.
    """
    scores = np.concatenate([np.asarray(inside, np.float64), np.asarray(outside, np.float64)])
    own, other = np.asarray(inside_weights, np.float64), np.asarray(outside_weights, np.float64)
    negative = np.concatenate([own, np.zeros((len(other), own.shape[1]))])
    positive = np.concatenate([np.zeros((len(own), other.shape[1])), other])
    down = np.argsort(-scores, kind="stable")
    up = down[::-1]
    ends = np.diff(scores[down]) != 0
    aupr_out, fpr95_out, tpr, fpr = _sided(positive, negative, down, np.append(ends, True))
    aupr_in, fpr95_in, _, _ = _sided(negative, positive, up, np.append(ends[::-1], True))
    steps = np.diff(fpr, axis=0, prepend=0)
    middle = tpr - np.diff(tpr, axis=0, prepend=0) / 2
    return {
        "auroc": (steps * middle).sum(axis=0),
        "aupr_out": aupr_out,
        "aupr_in": aupr_in,
        "fpr95_out": fpr95_out,
        "fpr95_in": fpr95_in,
    }


@dataclass(frozen=True)
class Measured:
    """A value with its block-bootstrap interval; `low` and `high` are None with fewer than three blocks."""

    value: float
    low: float | None
    high: float | None

    def text(self, digits: int = 3) -> str:
        """Return ``0.912 [0.80, 0.97]``, or the value alone."""
        if self.low is None or self.high is None:
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} [{self.low:.{digits - 1}f}, {self.high:.{digits - 1}f}]"


@dataclass(frozen=True)
class Detection:
    """How well one score tells one set of outliers from in-distribution test images.

    `n` and `blocks` are those of the in-distribution and the outlying images; `level` is the coverage of the
    intervals, which hold the fitted score fixed: they say nothing of another draw of fitting images.
    """

    auroc: Measured
    aupr_out: Measured
    aupr_in: Measured
    fpr95_out: Measured
    fpr95_in: Measured
    n: tuple[int, int]
    blocks: tuple[int, int]
    level: float
    bootstrap: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        return asdict(self)


def _multiplicities(blocks: Sequence[int], bootstrap: int, rng: np.random.Generator) -> Floats:
    """Return ``(n, bootstrap)``: how often each row is drawn when its blocks are drawn with replacement."""
    unique, index = np.unique(np.asarray(blocks), return_inverse=True)
    drawn = rng.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=bootstrap)
    return drawn.T[index].astype(np.float64)


def _interval(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(scores: ArrayLike, blocks: Sequence[int], name: str) -> Floats:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not len(values) or len(values) != len(blocks):
        raise UsageError("not one score an image", where=name, got=f"{values.shape}, {len(blocks)} blocks")
    if not np.isfinite(values).all():
        raise UsageError("scores are not finite", where=name)
    return values


def measure_detection(
    inside: ArrayLike,
    outside: ArrayLike,
    blocks_inside: Sequence[int],
    blocks_outside: Sequence[int],
    *,
    level: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Detection:
    """Compare ``(n,)`` scores of held-out in-distribution images with ``(m,)`` scores of outliers.

    Whole blocks of slices are drawn with replacement on both sides; the intervals are percentiles.

    Raises
    ------
    UsageError
        No scores on a side, another number of block labels, or scores that are not finite.
    """
    a, b = _checked(inside, blocks_inside, "in-distribution"), _checked(outside, blocks_outside, "outliers")
    plain = detection_measures(a, b, np.ones((len(a), 1)), np.ones((len(b), 1)))
    counts = (len(set(blocks_inside)), len(set(blocks_outside)))
    drawn: dict[str, list[Floats]] = {name: [] for name in MEASURES}
    if min(counts) >= LEAST_BLOCKS:
        rng = np.random.default_rng(seed)
        for start in range(0, bootstrap, _REPLICATES):
            size = min(_REPLICATES, bootstrap - start)
            weights = (_multiplicities(blocks, size, rng) for blocks in (blocks_inside, blocks_outside))
            for name, values in detection_measures(a, b, *weights).items():
                drawn[name].append(values)
    measured = {}
    for name, values in plain.items():
        interval = _interval(np.concatenate(drawn[name]), level) if drawn[name] else (None, None)
        measured[name] = Measured(float(values[0]), *interval)
    return Detection(
        **measured, n=(len(a), len(b)), blocks=counts, level=level, bootstrap=bootstrap, seed=seed
    )


def rate_of_flags(
    flags: ArrayLike, blocks: Sequence[int], *, level: float = 0.95, bootstrap: int = 1000, seed: int = 0
) -> Measured:
    """Return the share of ``(n,)`` flags that are set, with its block-bootstrap interval."""
    values = _checked(flags, blocks, "flags")
    if len(set(blocks)) < LEAST_BLOCKS:
        return Measured(float(values.mean()), None, None)
    weights = _multiplicities(blocks, bootstrap, np.random.default_rng(seed))
    return Measured(float(values.mean()), *_interval(values @ weights / weights.sum(axis=0), level))
