"""Nulls by blocks: uniform where naive shuffling fails, complete where they can be counted, blocks never cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import kstest, t

from emvfm.domain.resampling import block_jackknife_interval, block_permutation_test, split_halves
from emvfm.errors import UsageError


def _mean_difference(values: np.ndarray):
    return lambda a, b: abs(float(values[a].mean() - values[b].mean()))


def _correlated(rng: np.random.Generator, n_blocks: int, length: int) -> np.ndarray:
    """Rows of a block are nearly the same, as neighbouring slices are."""
    return np.repeat(rng.normal(size=n_blocks), length) + 0.05 * rng.normal(size=n_blocks * length)


def test_p_values_are_uniform_under_the_null_by_blocks_and_not_by_rows() -> None:
    rng = np.random.default_rng(0)
    blocks, rows = np.repeat(np.arange(8), 5), np.arange(40)
    by_block, by_row = [], []
    for seed in range(150):
        statistic = _mean_difference(np.concatenate([_correlated(rng, 8, 5), _correlated(rng, 8, 5)]))
        by_block.append(block_permutation_test(statistic, blocks, blocks, permutations=99, seed=seed).p_value)
        by_row.append(block_permutation_test(statistic, rows, rows, permutations=99, seed=seed).p_value)
    assert kstest(by_block, "uniform").pvalue > 0.01
    assert np.mean(np.array(by_block) <= 0.05) <= 0.1
    assert np.mean(np.array(by_row) <= 0.05) > 0.25  # what shuffling slices would have claimed


def test_a_difference_is_found_and_the_smallest_p_value_is_one_over_the_number_of_relabellings() -> None:
    values = np.concatenate([np.zeros(12), np.ones(12)]) + 0.01 * np.arange(24)
    blocks = np.repeat(np.arange(6), 2)
    test = block_permutation_test(_mean_difference(values), blocks, blocks, permutations=999, seed=1)
    assert test.distinct == 924  # 12 over 6
    assert 1 / 1000 <= test.p_value <= 0.02
    assert test.observed == pytest.approx(1 + 0.12)
    assert len(test.null) == 999


def test_the_null_consists_of_exchanges_of_whole_blocks() -> None:
    blocks_x, blocks_y = [0, 0, 1, 1, 1], [0, 1, 1, 2, 2, 2]
    parts = [{0, 1}, {2, 3, 4}, {5}, {6, 7}, {8, 9, 10}]
    possible = {
        frozenset().union(*(parts[i] for i in chosen)) for chosen in itertools.combinations(range(5), 2)
    }
    seen = set()

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        assert sorted([*a, *b]) == list(range(11))
        seen.add(frozenset(a.tolist()))
        return 0.0

    test = block_permutation_test(statistic, blocks_x, blocks_y, permutations=400, seed=0)
    assert seen == possible
    assert test.distinct == len(possible)
    assert test.p_value == 1.0


def test_halves_share_no_block_and_have_equal_sizes() -> None:
    blocks_x, blocks_y = np.repeat(np.arange(4), 3), np.repeat(np.arange(5), 2)
    sizes = set()

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        labels = [*(f"x{i}" for i in blocks_x), *(f"y{i}" for i in blocks_y)]
        assert not {labels[i] for i in a} & {labels[i] for i in b}
        sizes.add((len(a), len(b)))
        return 1.0 if {labels[i][0] for i in (*a, *b)} == {"x", "y"} else 0.5

    halves = split_halves(statistic, blocks_x.tolist(), blocks_y.tolist(), repeats=20)
    assert sizes == {(4, 4)}
    assert set(halves.within) == {0.5}
    assert halves.ratio == 2.0
    alone = split_halves(statistic, [0, 0, 0], blocks_y.tolist())
    assert (alone.within, alone.between, alone.ratio) == ((), (), None)


def test_the_jackknife_is_the_naive_loop_and_students_interval_for_a_mean() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=14)
    x, y = np.arange(8), np.arange(6)  # every row its own block
    low, high = block_jackknife_interval(lambda a, b: values[a].mean() + 10 - values[b].mean(), x, y)
    variance = values[:8].var(ddof=1) / 8 + values[8:].var(ddof=1) / 6
    margin = t.ppf(0.975, 12) * np.sqrt(variance)
    centre = values[:8].mean() + 10 - values[8:].mean()
    assert (low, high) == pytest.approx((centre - margin, centre + margin))


def test_an_interval_needs_three_blocks_and_never_goes_below_zero() -> None:
    statistic = _mean_difference(np.random.default_rng(4).normal(size=12))
    assert block_jackknife_interval(statistic, [0, 0, 0, 1, 1, 1], range(6)) is None
    low, high = block_jackknife_interval(statistic, range(6), range(6))
    assert low == 0 < high
    with pytest.raises(UsageError, match="coverage"):
        block_jackknife_interval(statistic, range(6), range(6), level=1.0)


def test_the_seed_decides() -> None:
    statistic = _mean_difference(np.random.default_rng(5).normal(size=20))
    blocks = np.repeat(np.arange(5), 2)
    first, again, other = (
        block_permutation_test(statistic, blocks, blocks, permutations=50, seed=s) for s in (1, 1, 2)
    )
    assert first == again
    assert first.null != other.null
