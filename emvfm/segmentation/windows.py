"""Windows over an image of any size, and the blend of what a model says in them, in bounded memory.

Every window lies inside the image: at a border it is moved inwards, not padded. A border pixel then sees real
neighbours on all sides that have any, while a reflected surround would show the model structures that are not
there. Only an image that is smaller than a window, or no whole number of cells, is completed by reflection,
as it was for training; that is the caller's part.

Where windows overlap, each gives most weight to what lies in its middle: a Gaussian, as in nnU-Net
(doi:10.1038/s41592-020-01008-z). Along an inner border the outermost quarter of the overlap counts for nothing,
so that a model whose answer depends on no pixel further away than that gives the same for every tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Axis", "Band", "Plan", "blend", "plan"]

Floats = NDArray[np.float32]

#: Standard deviation of the Gaussian as a share of a window's side.
SIGMA = 1 / 8
#: Share of the overlap along an inner border that gives context only.
CONTEXT = 1 / 4


@dataclass(frozen=True)
class Axis:
    """The windows along one axis, in pixels.

    Attributes
    ----------
    length
        Of the image.
    window
        Of every window, at most `length`.
    starts
        First pixel of each; strictly ascending.
    weights
        ``(window,)`` float32 in [0, 1] for each; at every pixel of the image those that cover it sum to 1.
    """

    length: int
    window: int
    starts: tuple[int, ...]
    weights: tuple[Floats, ...]


@dataclass(frozen=True)
class Plan:
    """Windows over an image: every pair of `rows` and `columns`."""

    rows: Axis
    columns: Axis

    @property
    def count(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)


@dataclass(frozen=True)
class Band:
    """Rows of the blended image that no further window touches.

    Attributes
    ----------
    row
        Index of the row of windows that finished them.
    top
        First of the rows in the image.
    values
        ``(r, W)`` float32.
    carry
        ``(n, W)`` float32: sums of the rows below, to go on from after an interruption.
    """

    row: int
    top: int
    values: Floats
    carry: Floats


def _starts(length: int, window: int, overlap: int, cell: int) -> tuple[int, ...]:
    """Return where windows begin: on whole cells, `overlap` or more shared, the last ends with the image."""
    if length <= window:
        return (0,)
    step = max(cell, (window - overlap) // cell * cell)
    return (*range(0, length - window, step), length - window)


def _axis(length: int, window: int, overlap: int, cell: int) -> Axis:
    starts = _starts(length, window, overlap, cell)
    window = min(window, length)
    place = np.arange(window) + 0.5
    bell = np.exp(-0.5 * ((place - window / 2) / (SIGMA * window)) ** 2)
    shared = min((a + window - b for a, b in pairwise(starts)), default=0)
    context = int(shared * CONTEXT)
    raw = []
    for start in starts:
        weights = bell.copy()
        if start > 0:
            weights[:context] = 0
        if start + window < length:
            weights[window - context :] = 0
        raw.append(weights)
    total = np.zeros(length)
    for start, weights in zip(starts, raw, strict=True):
        total[start : start + window] += weights
    normal = (weights / total[start : start + window] for start, weights in zip(starts, raw, strict=True))
    return Axis(length, window, starts, tuple(weights.astype(np.float32) for weights in normal))


def plan(size: tuple[int, int], tile: int, overlap: int, cell: int = 1) -> Plan:
    """Return the windows that cover an image.

    Parameters
    ----------
    size
        Height and width in px, multiples of `cell`.
    tile
        Side of a window in px, a multiple of `cell`; a shorter side of the image is taken whole.
    overlap
        Pixels that neighbours share at the least, from 0 to less than `tile`; fewer where windows could then
        not begin on whole cells.
    cell
        Windows begin on multiples of this many pixels: the patch of a transformer, so that every tile cuts
        the image into the same patches.

    Raises
    ------
    ValueError
        The numbers do not fit together.
    """
    if cell < 1 or tile < cell or tile % cell or not 0 <= overlap < tile:
        raise ValueError(f"windows of {tile} px that share {overlap}, in cells of {cell} px")
    if min(size) < 1 or any(side % cell for side in size):
        raise ValueError(f"an image of {size[0]} x {size[1]} px in cells of {cell} px")
    return Plan(*(_axis(side, tile, overlap, cell) for side in size))


def blend(
    windows: Plan,
    compute: Callable[[int, Sequence[int]], Iterable[np.ndarray]],
    *,
    first: int = 0,
    carry: Floats | None = None,
) -> Iterator[Band]:
    """Yield the blended image from top to bottom; what is in memory is one row of windows.

    Parameters
    ----------
    compute
        Gives ``(h, w)`` float32 for each window of a row: called with its first row of pixels and with the
        first columns of its windows.
    first, carry
        Row of windows to begin with, and the `Band.carry` of the one before.
    """
    rows, columns = windows.rows, windows.columns
    sums = np.zeros((rows.window, columns.length), np.float32)
    if carry is not None:
        sums[: len(carry)] = carry
    for n in range(first, len(rows.starts)):
        top, down = rows.starts[n], rows.weights[n][:, None]
        answers = compute(top, columns.starts)
        for left, across, values in zip(columns.starts, columns.weights, answers, strict=True):
            sums[:, left : left + columns.window] += values * down * across
        done = (rows.starts[n + 1] if n + 1 < len(rows.starts) else rows.length) - top
        rest = sums[done:].copy()
        yield Band(n, top, sums[:done].copy(), rest)
        sums[: len(rest)] = rest
        sums[len(rest) :] = 0
