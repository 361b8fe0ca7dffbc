r"""The Fréchet distance between two sets of embeddings, each summarised by its mean and covariance.

.. math:: d^2 = |\mu_1 - \mu_2|^2 + \operatorname{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})

(Dowson & Landau 1982, doi:10.1016/0047-259X(82)90077-X). The last trace is computed from eigenvalues of a
symmetric product, or, where there are fewer embeddings than dimensions, from the singular values of the
product of the centred data, which is exact and much smaller. No matrix square root, nothing added to the
diagonal. The estimate is biased upwards at small n: compare distances at equal n, and against their null, or
extrapolate to infinite n (Chong & Forsyth 2020, arXiv:1911.07023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = [
    "Extrapolation",
    "FrechetAtInfinity",
    "ShrunkFrechet",
    "frechet_distance",
    "frechet_from_gram",
    "frechet_from_moments",
    "gram",
    "ledoit_wolf_from_gram",
]

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


def _trace_of_root(cov1: Floats, cov2: Floats) -> float:
    """Return the trace of the square root of the product of two covariances."""
    try:
        root = np.linalg.cholesky(cov1)  # any root will do, and this one is by far the cheapest
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(cov1)
        root = vectors * np.sqrt(np.clip(values, 0, None))
    product = np.linalg.eigvalsh(root.T @ cov2 @ root)
    return float(np.sqrt(np.clip(product, 0, None)).sum())


def frechet_from_moments(mean1: Floats, cov1: Floats, mean2: Floats, cov2: Floats) -> float:
    """Return the squared distance from means ``(D,)`` and covariances ``(D, D)``."""
    cross = _trace_of_root(cov1, cov2)
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


def ledoit_wolf_from_gram(matrix: Floats, rows: ArrayLike, dimension: int) -> float:
    """Return Ledoit and Wolf's shrinkage in 0 to 1 of the covariance of some rows, from their Gram matrix alone.

    The formula (2004, doi:10.1016/S0047-259X(03)00096-4) holds sums over rows and squared norms only; neither
    changes with the basis, so no ``(D, D)`` matrix is needed.
    """
    own = matrix[np.ix_(np.asarray(rows), np.asarray(rows))]
    n = len(own)
    centred = own - own.mean(axis=0) - own.mean(axis=1, keepdims=True) + own.mean()
    trace, squares = np.trace(centred) / n, float((centred**2).sum()) / n**2
    spread = (float((np.diag(centred) ** 2).sum()) / n - squares) / n
    distance = squares - trace**2 / dimension
    return float(np.clip(spread / distance, 0, 1)) if distance > 1e-12 * squares else 1.0


class ShrunkFrechet:
    """The squared distance between subsets of rows, each covariance shrunk towards a multiple of the identity.

    Covariances are ``(1 - s) S + s tr(S) / D I`` with S of ddof 1 and s from `ledoit_wolf_from_gram`. All rows
    lie in a space of at most N dimensions; outside of it both covariances are multiples of the identity, whose
    part is known, so the eigenvalues are those of an ``(N, N)`` matrix however large D is.

    Parameters
    ----------
    sets
        ``(n_i, D)`` embeddings; rows are numbered through.
    """

    def __init__(self, *sets: ArrayLike) -> None:
        self.matrix = gram(*sets)
        self.dimension = np.shape(sets[0])[1]
        values, vectors = np.linalg.eigh(self.matrix)
        kept = values > 1e-12 * max(float(values[-1]), 1e-300)
        self._coordinates = vectors[:, kept] * np.sqrt(values[kept])

    def shrinkage(self, rows: ArrayLike) -> float:
        return ledoit_wolf_from_gram(self.matrix, rows, self.dimension)

    def __call__(self, first: ArrayLike, second: ArrayLike) -> float:
        outside = self.dimension - self._coordinates.shape[1]
        means, covariances, levels = [], [], []
        for rows in (first, second):
            own, share = self._coordinates[np.asarray(rows)], self.shrinkage(rows)
            covariance = _covariance(own)
            level = share * float(np.trace(covariance)) / self.dimension
            means.append(own.mean(axis=0))
            covariances.append((1 - share) * covariance + level * np.eye(len(covariance)))
            levels.append(level)
        within = ((means[0] - means[1]) ** 2).sum() + sum(float(np.trace(c)) for c in covariances)
        within -= 2 * _trace_of_root(*covariances)
        return max(0.0, float(within + outside * (np.sqrt(levels[0]) - np.sqrt(levels[1])) ** 2))


@dataclass(frozen=True)
class Extrapolation:
    """A line through distances of subsamples against 1/n: where it meets 1/n = 0 is the value.

    Attributes
    ----------
    value, slope
        Of the least-squares line.
    r2
        Share of the variance that the line explains; a low one says that the value is not to be trusted.
    inverse_n, distances
        The points: mean of 1/n and 1/m of the subsamples, and their squared Fréchet distance.
    """

    value: float
    slope: float
    r2: float
    inverse_n: tuple[float, ...]
    distances: tuple[float, ...]


class FrechetAtInfinity:
    """The squared Fréchet distance extrapolated to infinitely many embeddings (arXiv:1911.07023).

    The bias of the distance falls with 1/n, so a line through the distances of subsamples of a third up to all
    of the blocks of either set meets 1/n = 0 at an estimate with little bias. It may be negative.

    Parameters
    ----------
    matrix
        ``(N, N)`` from `frechet.gram`.
    labels
        Length N: block of each row; no block spans both sets. Subsamples are whole blocks.
    points
        Subsamples on the line.
    seed
        Decides which blocks a subsample of a given size prefers. The preference is one for all calls, so that
        leaving out a block changes no more than it must.
    """

    def __init__(self, matrix: Floats, labels: ArrayLike, *, points: int = 15, seed: int = 0) -> None:
        self.matrix = matrix
        names, self.labels = np.unique(np.asarray(labels), return_inverse=True)
        self._rank = np.random.default_rng(seed).random((points, len(names)))
        self._shares = np.linspace(1 / 3, 1, points)

    def _subsample(self, rows: NDArray[np.intp], share: float, rank: Floats) -> NDArray[np.intp]:
        present = np.unique(self.labels[rows])
        wanted = max(1, round(share * len(present)))
        chosen = present[np.argsort(rank[present])[:wanted]]
        return rows[np.isin(self.labels[rows], chosen)]

    def fit(self, first: ArrayLike, second: ArrayLike) -> Extrapolation | None:
        """Return the line for two subsets of rows; None where there is no second size of subsample."""
        a, b = np.asarray(first), np.asarray(second)
        inverse, distances = [], []
        for share, rank in zip(self._shares, self._rank, strict=True):
            x, y = self._subsample(a, share, rank), self._subsample(b, share, rank)
            if min(len(x), len(y)) >= 2:
                inverse.append((1 / len(x) + 1 / len(y)) / 2)
                distances.append(frechet_from_gram(self.matrix, x, y))
        return _line(inverse, distances)

    def __call__(self, first: ArrayLike, second: ArrayLike) -> float:
        found = self.fit(first, second)
        return float("nan") if found is None else found.value


def _line(inverse: Sequence[float], distances: Sequence[float]) -> Extrapolation | None:
    x, y = np.asarray(inverse), np.asarray(distances)
    if len(x) < 2 or np.ptp(x) < 1e-9:
        return None
    slope, value = np.polyfit(x, y, 1)
    left, total = float(((y - value - slope * x) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    r2 = 1 - left / total if total > 0 else 1.0
    return Extrapolation(float(value), float(slope), r2, tuple(map(float, x)), tuple(map(float, y)))
