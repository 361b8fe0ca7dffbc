"""Tokens of an image that is too large for one pass: overlapping tiles, blended into one grid.

Every tile sees real neighbours beyond the part that counts most, none sees padding that the image
itself has not, and where tiles overlap their tokens are averaged with weights that fall towards a tile's
border, where a token has seen the least of its surroundings. What is in memory is one row of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["blend_weights", "stitch", "tile_starts"]


def tile_starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """Return where tiles begin so that they cover ``[0, length)``, each `overlap` or more into the one before.

    All tiles lie inside; the last one ends with the image.

    >>> tile_starts(10, 4, 1)
    (0, 3, 6)
    >>> tile_starts(11, 4, 1)
    (0, 3, 6, 7)
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"an overlap of {overlap} does not fit tiles of {tile}")
    if length <= tile:
        return (0,)
    return (*range(0, length - tile, tile - overlap), length - tile)


def blend_weights(starts: Sequence[int], tile: int, length: int) -> list[NDArray[np.float32]]:
    """Return ``(tile,)`` float32 for each tile along one axis; at every position they sum to 1.

    Towards a neighbour a weight falls linearly; at the borders of the image it does not.
    """
    tile = min(tile, length)
    place = np.arange(tile)
    raw = []
    for start in starts:
        left = place + 1 if start > 0 else np.full(tile, tile)
        right = tile - place if start + tile < length else np.full(tile, tile)
        raw.append(np.minimum(left, right).astype(np.float64))
    total = np.zeros(length)
    for start, weights in zip(starts, raw, strict=True):
        total[start : start + tile] += weights
    return [
        (weights / total[start : start + tile]).astype(np.float32)
        for start, weights in zip(starts, raw, strict=True)
    ]


def stitch(
    grid: tuple[int, int],
    tile: int,
    overlap: int,
    compute: Callable[[int, Sequence[int]], Iterator[np.ndarray]],
) -> Iterator[np.ndarray]:
    """Yield the rows of a grid of tokens from top to bottom, blended from tiles.

    Parameters
    ----------
    grid
        Rows and columns of the whole, in patches.
    tile, overlap
        Side of a tile and least overlap of two, in patches.
    compute
        Gives ``(L, min(tile, h), min(tile, w), D)`` float32 for each tile of a row of tiles: called with
        its first row of patches and the first columns of its tiles.

    Yields
    ------
    np.ndarray
        ``(L, r, w, D)`` float32; the r add up to h.
    """
    rows, columns = (tile_starts(side, tile, overlap) for side in grid)
    down, across = blend_weights(rows, tile, grid[0]), blend_weights(columns, tile, grid[1])
    band: np.ndarray | None = None
    for n, top in enumerate(rows):
        for left, weights, tokens in zip(columns, across, compute(top, columns), strict=True):
            if band is None:
                band = np.zeros((tokens.shape[0], tokens.shape[1], grid[1], tokens.shape[3]), np.float32)
            part = band[:, :, left : left + tokens.shape[2]]
            part += tokens * (down[n][:, None] * weights[None, :])[None, :, :, None]
        assert band is not None
        done = (rows[n + 1] if n + 1 < len(rows) else grid[0]) - top
        yield band[:, :done].copy()
        band = np.concatenate([band[:, done:], np.zeros_like(band[:, :done])], axis=1)
