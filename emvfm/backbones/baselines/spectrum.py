"""How the variance of an image is shared out over spatial frequencies."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.baselines.planes import Plane, cells_of, padded

__all__ = ["EDGES", "band_powers", "spectrum", "spectrum_names"]

#: Borders of the bands in cycles a pixel: octaves of what only large images resolve, then what a cell of 16 px does.
EDGES = (0.0, 1 / 256, 1 / 128, 1 / 64, 1 / 32, *((k + 0.5) / 16 for k in range(1, 8)), np.inf)
_FLOOR = 1e-6  # share of the variance below which a band is empty
_NOTHING = 1e-12  # variance below which there is nothing to share out
_TILE = 1024  # px a side of the parts of a large image whose spectra are averaged (Welch 1967)


def spectrum_names() -> list[str]:
    """Return the names of what `spectrum` gives, in its order."""
    return ["log-variance", *(f"band{i}" for i in range(len(EDGES) - 1))]


def _hann(n: int) -> NDArray[np.float64]:
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n))


def band_powers(tiles: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ``(n, 12)``: the variance of each of ``(n, H, W)`` tiles within the bands of `EDGES`.

    The tile less its mean is weighted by a Hann window, so that its borders are no edges. The bands add up
    to the variance so weighted (Parseval).
    """
    import scipy.fft

    n, height, width = tiles.shape
    window = np.outer(_hann(height), _hann(width))
    weights = window**2 / (window**2).sum()
    centred = tiles - tiles.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    windowed = centred * np.sqrt(weights * height * width)
    power = np.abs(scipy.fft.rfft2(windowed)) ** 2 / (height * width) ** 2
    # A column of the half spectrum stands for two, but for the first and an even width's last.
    twice = np.full(power.shape[-1], 2.0)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    frequency = np.hypot(scipy.fft.fftfreq(height)[:, None], scipy.fft.rfftfreq(width)[None, :])
    band = np.digitize(frequency.ravel(), EDGES[1:-1])
    flat = (power * twice).reshape(n, -1)
    return np.stack([flat[:, band == k].sum(axis=-1) for k in range(len(EDGES) - 1)], axis=-1)


def _described(powers: NDArray[np.float64]) -> NDArray[np.float64]:
    total = powers.sum(axis=-1, keepdims=True)
    shares = np.divide(powers, total, out=np.zeros_like(powers), where=total > _NOTHING)
    logs = [np.log10(np.maximum(total, _NOTHING)), np.log10(np.maximum(shares, _FLOOR))]
    return np.concatenate(logs, axis=-1)


def _parts(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the image, or equal parts of a large one that are at most `_TILE` a side."""
    rows, columns = (np.linspace(0, side, -(-side // _TILE) + 1).astype(int) for side in values.shape)
    return [
        values[top:bottom, left:right] for top, bottom in pairwise(rows) for left, right in pairwise(columns)
    ]


def spectrum(plane: Plane, cell: int | None = None) -> NDArray[np.float64]:
    """Return ``(n, 13)``: log10 of the variance, and of its share in each band of `EDGES` (at least -6).

    Parameters
    ----------
    cell
        Side of the cells that are described in px; the whole image without it.
    """
    if cell is None:
        parts = _parts(plane.raw)
        sizes = np.array([part.size for part in parts], np.float64)
        powers = np.concatenate([band_powers(part[None]) for part in parts])
        return _described((sizes @ powers / sizes.sum())[None])
    tiles = cells_of(padded(plane.raw, cell), cell).reshape(-1, cell, cell)
    return _described(band_powers(tiles))
