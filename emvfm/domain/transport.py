r"""The sliced Wasserstein distance: optimal transport along random directions, averaged.

.. math:: SW_p = \left(\frac1P \sum_{i=1}^{P} W_p^p(\theta_i^T x, \theta_i^T y)\right)^{1/p}

(Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3). In one dimension transport is the sorting of both sets.
Like the Fréchet distance it is biased upwards at small n.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.domain.frechet import gram
from emvfm.errors import UsageError

__all__ = ["SlicedWasserstein"]


def _shared_levels(n: int, m: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return which sorted values of n and of m face each other in optimal transport, and with which mass."""
    # In units of 1 / (n m), so that levels which coincide do so exactly.
    ends = np.unique(np.concatenate([np.arange(1, n + 1) * m, np.arange(1, m + 1) * n]))
    masses = np.diff(ends, prepend=0) / (n * m)
    return (ends - 1) // m, (ends - 1) // n, masses


class SlicedWasserstein:
    """The distance between subsets of rows; all rows are projected and sorted once.

    Parameters
    ----------
    sets
        ``(n_i, D)`` embeddings; rows are numbered through.
    projections
        Directions, drawn evenly from the sphere.
    order
        The p of the formula, 1 or 2.
    seed
        Of the directions.

    Raises
    ------
    UsageError
        Sets that do not fit together, or another order.
    """

    def __init__(self, *sets: ArrayLike, projections: int = 128, order: int = 2, seed: int = 0) -> None:
        if order not in (1, 2):
            raise UsageError("not an order of transport", where="order", got=order, expected="1 or 2")
        gram(*sets)  # its checks
        joint = np.concatenate([np.asarray(x, np.float64) for x in sets])
        directions = np.random.default_rng(seed).normal(size=(projections, joint.shape[1]))
        self.directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        self.order = order
        projected = self.directions @ joint.T
        self._order_of_rows = np.argsort(projected, axis=1)
        self._sorted = np.take_along_axis(projected, self._order_of_rows, axis=1)

    def _of(self, rows: ArrayLike) -> NDArray[np.float64]:
        """Return ``(projections, n)``: the projections of some rows, increasing."""
        chosen = np.zeros(self._sorted.shape[1], bool)
        chosen[np.asarray(rows)] = True
        return self._sorted[chosen[self._order_of_rows]].reshape(len(self._sorted), -1)

    def per_projection(self, first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
        """Return ``W_p^p`` along each direction, ``(projections,)``; rows must not repeat within a subset."""
        x, y = self._of(first), self._of(second)
        i, j, masses = _shared_levels(x.shape[1], y.shape[1])
        return (np.abs(x[:, i] - y[:, j]) ** self.order) @ masses

    def __call__(self, first: ArrayLike, second: ArrayLike) -> float:
        return float(self.per_projection(first, second).mean() ** (1 / self.order))
