r"""The Fréchet distance between two sets of embeddings, each summarised by its mean and covariance.

.. math:: d^2 = |\mu_1 - \mu_2|^2 + \operatorname{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})

(Dowson & Landau 1982, doi:10.1016/0047-259X(82)90077-X). The last trace is computed from eigenvalues of a
symmetric product, or, where there are fewer embeddings than dimensions, from the singular values of the
product of the centred data, which is exact and much smaller. No matrix square root, nothing added to the
diagonal. The estimate is biased upwards at small n: compare distances at equal n, and against their null.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["frechet_distance", "frechet_from_gram", "frechet_from_moments", "gram"]

Floats = NDArray[np.float64]


def _checked(x: ArrayLike, name: str) -> Floats:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise UsageError(
            "not a set of embeddings", where=name, got=values.shape, expected="(n, D) with n >= 2"
        )
    if not np.isfinite(values).all():
        raise UsageError("embeddings are not finite", where=name)
    return values


def _same_length(*sets: Floats) -> None:
    if len({x.shape[1] for x in sets}) > 1:
        raise UsageError("embeddings of different length", got=" and ".join(str(x.shape[1]) for x in sets))


def _covariance(x: Floats) -> Floats:
    return np.atleast_2d(np.cov(x, rowvar=False))  # numpy drops the axes of a single dimension


def frechet_from_moments(mean1: Floats, cov1: Floats, mean2: Floats, cov2: Floats) -> float:
    """Return the squared distance from means ``(D,)`` and covariances ``(D, D)``."""
    values, vectors = np.linalg.eigh(cov1)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    product = np.linalg.eigvalsh(root.T @ cov2 @ root)
    cross = np.sqrt(np.clip(product, 0, None)).sum()
    distance = ((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross
    return max(0.0, float(distance))


def gram(*sets: ArrayLike) -> Floats:
    """Return the ``(N, N)`` Gram matrix of all embeddings, after subtracting their common mean.

    Any distance between subsets of the rows follows from it, see `frechet_from_gram`.
    """
    checked = [_checked(x, f"set {i + 1}") for i, x in enumerate(sets)]
    _same_length(*checked)
    joint = np.concatenate(checked)
    joint = joint - joint.mean(axis=0)
    return joint @ joint.T


def frechet_from_gram(matrix: Floats, first: ArrayLike, second: ArrayLike) -> float:
    """Return the squared distance between two subsets of rows, from their Gram matrix alone.

    Parameters
    ----------
    matrix
        ``(N, N)`` from `gram`.
    first, second
        Row indices, at least 2 each; covariances have ddof 1.
    """
    a, b = np.asarray(first), np.asarray(second)
    aa, bb, ab = matrix[np.ix_(a, a)], matrix[np.ix_(b, b)], matrix[np.ix_(a, b)]
    means = aa.mean() + bb.mean() - 2 * ab.mean()
    trace1 = (np.trace(aa) - aa.mean() * len(a)) / (len(a) - 1)
    trace2 = (np.trace(bb) - bb.mean() * len(b)) / (len(b) - 1)
    centred = ab - ab.mean(axis=0) - ab.mean(axis=1, keepdims=True) + ab.mean()
    # tr (S1 S2)^(1/2) is the nuclear norm of X1c X2c^T over sqrt((n-1)(m-1)).
    cross = np.linalg.svd(centred, compute_uv=False).sum() / np.sqrt((len(a) - 1) * (len(b) - 1))
    return max(0.0, float(means + trace1 + trace2 - 2 * cross))


def frechet_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Return the squared Fréchet distance between ``(n, D)`` and ``(m, D)`` embeddings, ddof 1, float64.

    Raises
    ------
    UsageError
        Fewer than two embeddings, different D, or values that are not finite.
    """
    a, b = _checked(x, "first set"), _checked(y, "second set")
    _same_length(a, b)
    if min(len(a), len(b)) <= a.shape[1]:
        return frechet_from_gram(gram(a, b), np.arange(len(a)), len(a) + np.arange(len(b)))
    return frechet_from_moments(a.mean(axis=0), _covariance(a), b.mean(axis=0), _covariance(b))
