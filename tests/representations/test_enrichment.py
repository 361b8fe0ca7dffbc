"""Odds ratios and Fisher's test against scipy, planted neighbours and noise."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from emvfm.errors import UsageError
from emvfm.representations.enrichment import (
    expected_log_odds,
    fisher_p_values,
    neighbour_enrichment,
    odds_ratios,
)
from emvfm.representations.pairing import Pairing


def test_fisher_is_that_of_scipy() -> None:
    tables = np.random.default_rng(0).integers(0, 12, size=(40, 4))
    expected = [fisher_exact(t.reshape(2, 2), alternative="greater").pvalue for t in tables]
    np.testing.assert_allclose(fisher_p_values(tables), expected, rtol=1e-9)


def test_half_is_added_only_where_a_cell_is_nought() -> None:
    np.testing.assert_allclose(odds_ratios([[4, 2, 3, 6], [0, 2, 3, 6]]), [4.0, 0.5 * 6.5 / (2.5 * 3.5)])


def test_planted_neighbours_are_enriched_and_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(30), 6)
    pairing = Pairing({"g": labels.tolist()}, positives="same:g")
    centres = rng.normal(size=(30, 20))[labels]
    planted = neighbour_enrichment(
        centres + 0.2 * rng.normal(size=centres.shape), pairing, share=0.03, groups=labels, samples=200
    )
    noise = neighbour_enrichment(rng.normal(size=(180, 50)), pairing, share=0.2, groups=labels, samples=200)
    assert planted.significant.value == 1
    assert planted.odds_ratio > 100
    assert noise.significant.value < 0.05
    assert noise.excess.low < 0 < noise.excess.high
    assert planted.excess.low > 1
    assert planted.excess.value == pytest.approx(planted.log_odds.value - planted.expected)
    json.dumps(planted.to_json(), allow_nan=False)


def test_collapsed_embeddings_are_not_enriched() -> None:
    labels = np.repeat(np.arange(20), 5)
    result = neighbour_enrichment(
        np.ones((100, 3)), Pairing({"g": labels.tolist()}, positives="same:g"), share=0.1
    )
    assert result.significant.value < 0.05


def test_rows_without_relations_have_no_value_and_bad_shares_are_refused() -> None:
    pairing = Pairing({"g": ["a", "a", "b", "c"]}, positives="same:g")
    assert neighbour_enrichment(np.eye(4), pairing, share=0.4).p_values[2:] == (None, None)
    with pytest.raises(UsageError, match="share"):
        neighbour_enrichment(np.eye(4), pairing, share=1.0)
    with pytest.raises(UsageError, match="related"):
        neighbour_enrichment(np.eye(3), Pairing({"g": [1, 2, 3]}, positives="same:g"))


def test_the_odds_of_a_random_order_are_counted_over_all_orders() -> None:
    """With few related rows the half that is added lifts a random order far above nought."""
    for near, related, candidates in ((2, 1, 7), (3, 2, 8), (4, 6, 9)):
        drawn = []
        for chosen in combinations(range(candidates), near):
            a = sum(place < related for place in chosen)
            drawn.append(np.log(odds_ratios([a, near - a, related - a, candidates - near - related + a])))
        assert expected_log_odds(near, related, candidates) == pytest.approx(np.mean(drawn), abs=1e-12)
    assert expected_log_odds(8, 2, 770) > 2.5
    assert abs(expected_log_odds(200, 200, 1000)) < 0.01


def test_noise_with_few_related_rows_has_no_excess() -> None:
    rng = np.random.default_rng(3)
    pairing = Pairing({"g": (np.arange(300) // 2).tolist()}, positives="same g")
    found = [
        neighbour_enrichment(rng.normal(size=(300, 20)), pairing, share=0.02, samples=100) for _ in range(5)
    ]
    assert np.mean([one.log_odds.value for one in found]) > 2
    assert abs(np.mean([one.excess.value for one in found])) < 0.1
