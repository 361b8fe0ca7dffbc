"""What single pixels say, wherever they are: moments, percentiles, histograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.baselines.planes import Plane, in_cells

__all__ = [
    "BINS",
    "correlation_names",
    "correlations",
    "histogram",
    "histogram_names",
    "intensity",
    "intensity_names",
]

BINS = 32
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_SAMPLE = 2**24  # pixels of a large image that percentiles are taken of

Floats = NDArray[np.float64]


def intensity_names() -> list[str]:
    """Return the names of what `intensity` gives, in its order."""
    return ["mean", "std", "min", "max", *(f"p{p}" for p in PERCENTILES), "skewness", "kurtosis", "entropy",
            "foreground"]  # fmt: skip


def _moments(values: NDArray[np.float32]) -> list[Floats]:
    """Return mean, deviation, skewness and excess kurtosis along the last axis; 0 for what is constant."""
    mean = values.mean(axis=-1, dtype=np.float64)
    centred = values - mean[:, None].astype(np.float32)
    squares = centred * centred
    variance = squares.mean(axis=-1, dtype=np.float64)
    third = (squares * centred).mean(axis=-1, dtype=np.float64)
    fourth = (squares * squares).mean(axis=-1, dtype=np.float64)
    # Rounding of float32 is no spread.
    spread = variance > (4 * np.finfo(np.float32).eps * np.abs(values).max(axis=-1)) ** 2
    safe = np.where(spread, variance, 1.0)
    std = np.sqrt(np.where(spread, variance, 0.0))
    return [
        mean,
        std,
        np.where(spread, third / safe**1.5, 0.0),
        np.where(spread, fourth / safe**2 - 3, 0.0),
    ]


def _counts(unit: NDArray[np.float32]) -> Floats:
    """Return ``(n, BINS)`` shares of values in equal bins of [0, 1]."""
    which = np.minimum((unit * BINS).astype(np.intp), BINS - 1)
    which += BINS * np.arange(len(unit))[:, None]
    counts = np.bincount(which.ravel(), minlength=BINS * len(unit)).reshape(len(unit), BINS)
    return counts / unit.shape[1]


def _entropy(shares: Floats) -> Floats:
    """Return the entropy in bits."""
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(-(shares * logs).sum(axis=-1))


def _above_otsu(shares: Floats) -> Floats:
    """Return the share above Otsu's threshold (IEEE Trans. SMC 9, 62, 1979); 0 where all is in one bin."""
    centres = (np.arange(BINS) + 0.5) / BINS
    below = np.cumsum(shares, axis=-1)[:, :-1]
    first = np.cumsum(shares * centres, axis=-1)
    total, first = first[:, -1:], first[:, :-1]
    product = below * (1 - below)
    gap = (total * below - first) ** 2
    between = np.divide(gap, product, out=np.zeros_like(gap), where=product > 1e-12)
    best = between.argmax(axis=-1)
    return np.where(between.max(axis=-1) > 1e-12, 1 - below[np.arange(len(below)), best], 0.0)


def intensity(plane: Plane, cell: int | None = None) -> Floats:
    """Return ``(n, 15)``: moments, extremes, percentiles, entropy in bits, and foreground by Otsu.

    Parameters
    ----------
    cell
        Side of the cells that are described, row by row, in px; the whole image without it.
    """
    raw, shares = in_cells(plane.raw, cell), _counts(in_cells(plane.unit, cell))
    mean, std, skewness, kurtosis = _moments(raw)
    some = raw[:, :: max(1, raw.shape[1] // _SAMPLE)]
    percentiles = np.percentile(some, PERCENTILES, axis=-1)
    columns = [mean, std, raw.min(axis=-1), raw.max(axis=-1), *percentiles, skewness, kurtosis]
    return np.stack([*columns, _entropy(shares), _above_otsu(shares)], axis=-1).astype(np.float64)


def histogram_names() -> list[str]:
    """Return the names of what `histogram` gives, in its order."""
    return [f"bin{i}" for i in range(BINS)]


def histogram(plane: Plane, cell: int | None = None) -> Floats:
    """Return ``(n, 32)``: the share of pixels in equal bins, which add up to 1."""
    return _counts(in_cells(plane.unit, cell))


def correlation_names(channels: int) -> list[str]:
    """Return the names of what `correlations` gives, in its order."""
    return [f"correlation{i}x{j}" for i in range(channels) for j in range(i + 1, channels)]


def correlations(planes: Sequence[Plane], cell: int | None = None) -> Floats:
    """Return ``(n, C (C - 1) / 2)``: Pearson correlations between channels; 0 with a constant one."""
    values = np.stack([in_cells(plane.raw, cell) for plane in planes])
    std = np.stack([_moments(v)[1] for v in values])
    values = values - values.mean(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)
    pairs = [(i, j) for i in range(len(planes)) for j in range(i + 1, len(planes))]
    found = np.zeros((values.shape[1], len(pairs)))
    for column, (i, j) in enumerate(pairs):
        product, scale = (values[i] * values[j]).mean(axis=-1, dtype=np.float64), std[i] * std[j]
        found[:, column] = np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)
    return np.clip(found, -1, 1)
