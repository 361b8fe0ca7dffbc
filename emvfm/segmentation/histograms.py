"""Probabilities of foreground in fine bins, by what the pixels are: all that curves need, whatever their number.

Bins are cut at multiples of 1/1024, which float32 holds exactly, and closed above: a pixel is in a bin above
a cut exactly if its probability is above the cut. Numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError

__all__ = ["BINS", "ProbabilityHistogram", "probability_histogram"]

BINS = 1024


@dataclass(frozen=True)
class ProbabilityHistogram:
    """Pixels by probability and truth; histograms of several images add up.

    Parameters
    ----------
    counts
        ``(2, BINS)`` float64: pixels of background and of foreground in each bin.
    totals
        ``(2, BINS)`` float64: their probabilities added up.
    squares
        ``(2,)`` float64: the squares of their probabilities added up.
    """

    counts: NDArray[np.float64]
    totals: NDArray[np.float64]
    squares: NDArray[np.float64]

    def __add__(self, other: ProbabilityHistogram) -> ProbabilityHistogram:
        return ProbabilityHistogram(
            self.counts + other.counts, self.totals + other.totals, self.squares + other.squares
        )

    @classmethod
    def empty(cls) -> ProbabilityHistogram:
        return cls(np.zeros((2, BINS)), np.zeros((2, BINS)), np.zeros(2))


def probability_histogram(
    probability: NDArray[np.floating[Any]], truth: NDArray[np.bool_]
) -> ProbabilityHistogram:
    """Return the histogram of one image.

    Parameters
    ----------
    probability
        ``(H, W)`` of the foreground, in [0, 1].
    truth
        ``(H, W)`` bool.

    Raises
    ------
    UsageError
        When the shapes differ, the truth is not bool, or a probability is not in [0, 1].
    """
    if truth.dtype != np.bool_ or truth.shape != probability.shape:
        got = f"{truth.dtype} {truth.shape}"
        raise UsageError("not the mask", where="truth", got=got, expected=f"bool {probability.shape}")
    if not (np.isfinite(probability).all() and (probability >= 0).all() and (probability <= 1).all()):
        raise UsageError("not probabilities", where="probability", expected="values in [0, 1]")
    values = probability.ravel()
    bins = np.maximum(np.ceil(values * BINS).astype(np.int64) - 1, 0) + truth.ravel() * BINS
    exact = values.astype(np.float64)
    counts = np.bincount(bins, minlength=2 * BINS).astype(np.float64).reshape(2, BINS)
    totals = np.bincount(bins, exact, 2 * BINS).astype(np.float64).reshape(2, BINS)
    squares = np.bincount(truth.ravel().astype(np.int64), exact**2, 2).astype(np.float64)
    return ProbabilityHistogram(counts, totals, squares)
