"""Improved precision and recall, density and coverage, from one matrix of distances.

The manifold of a set is the union of balls around its embeddings, each reaching to its k-th nearest neighbour
in the set (Kynkäänniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797). Slices of a stack are
nearly equal to their neighbours in it, so that balls hardly reach out of their own block and hold nothing of even
the same stack; with block labels a ball reaches to the k-th nearest embedding of another block. Balls hold their surface,
as in both papers; dgm-eval leaves it out, which matters only where embeddings of both sets coincide.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["Coverage", "neighbour_coverage"]

_NOTHING = float("nan")


class Coverage(NamedTuple):
    """How an evaluated set lies in the manifold of a reference set, and the other way round.

    Attributes
    ----------
    precision
        Share of evaluated embeddings within the manifold of the reference, 0 to 1.
    recall
        Share of reference embeddings within the manifold of the evaluated set, 0 to 1.
    density
        Balls of the reference that an evaluated embedding lies in, over k; 0 upwards, about 1 for one law.
    coverage
        Share of the reference's balls that hold an evaluated embedding, 0 to 1.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def _radii(
    distances: NDArray[np.float64], rows: NDArray[np.intp], labels: NDArray[np.generic], k: int
) -> NDArray[np.float64]:
    """Return the distance of each row to its k-th nearest row of another label, infinite where there is none."""
    own = labels[rows]
    apart = np.where(own[:, None] == own[None, :], np.inf, distances[np.ix_(rows, rows)])
    return np.partition(apart, k - 1, axis=1)[:, k - 1]


def neighbour_coverage(
    distances: NDArray[np.float64],
    reference: ArrayLike,
    evaluated: ArrayLike,
    *,
    k: int = 5,
    labels: ArrayLike | None = None,
) -> Coverage:
    """Return precision, recall, density and coverage of two subsets of rows.

    Parameters
    ----------
    distances
        ``(N, N)`` distances or squared distances of all rows; balls are closed.
    reference, evaluated
        Row indices. Where a row has no k-th neighbour in its own set, all four are NaN.
    k
        Which nearest neighbour reaches the radius, 1 or more.
    labels
        Length N: block of each row; rows of one block are no neighbours. Without it every other row may be one,
        which is the published definition.
    """
    if k < 1:
        raise UsageError("not a number of neighbours", where="k", got=k, expected="1 or more")
    a, b = np.asarray(reference), np.asarray(evaluated)
    nothing = Coverage(_NOTHING, _NOTHING, _NOTHING, _NOTHING)
    if min(len(a), len(b)) <= k:
        return nothing
    block = np.arange(len(distances)) if labels is None else np.asarray(labels)
    across = distances[np.ix_(a, b)]
    radii_a, radii_b = _radii(distances, a, block, k), _radii(distances, b, block, k)
    if np.isinf(radii_a).any() or np.isinf(radii_b).any():
        return nothing
    in_reference, in_evaluated = across <= radii_a[:, None], across <= radii_b[None, :]
    return Coverage(
        precision=float(in_reference.any(axis=0).mean()),
        recall=float(in_evaluated.any(axis=1).mean()),
        density=float(in_reference.sum(axis=0).mean() / k),
        coverage=float(in_reference.any(axis=1).mean()),
    )
