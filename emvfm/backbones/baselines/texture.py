"""What a pixel and its neighbours say: gradients, orientation, local binary patterns, co-occurrence.

Local binary patterns: Ojala et al., IEEE TPAMI 24, 971 (2002), rotation-invariant and uniform. Co-occurrence:
Haralick et al., IEEE Trans. SMC 3, 610 (1973), averaged over four directions. Nothing changes by a quarter turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.baselines.planes import Plane, in_cells, padded

__all__ = ["binary_patterns", "coherence", "cooccurrence", "texture", "texture_names"]

Floats = NDArray[np.float64]

RADII = (1, 2, 4)
SCALES = (1.0, 2.0, 4.0)
DISTANCES = (1, 2, 4)
LEVELS = 16
_POINTS = 8
_ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
_ORIENTATIONS = 8
_CELLS = 2048  # whose matrices are in memory at once
_SAMPLE = 2**24  # pixels of a large image that percentiles are taken of
_HARALICK = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")


def texture_names() -> list[str]:
    """Return the names of what `texture` gives, in its order."""
    names = ["gradient-mean", "gradient-std", "gradient-p95", "orientation-entropy"]
    names += [f"coherence-sigma{s:g}" for s in SCALES] + [f"edge-energy-sigma{s:g}" for s in SCALES]
    names += [f"lbp-r{r}-{k}" for r in RADII for k in range(_POINTS + 2)]
    return names + [f"{what}-d{d}" for d in DISTANCES for what in _HARALICK]


def _gradients(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the differences down and right a pixel, ``(H, W)``; the borders are mirrored."""
    wide = np.pad(values, 1, mode="edge")
    half = np.float32(0.5)
    return (wide[2:, 1:-1] - wide[:-2, 1:-1]) * half, (wide[1:-1, 2:] - wide[1:-1, :-2]) * half


def coherence(
    down: NDArray[np.float32], right: NDArray[np.float32], sigma: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return coherence in [0, 1] and root of the energy of the structure tensor, each ``(H, W)``.

    Coherence is ((a - b) / (a + b))² of its eigenvalues a and b: 1 along a line, 0 in noise and where nothing is.
    """
    from scipy.ndimage import gaussian_filter

    yy, xx, yx = (gaussian_filter(p, sigma, mode="reflect") for p in (down**2, right**2, down * right))
    energy = yy + xx
    gap = (yy - xx) ** 2 + 4 * yx**2
    ratio = np.divide(gap, energy**2, out=np.zeros_like(gap), where=energy > 1e-10)
    coherent = np.clip(ratio, 0, 1).astype(np.float32)
    coherent = np.clip(ratio, 0, 1).astype(np.float32)
    return coherent, np.sqrt(np.maximum(energy, 0)).astype(np.float32)


def binary_patterns(values: NDArray[np.float32], radius: int) -> NDArray[np.uint8]:
    """Return ``(H, W)`` in 0 … 9: how many of 8 neighbours on a circle are no darker; 9 if they alternate.

    Neighbours between pixels are interpolated; the image is mirrored at its borders.
    """
    height, width = values.shape
    wide = np.pad(values, radius + 1, mode="symmetric")

    def shifted(dy: int, dx: int) -> NDArray[np.float32]:
        top, left = radius + 1 + dy, radius + 1 + dx
        return wide[top : top + height, left : left + width]

    total = np.zeros(values.shape, np.uint8)
    changes = np.zeros(values.shape, np.uint8)
    first = previous = None
    for k in range(_POINTS):
        y = round(-radius * np.sin(2 * np.pi * k / _POINTS), 5)
        x = round(radius * np.cos(2 * np.pi * k / _POINTS), 5)
        top, left = int(np.floor(y)), int(np.floor(x))
        fy, fx = y - top, x - left
        # Differences are summed, not values, so that equal pixels stay equal whatever the rounding.
        difference = np.zeros(values.shape, np.float32)
        for dy, wy in ((0, 1 - fy), (1, fy)):
            for dx, wx in ((0, 1 - fx), (1, fx)):
                if wy * wx > 0:
                    difference += np.float32(wy * wx) * (shifted(top + dy, left + dx) - values)
        bit = difference >= 0
        total += bit
        if previous is None:
            first = bit
        else:
            changes += bit != previous
        previous = bit
    changes += previous != first
    return np.where(changes <= 2, total, _POINTS + 1).astype(np.uint8)


def _shares(codes: NDArray[np.integer], n_codes: int, cell: int | None) -> Floats:
    """Return ``(n, n_codes)``: how often each code occurs in a cell."""
    cells = in_cells(codes, cell)
    places = cells + n_codes * np.arange(len(cells))[:, None]
    counts = np.bincount(places.ravel(), minlength=n_codes * len(cells))
    return counts.reshape(len(cells), n_codes) / cells.shape[1]


def _pairs(
    levels: NDArray[np.intp], distance: int, cell: int | None
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield, a direction at a time, pairs of levels in one cell as one number, and which cell it is."""
    rows, columns = levels.shape if cell is None else (cell, cell)
    h, w = levels.shape[0] // rows, levels.shape[1] // columns
    cut = levels.reshape(h, rows, w, columns)
    place = np.arange(h)[:, None, None, None] * w + np.arange(w)[None, None, :, None]
    for angle in _ANGLES:
        dy, dx = round(np.sin(angle) * distance), round(np.cos(angle) * distance)
        if dy >= rows or abs(dx) >= columns:
            continue
        left, right = max(0, -dx), max(0, dx)
        first = cut[:, : rows - dy, :, left : columns - right]
        second = cut[:, dy:, :, right : columns - left]
        pair = first * LEVELS + second
        yield pair, np.broadcast_to(place, pair.shape)


def _haralick(matrix: Floats) -> Floats:
    """Return ``(n, 6)`` of normalised symmetric ``(n, LEVELS, LEVELS)``; of an empty one, all 0."""
    i, j = np.meshgrid(np.arange(LEVELS), np.arange(LEVELS), indexing="ij")
    gap = np.abs(i - j) / (
        LEVELS - 1
    )  # of the range of intensities, so that no number is far larger than others
    mean = (matrix * i).sum(axis=(1, 2))
    variance = (matrix * (i - mean[:, None, None]) ** 2).sum(axis=(1, 2))
    product = (matrix * (i - mean[:, None, None]) * (j - mean[:, None, None])).sum(axis=(1, 2))
    logs = np.log2(matrix, out=np.zeros_like(matrix), where=matrix > 0)
    return np.stack(
        [
            (matrix * gap**2).sum(axis=(1, 2)),
            (matrix * gap).sum(axis=(1, 2)),
            (matrix / (1 + (i - j) ** 2)).sum(axis=(1, 2)),
            np.sqrt((matrix**2).sum(axis=(1, 2))),
            # A constant image resembles itself perfectly.
            np.divide(product, variance, out=np.ones_like(product), where=variance > 1e-12),
            -(matrix * logs).sum(axis=(1, 2)),
        ],
        axis=-1,
    )


def cooccurrence(unit: NDArray[np.float32], distance: int, cell: int | None = None) -> Floats:
    """Return ``(n, 6)``: contrast, dissimilarity, homogeneity, energy, correlation, entropy in bits.

    Of 16 levels of [0, 1], symmetric, each direction's statistics averaged; pairs lie within one cell.
    """
    values = unit if cell is None else padded(unit, cell)
    levels = np.minimum((values * LEVELS).astype(np.intp), LEVELS - 1)
    if cell is None:
        return _cooccurrence(levels, distance, None)
    # A band of cells at a time: each has a matrix of its own.
    step = cell * max(1, _CELLS // (levels.shape[1] // cell))
    bands = [levels[top : top + step] for top in range(0, len(levels), step)]
    return np.concatenate([_cooccurrence(band, distance, cell) for band in bands])


def _cooccurrence(levels: NDArray[np.intp], distance: int, cell: int | None) -> Floats:
    n = 1 if cell is None else levels.size // cell**2
    counts = [
        np.bincount((place * LEVELS**2 + pair).ravel(), minlength=n * LEVELS**2)
        for pair, place in _pairs(levels, distance, cell)
    ]
    if not counts:
        return np.zeros((n, len(_HARALICK)))
    matrices = np.concatenate(counts).reshape(-1, LEVELS, LEVELS)
    matrices = matrices + matrices.swapaxes(1, 2)
    total = matrices.sum(axis=(1, 2), keepdims=True)
    found = _haralick(matrices / np.maximum(total, 1))
    return np.asarray(found.reshape(-1, n, len(_HARALICK)).mean(axis=0))


def _orientation_entropy(
    down: NDArray[np.float32], right: NDArray[np.float32], strength: NDArray[np.float32], cell: int | None
) -> Floats:
    """Return the entropy in bits of the direction of edges, weighted by their strength; 0 without any."""
    angle = np.mod(np.arctan2(down, right), np.pi)
    which = np.minimum((angle * (_ORIENTATIONS / np.pi)).astype(np.intp), _ORIENTATIONS - 1)
    which, weights = in_cells(which, cell), in_cells(strength, cell)
    place = which + _ORIENTATIONS * np.arange(len(which))[:, None]
    total = np.bincount(place.ravel(), weights.ravel(), minlength=_ORIENTATIONS * len(which))
    total = total.reshape(len(which), _ORIENTATIONS)
    whole = total.sum(axis=-1, keepdims=True)
    shares = np.divide(total, whole, out=np.zeros_like(total), where=whole > 1e-10)
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(-(shares * logs).sum(axis=-1))


@dataclass(frozen=True)
class _Maps:
    """What is known of each pixel, ``(H, W)`` each, whatever cells it is summed up in."""

    down: NDArray[np.float32]
    right: NDArray[np.float32]
    strength: NDArray[np.float32]
    coherent: list[NDArray[np.float32]]
    energies: list[NDArray[np.float32]]
    patterns: list[NDArray[np.uint8]]

    @classmethod
    def of(cls, raw: NDArray[np.float32]) -> _Maps:
        down, right = _gradients(raw)
        tensors = [coherence(down, right, sigma) for sigma in SCALES]
        patterns = [binary_patterns(raw, radius) for radius in RADII]
        first, second = ([maps[i] for maps in tensors] for i in (0, 1))
        return cls(down, right, np.hypot(down, right), first, second, patterns)


def _summed_up(maps: _Maps, unit: NDArray[np.float32], cell: int | None) -> Floats:
    strength = in_cells(maps.strength, cell)
    some = strength[:, :: max(1, strength.shape[1] // _SAMPLE)]
    columns = [
        strength.mean(axis=-1, dtype=np.float64),
        strength.std(axis=-1, dtype=np.float64),
        np.percentile(some, 95, axis=-1),
        _orientation_entropy(maps.down, maps.right, maps.strength, cell),
        *(in_cells(values, cell).mean(axis=-1, dtype=np.float64) for values in maps.coherent + maps.energies),
    ]
    patterns = [_shares(codes, _POINTS + 2, cell) for codes in maps.patterns]
    haralick = [cooccurrence(unit, distance, cell) for distance in DISTANCES]
    return np.concatenate([np.stack(columns, axis=-1), *patterns, *haralick], axis=-1)


def texture(plane: Plane, *cells: int | None) -> list[Floats]:
    """Return ``(n, 58)`` for each of some sides of cells: gradients, structure tensor, patterns, co-occurrence.

    Parameters
    ----------
    cells
        Side of the cells that are described in px; None for the whole image.
    """
    maps = _Maps.of(plane.raw)
    return [_summed_up(maps, plane.unit, cell) for cell in cells]
