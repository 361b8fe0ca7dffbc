"""Recall of relations against EFAAR's formula, a planted map, a random one and a collapsed one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binom

from emvfm.errors import UsageError
from emvfm.representations.relations import pair_percentiles, relation_recall


def as_efaar(features: np.ndarray, pairs: np.ndarray, lower: float, upper: float) -> float:
    """Written from `compute_recall` of recursionpharma/EFAAR_benchmarking: ranks among the sorted null."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T
    null = np.sort(cosine[np.triu_indices(len(features), 1)])
    query = cosine[pairs[:, 0], pairs[:, 1]]
    left = np.searchsorted(null, query, side="left") / len(null)
    right = np.searchsorted(null, query, side="right") / len(null)
    return float(((right <= lower) | (left >= upper)).mean())


def named(pairs: np.ndarray, source: str = "s") -> list[tuple[str, str, str]]:
    return [(source, f"g{a}", f"g{b}") for a, b in pairs]


def some_pairs(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    rows = np.stack(np.triu_indices(n, 1), axis=1)
    return rows[rng.choice(len(rows), count, replace=False)]


def test_equals_efaar_without_ties() -> None:
    rng = np.random.default_rng(0)
    features, pairs = (
        rng.normal(size=(81, 6)),
        some_pairs(81, 300, rng),
    )  # 3240 pairs: the ends fall between pairs
    names = [f"g{i}" for i in range(81)]
    for recall in relation_recall(features, names, named(pairs), samples=20):
        expected = as_efaar(features, pairs, recall.lower, recall.upper)
        assert recall.both.value == pytest.approx(expected, abs=1e-9)
        assert recall.both.value == pytest.approx(recall.left.value + recall.right.value)


def test_percentiles_do_not_depend_on_blocks_or_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    features, pairs = rng.normal(size=(50, 4)), some_pairs(50, 100, rng)
    whole = pair_percentiles(features, pairs)
    monkeypatch.setattr("emvfm.representations.relations._BLOCK", 2000)
    for one, two in zip(whole, pair_percentiles(features, pairs), strict=True):
        np.testing.assert_allclose(one, two)


def test_a_random_map_recalls_what_its_binomial_allows() -> None:
    rng = np.random.default_rng(2)
    pairs = some_pairs(200, 2000, rng)
    names = [f"g{i}" for i in range(200)]
    for recall in relation_recall(rng.normal(size=(200, 100)), names, named(pairs), samples=200):
        low, high = binom.interval(0.999, 2000, recall.expected)
        assert low <= recall.both.value * 2000 <= high
        assert recall.both.low < recall.expected < recall.both.high


def test_a_collapsed_map_recalls_as_a_random_one_does() -> None:
    pairs = some_pairs(40, 60, np.random.default_rng(3))
    names = [f"g{i}" for i in range(40)]
    for recall in relation_recall(np.full((40, 7), 0.3), names, named(pairs), samples=20):
        assert recall.both.value == pytest.approx(recall.expected)
        assert recall.left.value == pytest.approx(recall.expected_left)
    assert as_efaar(np.full((40, 7), 0.3), pairs, 0.05, 0.95) == 0  # what this is about


def test_planted_relations_are_found_at_their_end_and_by_source() -> None:
    rng = np.random.default_rng(4)
    base = rng.normal(size=(50, 30))
    features = np.concatenate([base, base + 0.1 * rng.normal(size=base.shape), -base])
    names = [f"g{i}" for i in range(150)]
    alike = named(np.stack([np.arange(50), np.arange(50, 100)], axis=1), "alike")
    opposite = named(np.stack([np.arange(50), np.arange(100, 150)], axis=1), "opposite")
    found = {
        r.source: r
        for r in relation_recall(features, names, alike + opposite, ends=[(0.05, 0.95)], samples=50)
    }
    assert (found["alike"].right.value, found["alike"].left.value) == (1, 0)
    assert (found["opposite"].right.value, found["opposite"].left.value) == (0, 1)
    json.dumps(found["alike"].to_json(), allow_nan=False)


def test_direction_repetition_self_pairs_and_strangers_do_not_count() -> None:
    rng = np.random.default_rng(5)
    features, names = rng.normal(size=(30, 5)), [f"g{i}" for i in range(30)]
    pairs = named(some_pairs(30, 60, rng))
    plain = relation_recall(features, names, pairs, samples=20)[0]
    noisy = [*pairs, *[(s, b, a) for s, a, b in pairs], ("s", "g1", "g1"), ("s", "g1", "x"), ("s", "x", "g1")]
    other = relation_recall(features, names, noisy, samples=20)[0]
    assert (other.both, other.n_pairs) == (plain.both, 60)
    assert (plain.absent, other.absent) == (0, 1)


def test_what_makes_no_recall_is_refused() -> None:
    names = [f"g{i}" for i in range(6)]
    with pytest.raises(UsageError, match="s 2"):
        relation_recall(np.eye(6), names, [("s", "g0", "g1")])
    with pytest.raises(UsageError, match="twice"):
        relation_recall(np.eye(6), ["g0"] * 6, [("s", "g0", "g1")])
    with pytest.raises(UsageError, match="one name per row"):
        relation_recall(np.eye(6), names[:5], [])
    with pytest.raises(UsageError, match="out of order"):
        relation_recall(np.eye(6), names, [], ends=[(0.9, 0.1)])
    with pytest.raises(UsageError, match="itself"):
        pair_percentiles(np.eye(6), [(1, 1)])
