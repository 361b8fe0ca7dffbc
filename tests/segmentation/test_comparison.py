"""Means over runs and paired differences, against naive loops and their own invariants."""

from __future__ import annotations

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.segmentation.comparison import mean_of_runs, paired_difference
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
