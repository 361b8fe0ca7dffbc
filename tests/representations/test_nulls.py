"""Nulls against enumeration, closed forms, and noise."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kstest

from emvfm.errors import UsageError
from emvfm.representations.nulls import null_of_group, null_of_query, p_value
from emvfm.representations.pairing import Pairing
from emvfm.representations.ranking import expected_average_precision, rank_queries
from emvfm.representations.retrieval import mean_average_precision, query_p_values


@pytest.mark.parametrize(("m", "n"), [(3, 10), (1, 7), (7, 7), (9, 10)])
def test_what_can_be_counted_is_counted(m: int, n: int) -> None:
    null, exact = null_of_query(m, n)
    loop = sorted(
        sum((i + 1) / place for i, place in enumerate(way)) / m for way in combinations(range(1, n + 1), m)
    )
    assert exact
    np.testing.assert_allclose(null, loop)
    assert null.mean() == pytest.approx(float(expected_average_precision(m, n)), abs=1e-12)
    assert p_value(1.0, null, exact=True) == pytest.approx(1 / math.comb(n, m))


@pytest.mark.parametrize(("m", "n"), [(3, 300), (40, 90), (90, 100), (5, 5)])
def test_drawn_nulls_have_the_known_mean(m: int, n: int) -> None:
    null, exact = null_of_query(m, n, budget=0, draws=20_000)
    assert not exact
    error = null.std() / math.sqrt(len(null)) + 1e-12
    assert abs(null.mean() - float(expected_average_precision(m, n))) < 4 * error


def test_drawn_and_counted_nulls_are_of_one_distribution() -> None:
    counted, _ = null_of_query(3, 12)
    drawn, _ = null_of_query(3, 12, budget=0, draws=40_000)
    for value in np.unique(counted)[::20]:
        assert p_value(value, drawn, exact=False) == pytest.approx(
            p_value(value, counted, exact=True), abs=0.012
        )


def test_the_null_is_a_matter_of_seed_and_sizes_only() -> None:
    first = null_of_query(6, 70, seed=3)[0]
    null_of_query(5, 70, seed=3)
    np.testing.assert_array_equal(first, null_of_query(6, 70, seed=3)[0])
    assert not np.array_equal(first, null_of_query(6, 70, seed=4)[0])


def test_pairs_of_a_group_share_their_similarity() -> None:
    everyone = ~np.eye(5, dtype=bool)
    together = null_of_group(everyone, [4] * 5, [64] * 5)[0]
    apart = null_of_group(np.zeros((5, 5), bool), [4] * 5, [64] * 5)[0]
    single = null_of_query(4, 64)[0]
    for null in (together, apart):
        assert null.mean() == pytest.approx(single.mean(), abs=0.003)
    assert apart.var() == pytest.approx(single.var() / 5, rel=0.1)
    assert 1.2 < together.var() / apart.var() < 2.2  # each similarity counts twice, its negatives once
    assert together.var() < single.var() / 2


def test_a_group_of_one_is_its_query() -> None:
    np.testing.assert_array_equal(null_of_group([[False]], [2], [9])[0], null_of_query(2, 9)[0])


def test_impossible_queries_and_groups_are_refused() -> None:
    for m, n in ((0, 4), (5, 4)):
        with pytest.raises(UsageError, match="no such query"):
            null_of_query(m, n)
    with pytest.raises(UsageError, match="pairs of this group"):
        null_of_group(np.zeros((2, 3), bool), [1, 1], [4, 4])


def noise_p_values(per_group: int, negatives: str | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Independent noise in many dimensions: p-values of queries and of groups."""
    rng = np.random.default_rng(seed)
    groups, controls = 120, 60
    labels = [str(i) for i in np.repeat(np.arange(groups), per_group)] + ["control"] * controls
    features = rng.normal(size=(len(labels), 400))
    positives = "same:g & isnt:g=control"
    ranking = rank_queries(
        features,
        Pairing({"g": labels}, positives=positives, negatives=negatives),
        queries=range(groups * per_group),
    )
    result = mean_average_precision(ranking, labels, draws=1999, samples=10)
    return query_p_values(ranking, draws=1999), np.array([group.p_value for group in result.groups])


@pytest.mark.parametrize("negatives", [None, "is:g=control"])
@pytest.mark.parametrize("per_group", [2, 5])
def test_noise_gives_uniform_p_values(per_group: int, negatives: str | None) -> None:
    found = [noise_p_values(per_group, negatives, seed) for seed in range(3)]
    by_query, by_group = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert kstest(by_group, "uniform").pvalue > 0.003
    assert (by_group < 0.05).mean() == pytest.approx(0.05, abs=0.035)
    first = by_query.reshape(-1, per_group)[:, 0]  # queries of a group are not independent of each other
    assert kstest(first, "uniform").pvalue > 0.003
