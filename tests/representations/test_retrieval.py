"""Mean average precision by group: on planted clusters, on noise, and on the JUMP pilot."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.representations.pairing import Pairing
from emvfm.representations.ranking import rank_queries
from emvfm.representations.retrieval import Retrieval, mean_average_precision


def retrieved(spread: float, drawn: int = 0, **options: int) -> tuple[Retrieval, np.ndarray, list[str]]:
    rng = np.random.default_rng(drawn)
    labels = [f"c{i}" for i in np.repeat(np.arange(12), 5)]
    features = rng.normal(size=(12, 20)).repeat(5, axis=0) + spread * rng.normal(size=(60, 20))
    ranking = rank_queries(features, Pairing({"g": labels}, positives="same:g"))
    return mean_average_precision(ranking, labels, draws=999, **options), ranking.average_precision, labels


def test_groups_are_means_over_their_queries_and_the_whole_a_mean_over_groups() -> None:
    result, precision, labels = retrieved(1.5)
    means = {label: precision[[own == label for own in labels]].mean() for label in set(labels)}
    assert [group.group for group in result.groups] == sorted(means)
    for group in result.groups:
        assert group.precision.value == pytest.approx(means[group.group])
        assert group.precision.low <= group.precision.value <= group.precision.high
    assert result.overall.value == pytest.approx(np.mean(list(means.values())))
    assert result.overall.n == 60
    assert result.overall.low < result.overall.value < result.overall.high


def test_planted_groups_are_significant_and_q_is_never_below_p() -> None:
    result, _, _ = retrieved(0.3)
    assert all(group.p_value == pytest.approx(1 / 1000) for group in result.groups)
    assert all(group.q_value >= group.p_value for group in result.groups)
    assert result.hits[1].value == 1


def test_a_row_without_a_group_is_left_out_and_counted() -> None:
    rng = np.random.default_rng(0)
    labels = ["a", "a", "b", "b", None, "nan", ""]
    table = {"g": ["a", "a", "b", "b", "a", "a", "b"]}
    result = mean_average_precision(
        rank_queries(rng.normal(size=(7, 4)), Pairing(table, positives="same:g")), labels
    )
    assert [group.group for group in result.groups] == ["a", "b"]
    assert result.left_out == 3
    with pytest.raises(UsageError, match="no query with a positive has a group"):
        mean_average_precision(
            rank_queries(rng.normal(size=(7, 4)), Pairing(table, positives="same:g")), [None] * 7
        )


def test_the_result_is_strict_json_and_the_same_for_the_same_seed() -> None:
    first, second = (json.dumps(retrieved(2.0, 1, seed=4)[0].to_json(), allow_nan=False) for _ in range(2))
    assert first == second
    assert json.loads(first)["protocol"]["positives"] == "same:g"
