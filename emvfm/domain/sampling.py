"""Which rows are drawn from more than can be used: whole blocks of slices, and equal numbers of patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["draw_blocks", "equal_shares", "evenly_spread"]


def equal_shares(available: Sequence[int], total: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return how many to take from each so that all give the same number, or all they have.

    Parameters
    ----------
    available
        How many each has.
    total
        How many in all; fewer where there are not so many.

    Returns
    -------
    ``(n,)``; two that both have more than they give differ by one at most. Who gives the one more where
    `total` can't be divided is drawn.
    """
    capacity = np.asarray(available, np.intp)
    taken = np.zeros_like(capacity)
    left = min(int(total), int(capacity.sum()))
    while left > 0:
        giving = np.flatnonzero(taken < capacity)
        if left < len(giving):
            taken[rng.choice(giving, left, replace=False)] += 1
            break
        more = np.minimum(capacity[giving] - taken[giving], left // len(giving))
        taken[giving] += more
        left -= int(more.sum())
    return taken


def draw_blocks(blocks: ArrayLike, at_most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return rows of whole blocks, drawn until another one would be too many, in their order.

    Parameters
    ----------
    blocks
        Block label of each row.
    at_most
        Rows; if no block is small enough, the first `at_most` of the block drawn first.

    Raises
    ------
    UsageError
        `at_most` is below 1.
    """
    labels = np.asarray(blocks)
    if at_most < 1:
        raise UsageError("nothing to draw", got=at_most, expected="1 row or more")
    if len(labels) <= at_most:
        return np.arange(len(labels))
    drawn = [np.flatnonzero(labels == label) for label in rng.permutation(np.unique(labels))]
    chosen: list[NDArray[np.intp]] = []
    for members in drawn:
        if sum(map(len, chosen)) + len(members) <= at_most:
            chosen.append(members)
    return np.sort(np.concatenate(chosen)) if chosen else drawn[0][:at_most]


def evenly_spread(positions: Sequence[float], n: int) -> list[int]:
    """Return the indices of at most `n` of these positions, spread evenly from the inside of their order.

    Parameters
    ----------
    positions
        Such as the z of the slices of a stack, in any order.
    """
    order = np.argsort(np.asarray(positions, np.float64), kind="stable")
    n = min(n, len(order))
    return [int(order[int((i + 0.5) * len(order) / n)]) for i in range(n)]
