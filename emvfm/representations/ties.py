"""Ranks of a few values among very many, with what is tied counted apart, in one pass and little memory.

Two values count as tied when they differ by no more than a tolerance: products of identical vectors come out of
a matrix product with different last digits, depending on where in the matrix they stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOLERANCE", "TieGroups", "tie_groups"]

Floats = NDArray[np.float64]

#: Above the rounding of a product of two unit vectors of 10^4 dimensions in float64.
TOLERANCE = 1e-12


@dataclass(frozen=True)
class TieGroups:
    """Values in groups of ties, the smallest group first.

    Parameters
    ----------
    edges
        ``(2 g,)`` lower and upper edge of each group in turn, never decreasing.
    sizes
        ``(g,)`` values in each group.
    group
        ``(n,)`` group of each value, in the order given.
    """

    edges: Floats
    sizes: NDArray[np.int64]
    group: NDArray[np.int64]

    def count(self, others: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return how many of `others` ``(m,)`` lie below each group and within it, both ``(g,)``."""
        places = np.bincount(np.searchsorted(self.edges, others), minlength=len(self.edges) + 1)
        below = np.cumsum(places)
        return below[:-1:2], places[1::2]


def tie_groups(values: Floats, tolerance: float = TOLERANCE) -> TieGroups:
    """Group `values` ``(n,)``, n >= 1: neighbours in order no further apart than `tolerance` are tied."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    starts = np.r_[True, np.diff(ranked) > tolerance]
    number = np.cumsum(starts) - 1
    group = np.empty(len(values), np.int64)
    group[order] = number
    ends = np.r_[starts[1:], True]
    edges = np.stack([ranked[starts] - tolerance, ranked[ends] + tolerance], axis=1).ravel()
    return TieGroups(np.maximum.accumulate(edges), np.bincount(number), group)
