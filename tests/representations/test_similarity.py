"""Similarity of representations: closed forms, naive twins, what must not matter, and noise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.spatial import procrustes as scipy_procrustes
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from emvfm.errors import UsageError
from emvfm.representations.cka import linear_cka, rbf_cka
from emvfm.representations.similarity import (
    MEASURES,
    mutual_neighbours,
    prediction_correlation,
    procrustes,
    rsa,
    svcca,
)
from emvfm.representations.similarity_matrix import compare_representations, similarity_matrix

REPRESENTATIONS = sorted(set(MEASURES) - {"predictions"})


def related(n: int = 60, d: int = 8, e: int = 12, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + d)
    x = rng.normal(size=(n, d)) + 0.5
    return x, x @ rng.normal(size=(d, e)) + noise * rng.normal(size=(n, e))


def hsic(k: np.ndarray, m: np.ndarray, debiased: bool) -> float:
    """The definitions: tr(KHLH), and equation 3 of Song et al. with the diagonals struck out."""
    n = len(k)
    if not debiased:
        h = np.eye(n) - 1 / n
        return float(np.trace(k @ h @ m @ h))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    value = (
        np.trace(k @ m)
        + one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * one @ k @ m @ one
    )
    return float(value)


def cka(k: np.ndarray, m: np.ndarray, debiased: bool) -> float:
    return hsic(k, m, debiased) / math.sqrt(hsic(k, k, debiased) * hsic(m, m, debiased))


def gaussian(x: np.ndarray) -> np.ndarray:
    squared = ((x[:, None] - x) ** 2).sum(-1)
    return np.exp(-squared / (2 * np.median(squared[np.triu_indices(len(x), 1)])))


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize(("n", "d", "e"), [(60, 8, 12), (20, 30, 50), (25, 10, 40)])
def test_cka_is_its_definition(n: int, d: int, e: int, debiased: bool) -> None:
    x, y = related(n, d, e)
    assert linear_cka(x, y, debiased=debiased) == pytest.approx(cka(x @ x.T, y @ y.T, debiased), abs=1e-10)
    assert rbf_cka(x, y, debiased=debiased) == pytest.approx(
        cka(gaussian(x), gaussian(y), debiased), abs=1e-10
    )


def test_debiased_cka_of_noise_is_near_nought_and_biased_is_not() -> None:
    rng = np.random.default_rng(0)
    drawn = [(rng.normal(size=(100, 300)), rng.normal(size=(100, 300))) for _ in range(10)]
    assert abs(np.mean([linear_cka(x, y) for x, y in drawn])) < 0.02
    assert abs(np.mean([rbf_cka(x, y) for x, y in drawn])) < 0.02
    assert np.mean([linear_cka(x, y, debiased=False) for x, y in drawn]) > 0.6


@pytest.mark.parametrize("measure", REPRESENTATIONS)
def test_rotation_scale_and_order_of_rows_do_not_matter(measure: str) -> None:
    x, y = related()
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    order = rng.permutation(len(x))
    score = MEASURES[measure]
    assert score(x, 7 * y @ rotation) == pytest.approx(score(x, y), abs=1e-9)
    assert score(x[order], y[order]) == pytest.approx(score(x, y), abs=1e-9)
    assert score(y, x) == pytest.approx(score(x, y), abs=1e-9)


@pytest.mark.parametrize("measure", REPRESENTATIONS)
def test_a_representation_is_wholly_like_itself_and_less_so_with_noise(measure: str) -> None:
    x, _ = related()
    score = MEASURES[measure]
    values = [score(x, x + noise * np.random.default_rng(2).normal(size=x.shape)) for noise in (0, 0.5, 3)]
    assert values[0] == pytest.approx(1)
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize("measure", sorted(set(REPRESENTATIONS) - {"rsa", "mutual-knn"}))
def test_a_shift_does_not_matter(measure: str) -> None:
    x, y = related()
    assert MEASURES[measure](x, y + 100) == pytest.approx(MEASURES[measure](x, y), abs=1e-8)


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_a_constant_representation_has_no_similarity(measure: str) -> None:
    x, _ = related()
    assert math.isnan(MEASURES[measure](x, np.full_like(x, 0.1)))
    result = compare_representations(x, np.full_like(x, 0.1), measure, permutations=3)
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["estimate"]["value"] is None


def test_svcca_does_not_mind_any_invertible_map_of_what_it_keeps() -> None:
    x, y = related()
    mixing = np.random.default_rng(3).normal(size=(12, 12))
    assert svcca(x, y @ mixing, share=1.0) == pytest.approx(svcca(x, y, share=1.0), abs=1e-8)


def test_procrustes_is_that_of_scipy() -> None:
    x, y = related(e=8)
    assert procrustes(x, y) ** 2 == pytest.approx(1 - scipy_procrustes(x, y)[2], abs=1e-10)
    assert procrustes(x[:5], y[:5]) ** 2 == pytest.approx(1 - scipy_procrustes(x[:5], y[:5])[2], abs=1e-10)


def test_rsa_and_neighbours_are_their_definitions() -> None:
    x, y = related()
    above = np.triu_indices(60, 1)
    u, v = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (x, y))
    assert rsa(x, y) == pytest.approx(spearmanr((u @ u.T)[above], (v @ v.T)[above]).statistic, abs=1e-9)
    near, far = (
        NearestNeighbors(n_neighbors=6, metric="cosine").fit(m).kneighbors(m, return_distance=False)[:, 1:]
        for m in (x, y)
    )
    common = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(near, far, strict=True)])
    assert mutual_neighbours(x, y, k=5) == pytest.approx(common)


def test_predictions_are_ranked_column_by_column_without_constant_ones() -> None:
    rng = np.random.default_rng(4)
    one = rng.normal(size=(50, 3))
    two = one**3
    one[:, 2] = 1.0
    assert prediction_correlation(one, two) == pytest.approx(1)
    gap = one[:, 0].copy()
    gap[3] = np.nan
    assert prediction_correlation(gap, two[:, 0]) == pytest.approx(1)
    with pytest.raises(UsageError, match="do not match"):
        prediction_correlation(one, two[:-1])


def test_the_interval_holds_the_value_and_the_null_is_below_it() -> None:
    x, y = related(80)
    found = compare_representations(x, y, "cka", groups=np.repeat(np.arange(20), 4), permutations=49)
    assert found.estimate.low < found.estimate.value < found.estimate.high
    assert found.p_value == pytest.approx(1 / 50)
    assert found.null_high < found.estimate.low
    assert found == compare_representations(x, y, "cka", groups=np.repeat(np.arange(20), 4), permutations=49)


def test_what_cannot_be_compared_is_refused() -> None:
    x, y = related()
    with pytest.raises(UsageError, match="no such measure"):
        compare_representations(x, y, "cca")
    with pytest.raises(UsageError, match="different rows"):
        linear_cka(x, y[:-1])
    with pytest.raises(UsageError, match="not a representation"):
        linear_cka(x[:3], y[:3])
    with pytest.raises(UsageError, match="not finite"):
        rbf_cka(x, np.full_like(y, np.inf))
    with pytest.raises(UsageError, match="neighbours"):
        mutual_neighbours(x, y, k=60)
    with pytest.raises(UsageError, match="width"):
        rbf_cka(x, y, width=0)
    with pytest.raises(UsageError, match="share"):
        svcca(x, y, share=0)


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_all_pairs_at_once_are_the_pairs_one_by_one(measure: str) -> None:
    """Values, intervals and nulls, against the measure called on rows that are left out or put in random order."""
    _, y = related(40)
    z = np.random.default_rng(5).normal(size=(40, 12))
    arrays = [y, np.tanh(y), z]
    groups = np.repeat(np.arange(8), 5)
    found = similarity_matrix(arrays, measure, groups=groups, permutations=6, parts=8, seed=3)
    score = MEASURES[measure]
    rng = np.random.default_rng(3)
    orders = [rng.permutation(40) for _ in range(6)]
    for pair, (i, j) in zip(found, ((0, 1), (0, 2), (1, 2)), strict=True):
        a, b = arrays[i], arrays[j]
        assert pair.estimate.value == pytest.approx(score(a, b), abs=1e-10)
        left_out = np.array([score(a[groups != g], b[groups != g]) for g in range(8)])
        variance = 7 / 8 * ((left_out - left_out.mean()) ** 2).sum()
        assert pair.estimate.high - pair.estimate.value == pytest.approx(
            2.3646242510102993 * math.sqrt(variance), abs=1e-9
        )
        null = [score(a, b[order]) for order in orders]
        assert pair.null_mean == pytest.approx(np.mean(null), abs=1e-9)
        assert pair.p_value == (1 + sum(v >= score(a, b) - 1e-12 for v in null)) / 7


def test_pairs_without_intervals_and_nulls_are_quick_to_ask_for() -> None:
    x, y = related()
    (found,) = similarity_matrix([x, y], permutations=0, parts=0)
    assert (found.estimate.low, found.p_value) == (None, None)
    assert "no interval" in found.estimate.method
    with pytest.raises(UsageError, match="nothing to compare"):
        similarity_matrix([x])
    with pytest.raises(UsageError, match="different rows"):
        similarity_matrix([x, y[:-1]])
