"""Odds ratios and Fisher's test against scipy, planted neighbours and noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import fisher_exact

from emvfm.errors import UsageError
from emvfm.representations.enrichment import fisher_p_values, neighbour_enrichment, odds_ratios
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
    assert noise.log_odds.low < 0.1
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
