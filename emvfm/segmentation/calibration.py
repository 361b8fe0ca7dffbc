"""Whether probabilities mean what they say: reliability, expected calibration error, Brier score."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError
from emvfm.segmentation.histograms import BINS, ProbabilityHistogram

__all__ = ["Reliability", "brier", "calibration_error", "reliability"]


@dataclass(frozen=True)
class Reliability:
    """One bin of the reliability curve.

    Parameters
    ----------
    low, high
        Probabilities above `low`, up to `high`; the first bin holds 0 too.
    pixels
        Pixels in it.
    predicted
        Mean probability of foreground, NaN without pixels.
    observed
        Share that is foreground, NaN without pixels.
    """

    low: float
    high: float
    pixels: int
    predicted: float
    observed: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types; None where there are no pixels."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


def _edges(bins: int) -> NDArray[np.int64]:
    if not 1 <= bins <= BINS:
        raise UsageError("out of range", where="bins", got=bins, expected=f"1 to {BINS}")
    return np.linspace(0, BINS, bins + 1).round().astype(np.int64)


def reliability(histogram: ProbabilityHistogram, bins: int = 16) -> tuple[Reliability, ...]:
    """Return what was predicted and what is there in `bins` equal bins of the probability of foreground.

    Bins that don't divide 1024 are equal to 1/1024.
    """
    edges = _edges(bins)
    pixels, predicted, observed = _bins(histogram.counts, histogram.totals, bins)
    return tuple(
        Reliability(low / BINS, high / BINS, int(n), float(p / n) if n else np.nan, float(o / n) if n else np.nan)
        for low, high, n, p, o in zip(
            edges[:-1].tolist(), edges[1:].tolist(), pixels, predicted, observed, strict=True
        )
    )  # fmt: skip


def _bins(
    counts: NDArray[np.float64], totals: NDArray[np.float64], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return pixels, sums of probability, and foreground pixels ``(..., bins)`` of ``(..., 2, BINS)``."""
    starts = _edges(bins)[:-1]
    coarse, sums = (np.add.reduceat(table, starts, axis=-1) for table in (counts, totals))
    return coarse.sum(axis=-2), sums.sum(axis=-2), coarse[..., 1, :]


def calibration_error(
    counts: NDArray[np.float64], totals: NDArray[np.float64], bins: int = 16
) -> NDArray[np.float64]:
    """Return the expected calibration error of the probability of foreground, in [0, 1].

    The mean over pixels of the gap between mean probability and share of foreground of their bin
    (Naeini et al. 2015, doi:10.1609/aaai.v29i1.9602). Pixels of clear background weigh by their number, so it
    is small wherever there is much of it. 0 without pixels.

    Parameters
    ----------
    counts, totals
        ``(..., 2, BINS)`` of histograms.
    """
    pixels, predicted, observed = _bins(counts, totals, bins)
    gap, n = np.abs(predicted - observed).sum(axis=-1), pixels.sum(axis=-1)
    return np.divide(gap, n, out=np.zeros_like(gap), where=n > 0)


def brier(histogram: ProbabilityHistogram) -> float:
    """Return the mean of (probability - truth) ** 2 over pixels, in [0, 1]; 0 without pixels.

    Brier (1950), doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    pixels = histogram.counts.sum()
    error = histogram.squares.sum() - 2 * histogram.totals[1].sum() + histogram.counts[1].sum()
    return float(max(error, 0.0) / pixels) if pixels else 0.0
