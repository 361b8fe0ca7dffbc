"""Average precision against a loop, scikit-learn, all orders of ties, and the way copairs computes it."""

from __future__ import annotations

import sys
import time
import tracemalloc
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from emvfm.errors import UsageError
from emvfm.representations.pairing import Pairing
from emvfm.representations.ranking import expected_average_precision, rank_queries, unit_rows

sys.path.insert(0, str(Path(__file__).parent))
import peers


def clusters(
    n_groups: int, per_group: int, d: int, spread: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_groups), per_group)
    return rng.normal(size=(n_groups, d))[labels] + spread * rng.normal(size=(len(labels), d)), labels


def in_order(relevant: tuple[int, ...]) -> float:
    hits = np.cumsum(relevant)
    return float((hits / np.arange(1, len(relevant) + 1))[np.array(relevant, bool)].mean())


@settings(max_examples=40, deadline=None)
@given(
    levels=st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=2, max_size=6).filter(
        lambda rows: len({positive for _, positive in rows}) == 2
    )
)
def test_ties_score_the_mean_over_all_their_orders(levels: list[tuple[int, bool]]) -> None:
    angles = np.array([0.0, *(0.3 * level for level, _ in levels)])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    table = {"kind": ["query", *("positive" if positive else "negative" for _, positive in levels)]}
    ranking = rank_queries(features, Pairing(table, positives="is:kind=positive"), queries=[0], ks=(1, 2))
    values, firsts, pairs = [], [], []
    for order in permutations(range(len(levels))):
        if list(order) == sorted(order, key=lambda i: levels[i][0]):
            relevant = tuple(int(levels[i][1]) for i in order)
            values.append(in_order(relevant))
            firsts.append(relevant[0])
            pairs.append(max(relevant[:2]))
    # Orders within ties are all equally likely, and every one of them is among the permutations once.
    assert ranking.average_precision[0] == pytest.approx(np.mean(values), abs=1e-12)
    assert ranking.hits[1][0] == pytest.approx(np.mean(firsts), abs=1e-12)
    assert ranking.hits[2][0] == pytest.approx(np.mean(pairs), abs=1e-12)


def test_equals_scikit_learn_without_ties() -> None:
    features, labels = clusters(6, 7, 12, spread=1.5)
    ranking = rank_queries(features, Pairing({"g": labels.tolist()}, positives="same:g"))
    cosine = unit_rows(features) @ unit_rows(features).T
    for i in range(len(labels)):
        others = np.arange(len(labels)) != i
        expected = average_precision_score(labels[others] == labels[i], cosine[i, others])
        assert ranking.average_precision[i] == pytest.approx(expected, abs=1e-12)
        nearest = labels[others][np.argsort(-cosine[i, others])[:5]]
        assert ranking.hits[5][i] == pytest.approx(float(labels[i] in nearest), abs=1e-12)


@pytest.mark.parametrize("across_plates", [False, True])
def test_equals_copairs_without_ties(across_plates: bool) -> None:
    features, labels = clusters(20, 6, 30, spread=2.0)
    plate = np.tile(np.arange(3), 40)
    apart = plate if across_plates else None
    twin = peers.average_precision(
        features, peers.pairs_same(labels, apart), peers.pairs_different(labels, apart)
    )
    pairing = Pairing(
        {"g": labels.tolist(), "plate": plate.tolist()},
        positives="same:g",
        exclude=["plate"] if across_plates else [],
    )
    np.testing.assert_allclose(rank_queries(features, pairing).average_precision, twin, atol=1e-9, rtol=0)


def test_constant_features_score_as_a_random_order_does() -> None:
    labels = np.repeat(np.arange(5), 8).tolist()
    features = np.full((40, 37), 0.1)
    ranking = rank_queries(features, Pairing({"g": labels}, positives="same:g"))
    np.testing.assert_allclose(ranking.average_precision, ranking.expected, atol=1e-12)
    np.testing.assert_allclose(ranking.hits[5], ranking.expected_hits[5], atol=1e-12)
    twin = peers.average_precision(
        features, peers.pairs_same(np.array(labels)), peers.pairs_different(np.array(labels))
    )
    assert (twin == 1).all()  # what this is about: the peer calls identical embeddings perfect


def test_rows_of_noughts_are_similar_to_none_and_do_no_harm() -> None:
    labels = np.repeat(np.arange(5), 8).tolist()
    ranking = rank_queries(np.zeros((40, 3)), Pairing({"g": labels}, positives="same:g"))
    np.testing.assert_allclose(ranking.average_precision, ranking.expected, atol=1e-12)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 5), (3, 6), (6, 7), (6, 6)])
def test_expectation_of_a_random_order_is_the_mean_over_all_of_them(m: int, n: int) -> None:
    orders = set(permutations([1] * m + [0] * (n - m)))
    assert expected_average_precision(m, n) == pytest.approx(
        np.mean([in_order(o) for o in orders]), abs=1e-12
    )
    assert np.isnan(expected_average_precision(0, n))


def test_scores_do_not_depend_on_scale_rotation_or_blocks() -> None:
    features, labels = clusters(8, 5, 10, spread=1.5)
    pairing = Pairing({"g": labels.tolist()}, positives="same:g")
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(10, 10)))[0]
    plain = rank_queries(features, pairing).average_precision
    scaled = features * np.random.default_rng(2).uniform(1e-200, 1e200, size=(40, 1))
    for other in (features @ rotation, scaled):
        np.testing.assert_allclose(rank_queries(other, pairing, block=3).average_precision, plain, atol=1e-12)
    some = rank_queries(features, pairing, queries=[31, 4])
    np.testing.assert_allclose(some.average_precision, plain[[31, 4]], atol=1e-12)


def test_planted_clusters_are_found_and_queries_without_positives_say_so() -> None:
    features, labels = clusters(5, 4, 16, spread=0.01)
    named = [*labels.tolist(), "alone"]
    pairing = Pairing({"g": named}, positives="same:g")
    ranking = rank_queries(np.concatenate([features, np.ones((1, 16))]), pairing)
    assert ranking.average_precision[:-1] == pytest.approx(1)
    assert np.isnan(ranking.average_precision[-1])
    assert ranking.n_positives[-1] == 0
    assert ranking.to_json()["average_precision"][-1] is None


def test_what_cannot_be_ranked_is_refused_in_one_line() -> None:
    pairing = Pairing({"g": [1, 2, 3]}, positives="same:g")
    with pytest.raises(UsageError, match="no query has a positive"):
        rank_queries(np.eye(3), pairing)
    with pytest.raises(UsageError, match="one row of metadata"):
        rank_queries(np.eye(4), pairing)
    with pytest.raises(UsageError, match="1 such rows of 3"):
        rank_queries(np.diag([1, np.nan, 1]), pairing)
    with pytest.raises(UsageError, match="neighbours"):
        rank_queries(np.eye(3), pairing, ks=(0,))


@pytest.mark.slow
def test_several_times_faster_and_a_fifth_of_the_memory_of_the_way_of_copairs() -> None:
    features, labels = clusters(120, 8, 300, spread=3.0)
    table = {"g": labels.tolist()}

    def ours() -> np.ndarray:
        return rank_queries(features, Pairing(table, positives="same:g"), block=64).average_precision

    def theirs() -> np.ndarray:
        return peers.average_precision(features, peers.pairs_same(labels), peers.pairs_different(labels))

    took, held, values = [], [], []
    for way in (ours, theirs):
        times = []
        for _ in range(2):
            start = time.process_time()
            found = way()
            times.append(time.process_time() - start)
        took.append(min(times))
        tracemalloc.start()
        way()
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        values.append(found)
    np.testing.assert_allclose(values[0], values[1], atol=1e-9)
    assert took[0] < took[1] / 5  # about 20 on quiet cores; a test runs beside others
    assert held[0] < held[1] / 5


def test_a_query_without_negatives_has_no_score() -> None:
    """Every order of its candidates scores one, so it would flatter whatever it is averaged into."""
    table = {"g": ["a", "a", "b", "b"], "plate": ["1", "1", "1", "2"]}
    ranking = rank_queries(
        np.eye(4), Pairing(table, positives="same g", negatives="same plate, g=b"), ks=(1,)
    )
    assert ranking.known.tolist() == [True, True, False, False]
    assert np.isnan(ranking.average_precision[2:]).all()
    assert np.isnan(ranking.expected[2:]).all()
    assert ranking.n_positives.tolist() == [1, 1, 1, 1]
    with pytest.raises(UsageError, match="a positive and a negative"):
        rank_queries(np.eye(4), Pairing({"g": ["a"] * 4}, positives="same g"))


def test_normalised_precision_is_nought_by_chance_and_one_at_best() -> None:
    features, labels = clusters(6, 7, 12, spread=1e-3)
    table = {"g": labels.tolist()}
    assert rank_queries(features, Pairing(table, positives="same g")).normalised == pytest.approx(1)
    constant = rank_queries(np.ones_like(features), Pairing(table, positives="same g"))
    assert constant.normalised == pytest.approx(0, abs=1e-12)
