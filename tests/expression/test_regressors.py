"""Heads against scikit-learn and naive twins."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from emvfm.errors import UsageError
from emvfm.expression.regressors import (
    ALPHAS,
    PRESETS,
    Head,
    fit_representation,
    neighbours,
    predict,
    ridge_path,
)

RNG = np.random.default_rng(0)
X, Y, NEW = RNG.normal(2, 3, (80, 12)), RNG.normal(1, 2, (80, 5)), RNG.normal(2, 3, (30, 12))
INNER = tuple(
    (np.flatnonzero(np.arange(80) % 4 != i), np.flatnonzero(np.arange(80) % 4 == i)) for i in range(4)
)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("n", [80, 7])  # fewer rows than features, too
def test_ridge_is_scikit_learns(intercept: bool, n: int) -> None:
    alphas = (1e-3, 1.0, 500.0)
    found = ridge_path(X[:n], Y[:n], NEW, alphas, intercept=intercept)
    for alpha, values in zip(alphas, found, strict=True):
        own = Ridge(alpha=alpha, fit_intercept=intercept, solver="svd").fit(X[:n], Y[:n]).predict(NEW)
        assert np.allclose(values, own, atol=1e-8)


def test_no_penalty_is_least_squares_of_least_norm() -> None:
    (found,) = ridge_path(X[:6], Y[:6], NEW, [0.0], intercept=False)
    assert np.allclose(found, NEW @ np.linalg.lstsq(X[:6], Y[:6])[0])


@pytest.mark.parametrize("k", [1, 5, 500])
def test_neighbours_are_scikit_learns_where_there_are_no_ties(k: int) -> None:
    own = KNeighborsRegressor(min(k, 80)).fit(X, Y).predict(NEW)
    assert np.allclose(neighbours(X, Y, NEW, k), own)


def _naive(x: np.ndarray, y: np.ndarray, new: np.ndarray, k: int, draws: int = 3000) -> np.ndarray:
    """Average over random orders of rows, which decide ties."""
    rng, total = np.random.default_rng(1), np.zeros((len(new), y.shape[1]))
    for _ in range(draws):
        order = rng.permutation(len(x))
        distance = np.linalg.norm(new[:, None] - x[order][None], axis=2)
        nearest = order[np.argsort(distance, axis=1, kind="stable")[:, :k]]
        total += y[nearest].mean(axis=1)
    return total / draws


def test_ties_share_the_last_place() -> None:
    x = np.array([[0.0], [1.0], [1.0], [1.0], [2.0]])
    y = np.array([[0.0], [3.0], [6.0], [9.0], [100.0]])
    assert neighbours(x, y, np.array([[0.2]]), 2).item() == pytest.approx((0 + 6) / 2)
    assert np.allclose(neighbours(np.ones((5, 2)), y, np.ones((1, 2)), 1), y.mean())
    counts = np.random.default_rng(2).integers(0, 3, (40, 2)).astype(float)
    targets = np.random.default_rng(3).normal(size=(40, 2))
    assert np.allclose(
        neighbours(counts, targets, counts[:9], 7), _naive(counts, targets, counts[:9], 7), atol=0.06
    )


def test_the_order_of_rows_decides_nothing() -> None:
    order = np.random.default_rng(4).permutation(len(X))
    x = np.round(X)
    for head in (Head("1nn", pca=0), Head("knn", pca=0), Head("ridge", alpha=3.0), Head("pls")):
        one = predict(head, x, Y, NEW).values
        assert np.allclose(one, predict(head, x[order], Y[order], NEW).values, atol=1e-7)


def test_pls_is_scikit_learns_on_scaled_features() -> None:
    scaler = StandardScaler().fit(X)
    own = PLSRegression(3, scale=False).fit(scaler.transform(X), Y).predict(scaler.transform(NEW))
    assert np.allclose(predict(Head("pls", components=3, pca=0), X, Y, NEW).values, own)


def test_the_preset_is_hests_pipeline() -> None:
    x, new = np.repeat(X, 2, axis=1) + 0.1 * RNG.normal(size=(80, 24)), NEW.repeat(2, axis=1)
    scaler = StandardScaler().fit(x)
    pca = PCA(256 if len(x) > 256 else 24, svd_solver="full").fit(scaler.transform(x))
    a, b = (pca.transform(scaler.transform(v)) for v in (x, new))
    own = Ridge(solver="lsqr", alpha=100 / (a.shape[1] * 5), fit_intercept=False, tol=1e-10, max_iter=10_000)
    found = predict(PRESETS["hest"], x, Y, new)
    assert np.allclose(found.values, own.fit(a, Y).predict(b), atol=1e-5)
    assert found.chosen == {"dimensions": 24, "alpha": pytest.approx(100 / (24 * 5))}


def test_components_do_not_depend_on_the_solver() -> None:
    x = RNG.normal(size=(30, 50))
    wide = fit_representation(x, 10)(x)
    tall = fit_representation(np.vstack([x, x]), 10)(x)
    assert np.allclose(np.abs(wide), np.abs(tall), atol=1e-8)


def test_features_that_do_not_vary_stay_harmless() -> None:
    x = np.column_stack([X, np.full(80, 7.0), 0.1 + np.resize([0, 1e-17], 80)])
    new = np.column_stack([NEW, np.full(30, 7.0), np.full(30, 0.1)])
    for head in (Head(alpha=1.0), Head("1nn"), Head("pls")):
        assert np.allclose(predict(head, x, Y, new).values, predict(head, X, Y, NEW).values, atol=1e-6)
    constant = np.ones((80, 3))
    for head in (Head(alpha=1.0), Head("1nn"), Head("knn"), Head("pls")):
        found = predict(head, constant, Y, constant[:4]).values
        assert np.allclose(found, Y.mean(axis=0)), head.name


def test_the_penalty_is_chosen_by_the_inner_folds() -> None:
    weak = predict(Head(), X, X[:, :5] @ np.diag(np.arange(1, 6.0)), NEW, INNER)
    strong = predict(Head(), X, Y, NEW, INNER)
    assert weak.chosen["alpha"] < 1 < 30 < strong.chosen["alpha"] <= ALPHAS[-1]
    errors = {}
    for alpha in ALPHAS:  # a twin that fits scikit-learn's pipeline again for each
        total = 0.0
        for learned, tested in INNER:
            turn = fit_representation(X[learned], 256)
            own = Ridge(alpha=alpha, solver="svd").fit(turn(X[learned]), Y[learned])
            total += (((own.predict(turn(X[tested])) - Y[tested]) ** 2).sum(axis=0) / Y.var(axis=0)).sum()
        errors[alpha] = total
    assert strong.chosen["alpha"] == min(errors, key=errors.__getitem__)


def test_what_can_not_be_fitted_is_refused() -> None:
    broken = X.copy()
    broken[0, 0] = np.nan
    fixed = Head(alpha=1.0)
    for args in (
        (Head(), X, Y, NEW), (fixed, broken, Y, NEW), (Head(alpha=-1.0), X, Y, NEW), (fixed, X, Y[:5], NEW),
        (fixed, X, Y, NEW[:, :3]), (Head("knn", k=0), X, Y, NEW),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            predict(*args)
