"""How alike two representations of the same rows are, by six measures, each with an interval and a null."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from emvfm.errors import UsageError
from emvfm.representations.cka import linear_cka, pair_checked, rbf_cka
from emvfm.representations.estimates import Estimate
from emvfm.representations.ranking import unit_rows

__all__ = [
    "MEASURES",
    "Similarity",
    "canonical_basis",
    "fewer_columns",
    "mutual_neighbours",
    "nearest",
    "prediction_correlation",
    "procrustes",
    "rsa",
    "svcca",
]

Floats = NDArray[np.float64]


def procrustes(x: ArrayLike, y: ArrayLike) -> float:
    """Return one less half the squared Procrustes distance of both, centred and of norm one.

    It is the sum of singular values of the cross product (Schönemann 1966, doi:10.1007/BF02289451; Ding et al. 2021,
    arXiv 2108.01661), in [0, 1]; one if a rotation and a scale turn one into the other.
    """
    first, second = pair_checked(x, y)
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    if norms == 0:
        return math.nan
    first, second = fewer_columns(first), fewer_columns(second)
    return float(np.linalg.svd(first.T @ second, compute_uv=False).sum() / norms)


def fewer_columns(x: Floats) -> Floats:
    """Return the same rows turned into at most n columns."""
    if x.shape[1] <= len(x):
        return x
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    return left * values


def svcca(x: ArrayLike, y: ArrayLike, *, share: float = 0.99) -> float:
    """Return the mean canonical correlation of the axes that hold `share` of the variance.

    Raghu et al. 2017, arXiv 1706.05806; in [0, 1]. With k and l axes of n rows, noise scores about
    sqrt(max(k, l) / n) and one if k + l >= n: take many rows, and look at the null.
    """
    if not 0 < share <= 1:
        raise UsageError("not a share of variance", where="svcca", got=share, expected="in (0, 1]")
    first, second = (canonical_basis(own, share) for own in pair_checked(x, y))
    if first is None or second is None:
        return math.nan
    correlations = np.linalg.svd(first.T @ second, compute_uv=False)
    return float(np.clip(correlations, 0, 1).mean())


def canonical_basis(centred: Floats, share: float) -> Floats | None:
    """Return orthonormal columns ``(n, k)`` for the axes that hold `share` of the variance, None if nothing varies."""
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    if not values[0] > 0:
        return None
    kept = np.cumsum(values**2) / (values**2).sum()
    count = min(int(np.searchsorted(kept, share - 1e-12)) + 1, int((values > 1e-12 * values[0]).sum()))
    return left[:, :count]


def rsa(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's correlation between both matrices of cosine similarity, upper triangles, in [-1, 1].

    Kriegeskorte et al. 2008, doi:10.3389/neuro.06.004.2008. Columns are not centred: directions count as they are.
    """
    pair_checked(x, y)
    first, second = unit_rows(x), unit_rows(y)
    if len(first) > 5000:
        raise UsageError(
            "too many rows", where="rsa", got=len(first), expected=5000, todo="draw some of them"
        )
    above = np.triu_indices(len(first), 1)
    one, two = ((own @ own.T)[above].round(12) for own in (first, second))
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return math.nan
    return float(spearmanr(one, two).statistic)


def nearest(unit: Floats, k: int, block: int = 1024) -> NDArray[np.intp]:
    """Return the k nearest other rows ``(n, k)`` of each unit row, in no order."""
    found = np.empty((len(unit), k), np.intp)
    for start in range(0, len(unit), block):
        similarity = unit[start : start + block] @ unit.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -np.inf
        found[start : start + block] = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    return found


def mutual_neighbours(x: ArrayLike, y: ArrayLike, *, k: int = 10) -> float:
    """Return which share of a row's k nearest by cosine is common to both, on average.

    Huh et al. 2024, arXiv 2405.07987; in [0, 1], k / (n - 1) by chance. NaN for a collapsed
    representation, in which neighbours mean nothing.
    """
    pair_checked(x, y)
    first, second = unit_rows(x), unit_rows(y)
    if not 1 <= k < len(first):
        raise UsageError("not a number of neighbours", where="k", got=k, expected=f"1 to {len(first) - 1}")
    if min(np.ptp(first, axis=0).max(), np.ptp(second, axis=0).max()) < 1e-12:
        return math.nan
    near, other = nearest(first, k), nearest(second, k)
    common = [len(np.intersect1d(a, b, assume_unique=True)) for a, b in zip(near, other, strict=True)]
    return float(np.mean(common)) / k


def prediction_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's correlation of what two models predict for the same rows, over all columns at once.

    A column is a class or a target; columns are ranked apart and their correlations averaged, those of constant
    columns left out. Per-query average precisions or out-of-fold probabilities are such predictions.
    """
    one, two = (np.asarray(v, np.float64) for v in (x, y))
    one, two = (v[:, None] if v.ndim == 1 else v for v in (one, two))
    if one.shape != two.shape or one.ndim != 2 or len(one) < 3:
        raise UsageError(
            "predictions that do not match", got=f"{one.shape} and {two.shape}", expected="(n,) or (n, c)"
        )
    known = np.isfinite(one) & np.isfinite(two)
    found = []
    for a, b, own in zip(one.T, two.T, known.T, strict=True):
        a, b = a[own], b[own]
        if len(a) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0:
            found.append(float(spearmanr(a, b).statistic))
    return float(np.mean(found)) if found else math.nan


def _biased_linear(x: ArrayLike, y: ArrayLike) -> float:
    return linear_cka(x, y, debiased=False)


def _biased_rbf(x: ArrayLike, y: ArrayLike) -> float:
    return rbf_cka(x, y, debiased=False)


Measure = Callable[[ArrayLike, ArrayLike], float]

MEASURES: dict[str, Measure] = {
    "cka": linear_cka,
    "cka-biased": _biased_linear,
    "cka-rbf": rbf_cka,
    "cka-rbf-biased": _biased_rbf,
    "procrustes": procrustes,
    "svcca": svcca,
    "rsa": rsa,
    "mutual-knn": mutual_neighbours,
    "predictions": prediction_correlation,
}


@dataclass(frozen=True)
class Similarity:
    """One measure of two representations.

    Parameters
    ----------
    measure
        A name of the table :data:`MEASURES`.
    estimate
        With a jackknife interval over groups of rows.
    null_mean, null_high
        Mean and 95 % point of the measure when the rows of the second are in random order.
    p_value
        How often a random order is at least as alike, the observed one counted in; None without permutations.
    permutations
        Random orders that were drawn.
    """

    measure: str
    estimate: Estimate
    null_mean: float | None
    null_high: float | None
    p_value: float | None
    permutations: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return {**asdict(self), "estimate": self.estimate.to_json(), "seed": self.estimate.seed}
