"""Outlier scores against scikit-learn, SciPy and loops; what they must not react to; bounded sampling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import distance
from sklearn.covariance import OAS, LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from emvfm.domain.outliers import SCORES, balanced_sample, fit_detector
from emvfm.errors import UsageError


@pytest.fixture(params=[(30, 12), (18, 40)], ids=["more rows", "more columns"])
def sets(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    n, d = request.param
    mix = rng.normal(size=(d, d)) * np.geomspace(1, 0.05, d)
    return rng.normal(size=(n, d)) @ mix + 3, rng.normal(size=(9, d)) @ mix + 3.5


def _rotation(d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(5).normal(size=(d, d)))[0]


@pytest.mark.parametrize(("name", "estimator"), [("mahalanobis", LedoitWolf), ("mahalanobis-oas", OAS)])
def test_mahalanobis_is_that_of_scikit_learn_and_scipy(sets, name, estimator) -> None:
    x, y = sets
    fitted = estimator().fit(x)
    found = fit_detector(name, x)
    expected = [distance.mahalanobis(row, x.mean(axis=0), fitted.precision_) for row in y]
    np.testing.assert_allclose(found.score(y), expected, rtol=1e-8)
    assert found.note == f"shrinkage {fitted.shrinkage_:.3g}"


def test_relative_with_sources_is_the_formula_of_its_paper(sets) -> None:
    x, y = sets
    groups = ["a"] * (len(x) // 2) + ["b"] * (len(x) - len(x) // 2)
    means = {g: x[np.array(groups) == g].mean(axis=0) for g in "ab"}
    within = LedoitWolf().fit(np.stack([v - means[g] for v, g in zip(x, groups, strict=True)]))
    pooled = LedoitWolf().fit(x)
    expected = [
        min(distance.mahalanobis(row, m, within.precision_) ** 2 for m in means.values())
        - distance.mahalanobis(row, x.mean(axis=0), pooled.precision_) ** 2
        for row in y
    ]
    found = fit_detector("relative", x, groups=groups)
    np.testing.assert_allclose(found.score(y), expected, rtol=1e-7, atol=1e-7)
    assert "2 sources" in found.note


def test_relative_of_one_source_leaves_the_principal_part_out(sets) -> None:
    x, y = sets
    full = LedoitWolf().fit(x)
    kept = int(fit_detector("relative", x, explained=0.8).note.split()[3])
    axes = PCA(kept).fit(x).components_
    expected = []
    for row in y - x.mean(axis=0):
        inside = axes @ row
        background = inside @ np.linalg.solve(axes @ full.covariance_ @ axes.T, inside)
        expected.append(row @ full.precision_ @ row - background)
    np.testing.assert_allclose(fit_detector("relative", x, explained=0.8).score(y), expected, rtol=1e-6)
    shares = np.cumsum(PCA().fit(x).explained_variance_ratio_)
    assert shares[kept - 1] >= 0.8 > shares[kept - 2]


@pytest.mark.parametrize(("name", "metric"), [("knn", "euclidean"), ("knn-cosine", "cosine")])
@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_are_those_of_scikit_learn(sets, name, metric, k) -> None:
    x, y = sets
    expected = NearestNeighbors(n_neighbors=k, metric=metric).fit(x).kneighbors(y)[0][:, -1]
    found = fit_detector(name, x, k=k)
    np.testing.assert_allclose(found.score(y), expected, rtol=1e-9, atol=1e-12)
    # Of a fitted embedding the neighbours are the others.
    others = [
        np.sort(distance.cdist(x[i : i + 1], np.delete(x, i, 0), metric)[0])[k - 1] for i in range(len(x))
    ]
    np.testing.assert_allclose(found.in_sample(x), others, rtol=1e-9, atol=1e-12)


def test_cosine_is_that_of_scipy(sets) -> None:
    x, y = sets
    expected = [distance.cosine(row, x.mean(axis=0)) for row in y]
    np.testing.assert_allclose(fit_detector("cosine", x).score(y), expected, atol=1e-12)


@pytest.mark.parametrize("explained", [0.5, 0.9])
def test_residual_is_the_error_of_the_projection(sets, explained) -> None:
    x, y = sets
    pca = PCA(explained, svd_solver="full").fit(x)
    left = np.linalg.norm(y - pca.inverse_transform(pca.transform(y)), axis=1)
    found = fit_detector("residual", x, explained=explained)
    np.testing.assert_allclose(found.score(y), left, rtol=1e-8)
    assert f"first {pca.n_components_} " in found.note


@pytest.mark.parametrize("name", SCORES)
def test_scores_do_not_depend_on_the_axes(sets, name) -> None:
    x, y = sets
    turn = _rotation(x.shape[1])
    plain, turned = fit_detector(name, x).score(y), fit_detector(name, x @ turn).score(y @ turn)
    np.testing.assert_allclose(turned, plain, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["mahalanobis", "mahalanobis-oas", "relative", "knn", "residual"])
def test_scores_do_not_depend_on_the_origin(sets, name) -> None:
    x, y = sets
    np.testing.assert_allclose(
        fit_detector(name, x + 7).score(y + 7), fit_detector(name, x).score(y), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["cosine", "knn-cosine"])
def test_angles_do_not_depend_on_the_length(sets, name) -> None:
    x, y = sets
    found = fit_detector(name, x)
    lengths = np.random.default_rng(2).uniform(0.1, 10, (len(y), 1))
    np.testing.assert_allclose(found.score(y * lengths), found.score(y), atol=1e-12)
    np.testing.assert_allclose(fit_detector(name, 3 * x).score(y), found.score(y), atol=1e-12)


def test_length_knows_no_direction(sets) -> None:
    x, y = sets
    found = fit_detector("norm", x)
    np.testing.assert_allclose(found.score(-y), found.score(y))
    middle = np.median(np.linalg.norm(x, axis=1))
    assert found.score(np.eye(x.shape[1])[:1] * middle * np.e) == pytest.approx([1])


@pytest.mark.parametrize("name", SCORES)
def test_every_score_finds_what_is_far_and_is_float64(sets, name) -> None:
    x, _ = sets
    rng = np.random.default_rng(3)
    far = 30 * rng.normal(size=(5, x.shape[1]))
    found = fit_detector(name, x.astype(np.float32))
    scores = found.score(far.astype(np.float32))
    assert scores.dtype == np.float64
    assert scores.min() > np.median(found.in_sample(x))
    assert (found.n, found.dimension) == x.shape


def test_many_rows_are_scored_in_parts() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(2500, 4))
    for name in SCORES:
        found = fit_detector(name, x)
        np.testing.assert_allclose(found.score(y)[2047:2050], found.score(y[2047:2050]), rtol=1e-9)


def test_a_bank_bounds_the_neighbours_and_is_seeded() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 4)), rng.normal(size=(10, 4))
    first = fit_detector("knn", x, bank=40, seed=1)
    assert first.note == "neighbour 5 of 40"
    np.testing.assert_array_equal(first.score(y), fit_detector("knn", x, bank=40, seed=1).score(y))
    assert (first.score(y) != fit_detector("knn", x, bank=40, seed=2).score(y)).any()


def test_a_single_dimension_and_zeros_are_scored() -> None:
    x = np.linspace(1, 2, 9)[:, None]
    for name in SCORES:
        assert np.isfinite(fit_detector(name, x).score(np.zeros((2, 1)))).all(), name
    assert fit_detector("cosine", np.ones((3, 2)) * x[:3]).score(np.zeros((1, 2))) == [1]


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: fit_detector("euclid", np.eye(3)), "no such score"),
        (lambda: fit_detector("knn", np.eye(5), k=5), "too few embeddings"),
        (lambda: fit_detector("cosine", np.ones((1, 3))), "not a set"),
        (lambda: fit_detector("mahalanobis", np.ones((4, 3))), "all the same"),
        (lambda: fit_detector("residual", np.eye(3), explained=0), "share of the variance"),
        (lambda: fit_detector("cosine", np.full((4, 3), np.nan)), "not finite"),
        (lambda: fit_detector("cosine", np.eye(3)).score(np.ones((2, 4))), "another length"),
        (lambda: fit_detector("cosine", np.eye(3)).score(np.full((2, 3), np.inf)), "not finite"),
        (lambda: balanced_sample([], [], 0), "number of patches"),
    ],
)
def test_what_is_refused(call, part) -> None:
    with pytest.raises(UsageError, match=part):
        call()


def test_patches_are_drawn_evenly_by_block() -> None:
    sizes, blocks = [500, 500, 500, 500, 7], [0, 0, 0, 1, 2]
    images = [np.full((n, 3), i, np.float32) for i, n in enumerate(sizes)]
    drawn = balanced_sample(iter(images), blocks, 300, seed=0)
    counts = np.bincount(drawn[:, 0].astype(int))
    np.testing.assert_array_equal(counts, [33, 33, 33, 100, 7])
    assert drawn.dtype == np.float32
    rows = [np.arange(n, dtype=np.float32)[:, None] for n in sizes]
    first, again, other = (balanced_sample(iter(rows), blocks, 300, seed=s) for s in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(np.unique(first[:33])) == 33  # without repetition
