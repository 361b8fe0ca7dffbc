"""Samplers visit what they promise as often as they promise, and resume where they stopped."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emvfm.errors import UsageError
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.samplers import SCHEMES, Sampler

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=4)
SCHEME = st.sampled_from(SCHEMES)
SEED = st.integers(0, 10**6)


def _sampler(sizes: list[int], scheme: str, seed: int) -> Sampler:
    shares = [[(i * 7 + source) % 5 / 10 for i in range(n)] for source, n in enumerate(sizes)]
    return Sampler(sizes, scheme, seed, foreground=shares if scheme == "foreground" else None)


@given(SIZES, SEED, st.integers(1, 7))
def test_plain_visits_every_sample_once_per_epoch_whatever_the_batch(
    sizes: list[int], seed: int, batch: int
) -> None:
    sampler = Sampler(sizes, "plain", seed)
    total = sum(sizes)
    assert sampler.epoch_length == total
    drawn = [pair for _ in range(3 * total) for pair in sampler.draw(batch)]
    everything = {(source, i) for source, n in enumerate(sizes) for i in range(n)}
    for epoch in range(3):
        assert set(drawn[epoch * total : (epoch + 1) * total]) == everything


@given(SIZES, SEED)
def test_balanced_draws_sources_equally_often_at_every_moment(sizes: list[int], seed: int) -> None:
    sampler, seen = Sampler(sizes, "balanced", seed), Counter(dict.fromkeys(range(len(sizes)), 0))
    for _ in range(5 * len(sizes) + 3):
        seen[sampler.draw(1)[0][0]] += 1
        assert max(seen.values()) - min(seen.values()) <= 1


@given(SIZES, SEED)
def test_balanced_repeats_no_sample_of_a_source_before_all_have_come(sizes: list[int], seed: int) -> None:
    sampler = Sampler(sizes, "balanced", seed)
    drawn = sampler.draw(2 * sampler.epoch_length)
    assert set(drawn[: sampler.epoch_length]) == {(s, i) for s, n in enumerate(sizes) for i in range(n)}
    for source, n in enumerate(sizes):
        own = [i for s, i in drawn if s == source]
        assert len(own) == 2 * max(sizes)
        for start in range(0, len(own) - n + 1, n):
            assert sorted(own[start : start + n]) == list(range(n))


@given(SIZES, SCHEME, SEED, st.integers(0, 40), SEED)
@settings(deadline=None)
def test_a_restored_sampler_continues_the_same_sequence(
    sizes: list[int], scheme: str, seed: int, steps: int, other: int
) -> None:
    sampler = _sampler(sizes, scheme, seed)
    for _ in range(steps):
        sampler.draw(1)
    state = json.loads(json.dumps(sampler.state(), allow_nan=False))
    want = sampler.draw(50)
    resumed = _sampler(sizes, scheme, other)
    resumed.restore(state)
    assert resumed.draw(50) == want
    assert resumed.state() == sampler.state()


def test_a_state_is_a_copy() -> None:
    sampler = Sampler([3, 4], "balanced", 0)
    sampler.draw(3)
    state = sampler.state()
    kept = json.dumps(state)
    sampler.draw(10)
    assert json.dumps(state) == kept


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_seed_decides_the_sequence_and_the_batch_size_does_not(scheme: str) -> None:
    drawn = [_sampler([20, 30], scheme, seed).draw(40) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    sampler = _sampler([20, 30], scheme, 0)
    assert [pair for size in (1, 9, 30) for pair in sampler.draw(size)] == drawn[0]


def test_plain_weighs_sources_by_size_and_first_draws_are_uniform() -> None:
    first = Counter(Sampler([1, 3], "plain", seed).draw(1)[0] for seed in range(2000))
    assert set(first) == {(0, 0), (1, 0), (1, 1), (1, 2)}
    assert all(abs(n - 500) < 100 for n in first.values())


SHARES = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=8), min_size=1, max_size=4)


@given(SHARES, SEED)
@settings(deadline=None)
def test_by_foreground_every_deck_holds_each_sample_as_often_as_expected_to_within_one(
    shares: list[list[float]], seed: int
) -> None:
    sampler = Sampler([len(source) for source in shares], "foreground", seed, foreground=shares)
    flat = {(s, i): share for s, source in enumerate(shares) for i, share in enumerate(source)}
    n, total = len(flat), sum(flat.values())
    for _ in range(4):
        deck = Counter(sampler.draw(sampler.epoch_length))
        for sample, share in flat.items():
            want = 0.1 + 0.9 * n * share / total if total > 0 else 1.0
            assert abs(deck[sample] - want) < 1 + 1e-6


def test_by_foreground_draws_follow_the_shares_on_average_and_leave_no_sample_out() -> None:
    sampler = Sampler([2, 2], "foreground", 0, foreground=[[0.0, 0.1], [0.3, 0.0]])
    seen = Counter(sampler.draw(4000))
    want = {(0, 0): 100, (0, 1): 1000, (1, 0): 2800, (1, 1): 100}
    assert all(abs(seen[sample] - count) < 50 for sample, count in want.items())


def test_without_any_foreground_every_sample_comes_once_a_deck() -> None:
    sampler = Sampler([3, 2], "foreground", 1, foreground=[[0, 0, 0], [0, 0]])
    for _ in range(5):
        assert sorted(sampler.draw(5)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_foreground_that_does_not_fit_is_refused_and_so_is_a_state_of_other_foreground() -> None:
    for shares in (None, [[0.1]], [[0.1, 0.2], [0.3]], [[0.1, -0.2]], [[0.1, float("nan")]]):
        with pytest.raises(UsageError, match="foreground"):
            Sampler([2], "foreground", foreground=shares)
    with pytest.raises(UsageError, match="not asked"):
        Sampler([2], "plain", foreground=[[0.1, 0.2]])
    sampler = Sampler([2], "foreground", foreground=[[0.1, 0.2]])
    with pytest.raises(UsageError, match="expected"):
        Sampler([2], "foreground", foreground=[[0.1, 0.3]]).restore(sampler.state())


def test_epochs_are_shuffled_anew() -> None:
    sampler = Sampler([30], "plain", 0)
    assert sampler.draw(30) != sampler.draw(30)


def _broken_states() -> list[dict[str, Any]]:
    good = Sampler([3, 4], "balanced", 0).state()
    return [
        {**good, "n_per_source": [3, 5]},
        {**good, "scheme": "plain"},
        {**good, "generator": {**good["generator"], "name": "MT19937"}},
        {**good, "generator": {**good["generator"], "state": "-1"}},
        {**good, "generator": {**good["generator"], "state": str(2**200)}},
        {**good, "generator": {**good["generator"], "inc": "x"}},
        {**good, "generator": {**good["generator"], "uinteger": 2**40}},
        {**good, "generator": None},
        {**good, "turns": [2]},
        {**good, "left": [[0]]},
        {**good, "left": [[3], []]},
        {**good, "left": [[], [-1]]},
        {key: value for key, value in good.items() if key != "left"},
        {},
    ]


@pytest.mark.parametrize("state", _broken_states())
def test_a_state_of_another_sampler_is_refused_and_changes_nothing(state: dict[str, Any]) -> None:
    sampler, twin = Sampler([3, 4], "balanced", 5), Sampler([3, 4], "balanced", 5)
    with pytest.raises(UsageError):
        sampler.restore(state)
    assert sampler.draw(20) == twin.draw(20)


def test_misuse_is_a_usage_error() -> None:
    for wrong in (([], "plain", 0), ([3, 0], "balanced", 0), ([3], "weighted", 0), ([3], "plain", -1)):
        with pytest.raises(UsageError):
            Sampler(*wrong)
    with pytest.raises(UsageError, match="empty batch"):
        Sampler([3]).draw(0)


def test_draws_are_plain_integers() -> None:
    for pair in Sampler(np.array([3, 4]).tolist(), "balanced").draw(8):
        assert all(type(number) is int for number in pair)


def test_the_option_offers_what_there_is() -> None:
    assert set(get_args(get_type_hints(TrainConfig)["sampling"])) == set(SCHEMES)
