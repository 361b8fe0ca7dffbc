"""Means over runs and paired differences, against naive loops and their own invariants."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import permutation_test

from emvfm.errors import UsageError
from emvfm.segmentation.comparison import exchange_test, holm, mean_of_runs, paired_difference
from emvfm.segmentation.metrics import Counts, bootstrap_pooled, pooled

BLOCKS = [0, 0, 1, 1, 2, 2, 3, 3]


def _runs(n: int, seed: int, hit: float = 0.7) -> list[list[Counts]]:
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(n):
        tp = rng.binomial(1000, hit, len(BLOCKS))
        fp = rng.integers(50, 200, len(BLOCKS))
        runs.append([Counts(int(t), int(f), 1000 - int(t), 5000) for t, f in zip(tp, fp, strict=True)])
    return runs


def test_one_run_has_the_interval_of_the_block_bootstrap() -> None:
    run = _runs(1, seed=0)
    got, expected = mean_of_runs(run, BLOCKS, seed=3), bootstrap_pooled(run[0], BLOCKS, seed=3)
    assert (got.value, got.low, got.high, got.n) == pytest.approx(
        (expected.value, expected.low, expected.high, expected.n)
    )


def test_the_value_is_the_mean_of_pooled_scores() -> None:
    runs = _runs(3, seed=1)
    for statistic in ("iou", "dice"):
        expected = np.mean([getattr(pooled(run), statistic) for run in runs])
        assert mean_of_runs(runs, BLOCKS, statistic=statistic).value == pytest.approx(expected)


def test_intervals_are_those_of_a_naive_loop_over_draws() -> None:
    runs, other = _runs(3, seed=2), _runs(3, seed=3, hit=0.6)
    rng = np.random.default_rng(7)
    blocks = rng.multinomial(4, [0.25] * 4, size=200)
    drawn_runs = rng.multinomial(3, [1 / 3] * 3, size=200)

    def mean(group: list[list[Counts]], s: int) -> float:
        total = 0.0
        for r, times in enumerate(drawn_runs[s]):
            for _ in range(times):
                drawn = [c for c, b in zip(group[r], BLOCKS, strict=True) for _ in range(blocks[s][b])]
                total += pooled(drawn).iou
        return total / 3

    means = [mean(runs, s) for s in range(200)]
    differences = [mean(runs, s) - mean(other, s) for s in range(200)]
    got = mean_of_runs(runs, BLOCKS, samples=200, seed=7)
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    got = paired_difference(runs, other, BLOCKS, samples=200, seed=7)
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))


def test_what_pairs_have_in_common_cancels() -> None:
    runs = _runs(3, seed=4)
    same = paired_difference(runs, runs, BLOCKS)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    there, back = paired_difference(runs, _runs(3, 5), BLOCKS), paired_difference(_runs(3, 5), runs, BLOCKS)
    assert there.low is not None
    assert back.high is not None
    assert (there.value, there.low) == pytest.approx((-back.value, -back.high))


def test_runs_that_disagree_widen_the_interval() -> None:
    alike = [_runs(1, seed=6)[0]] * 3
    apart = [_runs(1, seed=6)[0], _runs(1, seed=6, hit=0.5)[0], _runs(1, seed=6, hit=0.9)[0]]
    narrow, wide = mean_of_runs(alike, BLOCKS), mean_of_runs(apart, BLOCKS)
    assert narrow.low is not None
    assert narrow.high is not None
    assert wide.low is not None
    assert wide.high is not None
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_a_single_block_gives_no_interval() -> None:
    got = mean_of_runs(_runs(2, seed=0), [0] * len(BLOCKS))
    assert got.low is None
    assert got.high is None
    assert "single block" in got.method


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="one block per slice"):
        mean_of_runs(_runs(2, seed=0), BLOCKS[:-1])
    with pytest.raises(UsageError, match="no runs"):
        mean_of_runs([], BLOCKS)
    with pytest.raises(UsageError, match="in pairs"):
        paired_difference(_runs(2, seed=0), _runs(3, seed=0), BLOCKS)


def test_the_exchange_test_is_that_of_a_naive_loop_over_all_exchanges() -> None:
    first, second = _runs(2, seed=4), _runs(2, seed=5, hit=0.66)
    observed = np.mean([pooled(run).iou for run in first]) - np.mean([pooled(run).iou for run in second])
    differences = []
    for flips in itertools.product((False, True), repeat=4):
        a, b = [], []
        for x, y in zip(first, second, strict=True):
            swap = [flips[block] for block in BLOCKS]
            a.append(pooled([q if s else p for p, q, s in zip(x, y, swap, strict=True)]).iou)
            b.append(pooled([p if s else q for p, q, s in zip(x, y, swap, strict=True)]).iou)
        differences.append(np.mean(a) - np.mean(b))
    got = exchange_test(first, second, BLOCKS)
    assert got.difference == pytest.approx(observed)
    assert got.p_value == pytest.approx(np.mean(np.abs(differences) >= abs(observed) - 1e-12))
    assert (got.n_blocks, got.smallest) == (4, 1 / 8)
    assert "too few blocks" in got.method
    assert "6 blocks could" in got.method


def test_the_exchange_test_agrees_with_scipy_on_single_slices() -> None:
    (first,), (second,) = _runs(1, seed=6), _runs(1, seed=7, hit=0.68)

    def difference(x: np.ndarray, y: np.ndarray) -> float:
        picked = [pooled([(first, second)[int(w)][i] for i, w in enumerate(which)]).iou for which in (x, y)]
        return picked[0] - picked[1]

    theirs = permutation_test(
        (np.zeros(8), np.ones(8)), difference, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )  # fmt: skip
    got = exchange_test([first], [second], range(8))
    assert got.p_value == pytest.approx(theirs.pvalue)
    assert "too few" not in got.method


def test_the_exchange_test_is_even_handed_and_random_exchanges_come_near_all() -> None:
    rng = np.random.default_rng(0)
    first, second = (
        [[Counts(int(t), 100, 1000 - int(t), 0) for t in rng.binomial(1000, p, 20)]] for p in (0.7, 0.695)
    )
    there, back = (exchange_test(*pair, range(20), seed=1) for pair in ((first, second), (second, first)))
    assert there.p_value == back.p_value
    assert there.difference == -back.difference
    assert "9999 random" in there.method
    other = exchange_test(first, second, range(20), seed=2)
    assert there.p_value == pytest.approx(other.p_value, abs=0.03)
    assert exchange_test(first, first, range(20)).p_value == 1
    tail, blocks = ([first[0][:12]], [second[0][:12]]), range(12)
    exact = exchange_test(*tail, blocks)
    assert "all 4096" in exact.method


def test_p_values_are_even_where_there_is_no_difference() -> None:
    rng = np.random.default_rng(3)
    p_values = []
    for _ in range(200):
        pair = [[Counts(int(t), 100, 1000 - int(t), 0) for t in rng.binomial(1000, 0.7, 8)] for _ in range(2)]
        p_values.append(exchange_test(pair[:1], pair[1:], range(8)).p_value)
    assert 0.02 <= np.mean(np.array(p_values) <= 0.1) <= 0.2
    assert 0.35 <= np.mean(np.array(p_values) <= 0.5) <= 0.65


def test_holm_is_the_definition() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_misuse_of_the_exchange_test_is_told() -> None:
    for arguments in ((_runs(1, 0), _runs(2, 0), BLOCKS), ([], [], BLOCKS), (_runs(1, 0), _runs(1, 1), [0])):
        with pytest.raises(UsageError):
            exchange_test(*arguments)
    with pytest.raises(UsageError, match="samples"):
        exchange_test(_runs(1, 0), _runs(1, 1), BLOCKS, samples=0)
