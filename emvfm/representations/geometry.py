"""The shape of a representation: how many dimensions it uses, and how its rows lie on the sphere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError
from emvfm.representations.estimates import Estimate, jackknife
from emvfm.representations.ranking import unit_rows

__all__ = [
    "MEASURES",
    "Geometry",
    "alignment",
    "describe",
    "participation_ratio",
    "rank_me",
    "two_nn",
    "uniformity",
]

Floats = NDArray[np.float64]


def _variances(x: Floats) -> Floats:
    """Return the variances along the principal axes, decreasing, up to a common factor."""
    centred = x - x.mean(axis=0)
    if len(x) > x.shape[1]:
        values = np.linalg.eigvalsh(centred.T @ centred)[::-1]
    else:
        values = np.linalg.eigvalsh(centred @ centred.T)[::-1]
    rounding = 1e-12 * max(float(values[0]), float((x**2).sum()) * 1e-12)
    return np.where(values > rounding, values, 0.0)


def _checked(x: ArrayLike, least: int = 3) -> Floats:
    values = np.asarray(x, np.float64)
    if values.ndim != 2 or len(values) < least or not np.isfinite(values).all():
        raise UsageError("not a representation", got=values.shape, expected=f"(n, D), finite, n >= {least}")
    return values


def participation_ratio(x: ArrayLike) -> float:
    r"""Return :math:`(\sum\lambda)^2 / \sum\lambda^2` of the covariance, from 1 to D; NaN if nothing varies."""
    values = _variances(_checked(x))
    return float(values.sum() ** 2 / (values**2).sum()) if values[0] > 0 else math.nan


def rank_me(x: ArrayLike) -> float:
    """Return the exponential of the entropy of the singular values (Garrido et al. 2023, arXiv 2210.02885).

    Of the matrix as it is, not centred, as there; from 1 to min(n, D). NaN for nothing but noughts.
    """
    values = np.linalg.svd(_checked(x), compute_uv=False)
    if not values[0] > 0:
        return math.nan
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def stable_rank(x: ArrayLike) -> float:
    """Return the total variance over the largest along an axis, from 1 to D."""
    values = _variances(_checked(x))
    return float(values.sum() / values[0]) if values[0] > 0 else math.nan


def top_share(x: ArrayLike) -> float:
    """Return the share of variance along the first principal axis."""
    values = _variances(_checked(x))
    return float(values[0] / values.sum()) if values[0] > 0 else math.nan


def axes_for(x: ArrayLike, share: float) -> float:
    """Return how many principal axes hold `share` of the variance."""
    values = _variances(_checked(x))
    if not values[0] > 0:
        return math.nan
    return float(np.searchsorted(np.cumsum(values) / values.sum(), share - 1e-12) + 1)


def mean_cosine(x: ArrayLike) -> float:
    """Return the mean cosine similarity of two different rows, in [-1, 1]."""
    unit = unit_rows(_checked(x))
    n = len(unit)
    total = unit.sum(axis=0)
    return float((total @ total - (unit**2).sum()) / (n * (n - 1)))


def two_nn(x: ArrayLike, *, discard: float = 0.1) -> float:
    """Return the intrinsic dimension from the ratio of distances to the two nearest rows (TwoNN).

    Facco et al. 2017, doi:10.1038/s41598-017-11873-y: the ratios follow a Pareto law whose exponent is the dimension;
    it is fitted through the origin, without the largest `discard` of them. Rows that are there twice are taken once.
    NaN with fewer than ten different rows.
    """
    from sklearn.neighbors import NearestNeighbors

    values = np.unique(_checked(x), axis=0)
    if len(values) < 10:
        return math.nan
    distances, _ = NearestNeighbors(n_neighbors=3).fit(values).kneighbors(values)
    near, far = distances[:, 1], distances[:, 2]
    ratios = np.sort(far[near > 0] / near[near > 0])
    n = len(ratios)
    kept = np.log(ratios[: int(n * (1 - discard))])
    empirical = -np.log1p(-np.arange(1, len(kept) + 1) / n)
    return float(kept @ empirical / (kept @ kept)) if len(kept) and kept.any() else math.nan


def uniformity(x: ArrayLike, *, t: float = 2.0, block: int = 1024) -> float:
    r"""Return :math:`\log \mathrm{mean}\, e^{-t|u - v|^2}` over pairs of unit rows (Wang & Isola 2020, arXiv 2005.10242).

    At most nought, which is collapse; lower is more uniform.
    """
    unit = unit_rows(_checked(x))
    n = len(unit)
    total = 0.0
    for start in range(0, n, block):
        total += float(np.exp(-2 * t * (1 - np.clip(unit[start : start + block] @ unit.T, -1, 1))).sum())
    return math.log(max(total - n, np.finfo(np.float64).tiny) / (n * (n - 1)))


def alignment(x: ArrayLike, labels: Sequence[object], *, power: float = 2.0) -> float:
    """Return the mean distance, to a power, of unit rows with the same label (Wang & Isola 2020, arXiv 2005.10242).

    Nought is perfect; NaN without two rows of a label. Every pair counts alike.
    """
    unit = unit_rows(_checked(x))
    names = np.asarray(labels, str)
    if len(names) != len(unit):
        raise UsageError("one label per row", where="labels", got=len(names), expected=len(unit))
    total, pairs = 0.0, 0
    for name in np.unique(names):
        own = unit[names == name]
        for i in range(len(own) - 1):
            total += float((((own[i + 1 :] - own[i]) ** 2).sum(axis=1) ** (power / 2)).sum())
        pairs += len(own) * (len(own) - 1) // 2
    return total / pairs if pairs else math.nan


MEASURES: dict[str, Callable[[ArrayLike], float]] = {
    "participation ratio": participation_ratio,
    "rankme": rank_me,
    "stable rank": stable_rank,
    "top-1 share": top_share,
    "axes for 90 %": lambda x: axes_for(x, 0.90),
    "axes for 99 %": lambda x: axes_for(x, 0.99),
    "mean cosine": mean_cosine,
    "two-nn dimension": two_nn,
    "uniformity": uniformity,
}


@dataclass(frozen=True)
class Geometry:
    """Measures of one representation, `alignment` among them where there are labels."""

    measures: dict[str, Estimate]
    n: int
    dimensions: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return {**asdict(self), "measures": {name: value.to_json() for name, value in self.measures.items()}}


def describe(
    x: ArrayLike,
    *,
    labels: Sequence[object] | None = None,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    parts: int = 20,
    seed: int = 0,
) -> Geometry:
    """Measure a representation ``(n, D)``, with jackknife intervals that leave out groups of rows.

    Parameters
    ----------
    labels
        Rows of one label should be near each other; for `alignment`.
    groups
        What is left out at a time, rows by default, joined at random into `parts`.
    """
    values = _checked(x)
    found = {
        name: jackknife(
            lambda rows, measure=measure: measure(values[rows]),  # type: ignore[misc]
            len(values),
            groups,
            level=level,
            most=parts,
            seed=seed,
        )
        for name, measure in MEASURES.items()
    }
    if labels is not None:
        names = np.asarray(labels, str)
        found["alignment"] = jackknife(
            lambda rows: alignment(values[rows], names[rows].tolist()),
            len(values),
            groups,
            level=level,
            most=parts,
            seed=seed,
        )
    return Geometry(found, len(values), values.shape[1])
