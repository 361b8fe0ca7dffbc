r"""Kernel distances: the unbiased squared maximum mean discrepancy, from one kernel matrix.

.. math:: \widehat{MMD}^2 = \overline{k(x, x')}_{x \ne x'} + \overline{k(y, y')}_{y \ne y'} - 2\,\overline{k(x, y)}

(Gretton et al. 2012, JMLR 13:723). With the cubic kernel it is the kernel inception distance (Bińkowski et al.
2018, arXiv:1801.01401); with minus the Euclidean distance as kernel it is the energy distance (Székely & Rizzo
2013, doi:10.1016/j.jspi.2013.03.018; Sejdinovic et al. 2013, arXiv:1207.6076). The matrix of all rows is computed
once; every permutation, half and jackknife is a matter of index arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.domain.frechet import gram
from emvfm.errors import UsageError

__all__ = [
    "SubsetMean",
    "energy_kernel",
    "median_gamma",
    "mmd2",
    "mmd2_between_blocks",
    "mmd2_of_subsets",
    "polynomial_kernel",
    "rbf_kernel",
    "squared_distances",
]

Floats = NDArray[np.float64]


def squared_distances(*sets: ArrayLike) -> Floats:
    """Return ``(N, N)`` squared Euclidean distances between all rows of ``(n_i, D)`` embeddings.

    Raises
    ------
    UsageError
        Fewer than two rows in a set, different D, or values that are not finite.
    """
    products = gram(*sets)  # centred, so that distances between far embeddings do not cancel
    squares = np.diag(products)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0)
    np.fill_diagonal(distances, 0)
    return distances


def polynomial_kernel(
    *sets: ArrayLike, degree: int = 3, gamma: float | None = None, coefficient: float = 1.0
) -> Floats:
    """Return ``(N, N)`` values of ``(gamma x·y + coefficient)^degree``; `gamma` is 1/D without it."""
    gram(*sets)  # its checks
    joint = np.concatenate([np.asarray(x, np.float64) for x in sets])
    scale = 1 / joint.shape[1] if gamma is None else gamma
    return np.asarray((scale * (joint @ joint.T) + coefficient) ** degree)


def median_gamma(distances: Floats) -> float:
    """Return ``1 / (2 m)``, m the median of the squared distances of different rows (the median heuristic).

    Raises
    ------
    UsageError
        More than half of the pairs coincide.
    """
    middle = float(np.median(distances[np.triu_indices(len(distances), 1)]))
    if middle <= 0:
        raise UsageError("most embeddings coincide, so the median heuristic has no scale")
    return 1 / (2 * middle)


def rbf_kernel(distances: Floats, gamma: float) -> Floats:
    """Return ``exp(-gamma d²)`` of a matrix from `squared_distances`."""
    return np.exp(-gamma * distances)


def energy_kernel(distances: Floats) -> Floats:
    """Return minus the Euclidean distances: `mmd2` of it is the unbiased (squared) energy distance."""
    return -np.sqrt(distances)


def mmd2(kernel: Floats, first: ArrayLike, second: ArrayLike) -> float:
    """Return the unbiased squared discrepancy of two subsets of rows; it may be negative.

    Parameters
    ----------
    kernel
        ``(N, N)``, symmetric.
    first, second
        Row indices, at least 2 each.
    """
    a, b = np.asarray(first), np.asarray(second)
    own = 0.0
    for rows in (a, b):
        inner = kernel[np.ix_(rows, rows)]
        own += (inner.sum() - np.trace(inner)) / (len(rows) * (len(rows) - 1))
    return float(own - 2 * kernel[np.ix_(a, b)].mean())


def mmd2_between_blocks(kernel: Floats, first: ArrayLike, second: ArrayLike, labels: ArrayLike) -> float:
    """Return the squared discrepancy without pairs of rows of one block; NaN where a subset is a single block.

    Neighbouring slices are nearly equal, so pairs within a block lift `mmd2` of any two stacks above nought.
    Without them the expectation is nought under the same law also when rows of a block depend on each other.

    Parameters
    ----------
    labels
        Length N: block of each row.
    """
    a, b = np.asarray(first), np.asarray(second)
    block = np.asarray(labels)
    own = 0.0
    for rows in (a, b):
        apart = block[rows][:, None] != block[rows][None, :]
        if not apart.any():
            return float("nan")
        own += float(kernel[np.ix_(rows, rows)][apart].mean())
    return float(own - 2 * kernel[np.ix_(a, b)].mean())


@dataclass(frozen=True)
class SubsetMean:
    """Mean and standard deviation (ddof 0, as published) of `mmd2` over subsets of `size` rows of each set."""

    mean: float
    deviation: float
    size: int
    subsets: int
    seed: int


def mmd2_of_subsets(
    kernel: Floats,
    first: ArrayLike,
    second: ArrayLike,
    *,
    size: int = 1000,
    subsets: int = 100,
    seed: int = 0,
) -> SubsetMean:
    """Average `mmd2` over random subsets, which is how the kernel inception distance is published.

    Averages over blocks of the data are the B-test of Zaremba et al. (2013, arXiv:1307.1954). Subsets share rows
    and slices depend on their neighbours, so the deviation is not a standard error.

    Parameters
    ----------
    size
        Rows of a subset; cut to the smaller set.
    """
    a, b = np.asarray(first), np.asarray(second)
    size = min(size, len(a), len(b))
    if size < 2:
        raise UsageError("too few embeddings", got=size, expected="2 or more of each set")
    rng = np.random.default_rng(seed)
    values = [mmd2(kernel, rng.permutation(a)[:size], rng.permutation(b)[:size]) for _ in range(subsets)]
    return SubsetMean(float(np.mean(values)), float(np.std(values)), size, subsets, seed)
