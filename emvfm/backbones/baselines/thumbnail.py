"""An image as a few pixels: each the mean of the area it covers."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.baselines.planes import Plane, cells_of, padded

__all__ = ["SIDE", "thumbnail", "thumbnail_names"]

SIDE = 16


@functools.lru_cache(maxsize=32)
def _averaging(n: int, side: int) -> NDArray[np.float32]:
    """Return ``(side, n)``: weights of the means over `side` equal parts of `n` pixels, which may cut pixels."""
    edges = np.arange(side + 1) * (n / side)
    starts = np.arange(n)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return (np.clip(overlap, 0, None) * (side / n)).astype(np.float32)


def thumbnail_names() -> list[str]:
    """Return the names of what `thumbnail` gives, in its order."""
    return [f"pixel{y}x{x}" for y in range(SIDE) for x in range(SIDE)]


def thumbnail(plane: Plane, cell: int | None = None) -> NDArray[np.float64]:
    """Return ``(n, 256)``: the image, or each cell of it, averaged to 16 x 16 px, row by row."""
    if cell is None:
        small = _averaging(plane.raw.shape[0], SIDE) @ plane.raw @ _averaging(plane.raw.shape[1], SIDE).T
        return small.reshape(1, -1).astype(np.float64)
    tiles = cells_of(padded(plane.raw, cell), cell).reshape(-1, cell, cell)
    weights = _averaging(cell, SIDE)
    return np.asarray((weights @ tiles @ weights.T).reshape(len(tiles), -1), np.float64)
