"""From features to expression: ridge, nearest neighbours, partial least squares, and the mean of training.

Scaling and components are fitted on the rows that are learned from, every time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = [
    "ALPHAS",
    "HEADS",
    "PRESETS",
    "Head",
    "HeadName",
    "Prediction",
    "Representation",
    "fit_representation",
    "neighbours",
    "predict",
    "ridge_path",
]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

#: Penalties among which ``inner`` chooses; features have unit variance, so they count rows.
ALPHAS = tuple(float(10.0**e) for e in np.arange(-2, 6.5, 0.5))


HeadName = Literal["ridge", "knn", "1nn", "pls"]
#: The heads, by what they are called.
HEADS: dict[str, HeadName] = {"ridge": "ridge", "knn": "knn", "1nn": "1nn", "pls": "pls"}


@dataclass(frozen=True)
class Head:
    """What is fitted on the features.

    Attributes
    ----------
    name
        ``ridge``, ``knn``, ``1nn`` or ``pls``.
    alpha
        Penalty of ridge: chosen within the training rows, HEST's 100 / (D G), or a number.
    k
        Neighbours of ``knn``.
    components
        Of ``pls``.
    pca
        Principal components before the head, 0 for none.
    intercept
        Whether ridge has one.
    """

    name: HeadName = "ridge"
    alpha: float | Literal["inner", "hest"] = "inner"
    k: int = 20
    components: int = 10
    pca: int = 256
    intercept: bool = True

    def to_json(self) -> dict[str, Any]:
        used = {"ridge": ("alpha", "intercept"), "knn": ("k",), "1nn": (), "pls": ("components",)}[self.name]
        return {key: value for key, value in asdict(self).items() if key in ("name", "pca", *used)}


#: ``hest``: HEST-Benchmark's code (arXiv 2406.16192). ``hest-1nn``: arXiv 2603.13377 names it and no more; this is
#: the reading in which a spot takes the expression of its nearest training spot in the same components.
PRESETS = {
    "hest": Head("ridge", alpha="hest", pca=256, intercept=False),
    "hest-1nn": Head("1nn", pca=256),
}


@dataclass(frozen=True)
class Prediction:
    """Predicted expression and what was chosen on the way.

    Attributes
    ----------
    values
        ``(N, G)`` float64.
    chosen
        Penalty and number of components, and whether the penalty lies at an end of its range.
    """

    values: Floats
    chosen: dict[str, Any]


@dataclass(frozen=True)
class Representation:
    """Features with unit variance, turned to their principal components; as the training rows say."""

    mean: Floats
    scale: Floats
    components: Floats | None

    def __call__(self, x: ArrayLike) -> Floats:
        scaled = (np.asarray(x, np.float64) - self.mean) / self.scale
        return scaled if self.components is None else scaled @ self.components.T


def fit_representation(x: ArrayLike, pca: int) -> Representation:
    """Fit scaling and at most `pca` components (0: none) on ``(N, D)`` training features.

    Features that do not vary keep their scale. Components come from all singular values: no randomness.
    """
    from sklearn.decomposition import PCA

    table = np.asarray(x, np.float64)
    mean, scale = table.mean(axis=0), table.std(axis=0)
    # A feature equal up to rounding would be blown up to unit variance.
    scale = np.where(scale > 1e-9 * np.maximum(np.abs(mean), 1e-12), scale, 1.0)
    n = min(pca, table.shape[1], len(table) - 1)
    scaled = (table - mean) / scale
    if n < 1 or not scaled.any():
        return Representation(mean, scale, None)
    solver = "covariance_eigh" if table.shape[1] <= len(table) else "full"
    found = PCA(n, svd_solver=solver).fit(scaled)
    return Representation(mean, scale, np.asarray(found.components_, np.float64))


def ridge_path(
    x: ArrayLike, y: ArrayLike, tested: ArrayLike, alphas: Sequence[float], *, intercept: bool = True
) -> Floats:
    """Return ``(A, N, G)``: ridge predictions for each penalty, from one decomposition.

    Minimises |y - x w|² + alpha |w|² over w, with both centred if there is an intercept (Hoerl & Kennard 1970,
    doi:10.1080/00401706.1970.10488634); what ``sklearn.linear_model.Ridge`` does for one penalty.
    """
    x, y, tested = (np.asarray(v, np.float64) for v in (x, y, tested))
    x_mean, y_mean = (v.mean(axis=0) if intercept else np.zeros(v.shape[1]) for v in (x, y))
    u, s, vt = np.linalg.svd(x - x_mean, full_matrices=False)
    projected, turned = u.T @ (y - y_mean), (tested - x_mean) @ vt.T
    found = np.empty((len(alphas), len(tested), y.shape[1]))
    for i, alpha in enumerate(alphas):
        bottom = s**2 + alpha
        shrink = np.divide(s, bottom, out=np.zeros_like(s), where=bottom > 0)
        found[i] = (turned * shrink) @ projected + y_mean
    return found


def neighbours(x: ArrayLike, y: ArrayLike, tested: ArrayLike, k: int) -> Floats:
    """Return ``(N, G)``: mean expression of the `k` training rows nearest in Euclidean distance.

    Rows tied at the k-th distance share its places, so that the order of rows decides nothing; features that
    count things tie often.
    """
    from scipy.spatial.distance import cdist

    x, y, tested = (np.asarray(v, np.float64) for v in (x, y, tested))
    if not k >= 1:
        raise UsageError("not a number of neighbours", where="k", got=k, expected="1 or more")
    k = min(k, len(x))
    found = np.empty((len(tested), y.shape[1]))
    step = max(1, 4_000_000 // len(x))
    for start in range(0, len(tested), step):
        distance = cdist(tested[start : start + step], x)
        last = np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
        margin = 1e-9 * np.maximum(last, 1e-12)
        nearer = distance < last - margin
        tied = ~nearer & (distance <= last + margin)
        share = (k - nearer.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)
        found[start : start + step] = (nearer + tied * share) @ y / k
    return found


def _pls(x: Floats, y: Floats, tested: Floats, components: int) -> tuple[Floats, int]:
    from sklearn.cross_decomposition import PLSRegression

    n = min(components, x.shape[1], len(x) - 1)
    if n < 1 or not x.std(axis=0).any():
        return np.repeat(y.mean(axis=0)[None], len(tested), axis=0), 0
    fitted = PLSRegression(n_components=n, scale=False).fit(x, y)
    return np.asarray(fitted.predict(tested), np.float64).reshape(len(tested), -1), n


def _choose_alpha(
    x: NDArray[Any], y: Floats, head: Head, inner: Sequence[tuple[Rows, Rows]]
) -> tuple[float, bool]:
    """Return the penalty with the least squared error on inner folds, each gene in units of its variance."""
    scale = y.var(axis=0)
    errors = np.zeros(len(ALPHAS))
    for learned, tested in inner:
        turn = fit_representation(x[learned], head.pca)
        found = ridge_path(turn(x[learned]), y[learned], turn(x[tested]), ALPHAS, intercept=head.intercept)
        squared = ((found - y[tested]) ** 2).sum(axis=1)
        errors += np.divide(squared, scale, out=np.zeros_like(squared), where=scale > 0).sum(axis=1)
    best = int(np.flatnonzero(errors <= errors.min() * (1 + 1e-12))[-1])  # of equals the stronger penalty
    return ALPHAS[best], best in (0, len(ALPHAS) - 1)


def predict(
    head: Head,
    x: ArrayLike,
    y: ArrayLike,
    tested: ArrayLike,
    inner: Sequence[tuple[Rows, Rows]] = (),
) -> Prediction:
    """Fit a head on training rows and predict others.

    Parameters
    ----------
    x, y
        ``(N, D)`` features and ``(N, G)`` expression of training spots.
    tested
        ``(M, D)`` features.
    inner
        Pairs of positions in `x` by which ridge chooses its penalty; only for ``alpha="inner"``.

    Raises
    ------
    UsageError
        Shapes do not fit, features are not finite, or there is nothing to choose a penalty by.
    """
    features, targets, asked = np.asarray(x), np.asarray(y, np.float64), np.asarray(tested)
    if features.ndim != 2 or asked.ndim != 2 or features.shape[1] != asked.shape[1] or len(features) < 2:
        raise UsageError("not features", where="regression", got=f"{features.shape} and {asked.shape}")
    if targets.shape[:1] != features.shape[:1] or targets.ndim != 2:
        raise UsageError("one row of expression per spot", got=f"{targets.shape} for {features.shape}")
    if not np.isfinite(features).all() or not np.isfinite(asked).all():
        raise UsageError("features that are not finite numbers", where="regression")
    turn = fit_representation(features, head.pca)
    known, new = turn(features), turn(asked)
    chosen: dict[str, Any] = {"dimensions": known.shape[1]}
    if head.name in ("knn", "1nn"):
        return Prediction(neighbours(known, targets, new, 1 if head.name == "1nn" else head.k), chosen)
    if head.name == "pls":
        values, n = _pls(known, targets, new, head.components)
        return Prediction(values, {**chosen, "components": n})
    if head.alpha == "inner":
        if not inner:
            raise UsageError("no folds to choose a penalty by", where="ridge")
        alpha, at_end = _choose_alpha(features, targets, head, inner)
        chosen["at_end"] = at_end
    else:
        hest = 100 / (known.shape[1] * targets.shape[1])
        alpha = hest if head.alpha == "hest" else float(head.alpha)
        if not 0 <= alpha < math.inf:
            raise UsageError("not a penalty", where="alpha", got=alpha, expected="0 or more")
    (values,) = ridge_path(known, targets, new, [alpha], intercept=head.intercept)
    return Prediction(values, {**chosen, "alpha": alpha})
