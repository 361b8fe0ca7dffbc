"""Scores of a classifier whose tested rows come in blocks, and their intervals by resampling blocks.

Everything is a sum over blocks, or over pairs of blocks for the area under the ROC curve, so that a thousand
resamples cost little more than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Estimate", "ScoredRows", "block_weights", "interval", "recalls"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval (None with too few blocks) and, where it was tested, its p-value."""

    value: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None

    def __str__(self) -> str:
        bounds = "" if self.low is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{bounds}"


def block_weights(strata: Sequence[ArrayLike], draws: int, rng: np.random.Generator) -> Floats:
    """Return ``(draws, B)`` counts: how often a bootstrap sample holds each block.

    Parameters
    ----------
    strata
        Sets of block numbers, together 0 to B - 1; each set is resampled within itself, with replacement.
    """
    weights = np.zeros((draws, sum(np.size(s) for s in strata)))
    for stratum in strata:
        members = np.asarray(stratum, np.intp)
        weights[:, members] = rng.multinomial(len(members), [1 / len(members)] * len(members), size=draws)
    return weights


def interval(values: Floats, level: float) -> tuple[float | None, float | None]:
    """Return the central `level` of bootstrap values; those that could not be computed (NaN) are left out."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None, None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def recalls(probabilities: Floats, labels: NDArray[np.intp]) -> Floats:
    """Return ``(N,)``: 1 where the likeliest class is right, 0 where wrong, 1/K for a row without prediction.

    Parameters
    ----------
    probabilities
        ``(N, K)``; a row of NaN could not be tested and counts as a guess.
    labels
        ``(N,)`` in 0 to K - 1.
    """
    untested = np.isnan(probabilities[:, 0])
    right = np.where(untested[:, None], 0, probabilities).argmax(axis=1) == labels
    return np.where(untested, 1 / probabilities.shape[1], right.astype(np.float64))


class ScoredRows:
    """Rows with a score, a yes or no, and a block: AUROC, average precision and balanced accuracy of any resample.

    Parameters
    ----------
    scores
        ``(n,)`` finite, higher for yes.
    positive
        ``(n,)`` bool.
    blocks
        ``(n,)`` in 0 to `n_blocks` - 1.
    threshold
        A score above it is a yes.
    """

    def __init__(
        self, scores: ArrayLike, positive: ArrayLike, blocks: ArrayLike, n_blocks: int, threshold: float = 0.0
    ) -> None:
        self.scores = np.asarray(scores, np.float64)
        self.positive = np.asarray(positive, bool)
        self.blocks = np.asarray(blocks, np.intp)
        self.n_positive = np.bincount(self.blocks[self.positive], minlength=n_blocks).astype(np.float64)
        self.n_negative = np.bincount(self.blocks[~self.positive], minlength=n_blocks).astype(np.float64)
        said = self.scores > threshold
        self._hits = np.bincount(self.blocks[said & self.positive], minlength=n_blocks)
        self._rejections = np.bincount(self.blocks[~said & ~self.positive], minlength=n_blocks)
        self._pairs = self._concordant(n_blocks)
        # Once sorted, a resample only changes the weights that are summed up along the way.
        self._order = np.argsort(-self.scores, kind="stable")
        ordered = self.scores[self._order]
        self._ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(ordered) else None

    def _concordant(self, n_blocks: int) -> Floats:
        """Return ``(B, B)``: pairs in right order of a positive of one block and a negative of another."""
        values, owners = self.scores[self.positive], self.blocks[self.positive]
        pairs = np.zeros((n_blocks, n_blocks))
        for block in range(n_blocks):
            negatives = np.sort(self.scores[~self.positive & (self.blocks == block)])
            below = np.searchsorted(negatives, values, "left")
            upto = np.searchsorted(negatives, values, "right")
            pairs[:, block] = np.bincount(owners, weights=(below + upto) / 2, minlength=n_blocks)
        return pairs

    def _balanced(self, weights: Floats) -> tuple[Floats, Floats]:
        return weights @ self.n_positive, weights @ self.n_negative

    def auroc(self, weights: ArrayLike | None = None) -> Floats:
        """Return the area under the ROC curve for ``(draws, B)`` weights of blocks, NaN without both classes."""
        w = self._weights(weights)
        yes, no = self._balanced(w)
        with np.errstate(invalid="ignore", divide="ignore"):
            return ((w @ self._pairs) * w).sum(axis=1) / (yes * no)

    def balanced_accuracy(self, weights: ArrayLike | None = None) -> Floats:
        """Return the mean of both recalls for ``(draws, B)`` weights of blocks, NaN without both classes."""
        w = self._weights(weights)
        yes, no = self._balanced(w)
        with np.errstate(invalid="ignore", divide="ignore"):
            return ((w @ self._hits) / yes + (w @ self._rejections) / no) / 2

    def average_precision(self, weights: ArrayLike | None = None) -> Floats:
        """Return the average precision (no interpolation) for ``(draws, B)`` weights, NaN without both classes."""
        w = self._weights(weights)
        result = np.full(len(w), np.nan)
        for i, (row, yes, no) in enumerate(zip(w, *self._balanced(w), strict=True)):
            if yes == 0 or no == 0:
                continue
            each = row[self.blocks[self._order]]
            found = np.cumsum(each * self.positive[self._order])[self._ends]
            named = np.cumsum(each)[self._ends]
            precision = np.divide(found, named, out=np.zeros_like(found), where=named > 0)
            result[i] = float((np.diff(found, prepend=0) * precision).sum() / yes)
        return result

    def _weights(self, weights: ArrayLike | None) -> Floats:
        if weights is None:
            return np.ones((1, len(self.n_positive)))
        return np.atleast_2d(np.asarray(weights, np.float64))
