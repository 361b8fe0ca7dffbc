"""Nulls by blocks: uniform where naive shuffling fails, complete where they can be counted, blocks never cut."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, t

from emvfm.domain.frechet import frechet_from_gram, gram
from emvfm.domain.resampling import (
    block_jackknife_interval,
    block_permutation_test,
    equal_rows,
    split_halves,
)
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


def test_p_values_of_the_frechet_distance_are_uniform_by_blocks_and_not_by_rows() -> None:
    rng = np.random.default_rng(11)
    blocks, rows, rest = np.repeat(np.arange(6), 4), np.arange(24), rng.uniform(size=200)
    by_block, by_row = [], []
    for seed in range(200):
        centres = rng.normal(size=(12, 3))
        matrix = gram(np.repeat(centres, 4, axis=0) + 0.05 * rng.normal(size=(48, 3)))

        def statistic(a: np.ndarray, b: np.ndarray, matrix: np.ndarray = matrix) -> float:
            return frechet_from_gram(matrix, a, b)

        by_block.append(block_permutation_test(statistic, blocks, blocks, permutations=19, seed=seed).p_value)
        by_row.append(block_permutation_test(statistic, rows, rows, permutations=19, seed=seed).p_value)
    # p is one of 1/20 … 20/20; uniform noise within each step makes it continuous for the KS test.
    assert kstest(np.array(by_block) - rest / 20, "uniform").pvalue > 0.01
    assert kstest(np.array(by_row) - rest / 20, "uniform").pvalue < 1e-6
    assert np.mean(np.array(by_block) <= 0.05) < 0.1
    assert np.mean(np.array(by_row) <= 0.05) > 0.5


@given(
    permutations=st.integers(1, 60),
    seed=st.integers(0, 1000),
    n_x=st.integers(1, 4),
    n_y=st.integers(1, 4),
    shift=st.floats(-3, 3),
)
def test_a_p_value_is_a_count_that_holds_the_observed_value_itself(
    permutations: int, seed: int, n_x: int, n_y: int, shift: float
) -> None:
    values = np.random.default_rng(seed).normal(size=2 * (n_x + n_y)) + shift
    x, y = np.repeat(np.arange(n_x), 2), np.repeat(np.arange(n_y), 2)
    test = block_permutation_test(_mean_difference(values), x, y, permutations=permutations, seed=seed)
    assert 1 / (permutations + 1) <= test.p_value <= 1
    assert test.p_value * (permutations + 1) == pytest.approx(round(test.p_value * (permutations + 1)))
    assert test.distinct == math.comb(n_x + n_y, n_x)
    exceeding = sum(value > test.observed + 1e-9 for value in test.null)
    touching = sum(value >= test.observed - 1e-9 for value in test.null)
    assert (1 + exceeding) / (permutations + 1) <= test.p_value <= (1 + touching) / (permutations + 1)


@pytest.mark.parametrize("shift", [1.0, 0.5, -0.3])
def test_the_p_value_approaches_that_of_complete_enumeration(shift: float) -> None:
    # A signed statistic: an unbiased distance may be negative, and ties with the observed value count.
    rng = np.random.default_rng(9)
    values = rng.normal(size=18)
    values[:8] += shift
    x, y = np.repeat(np.arange(4), 2), np.repeat(np.arange(5), 2)

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        return math.fsum(values[a]) / len(a) - math.fsum(values[b]) / len(b)

    pairs = values.reshape(9, 2).mean(1)
    observed = statistic(np.arange(8), np.arange(8, 18))
    exact = np.mean(
        [
            pairs[list(c)].mean() - np.delete(pairs, list(c)).mean() >= observed - 1e-9
            for c in itertools.combinations(range(9), 4)
        ]
    )
    test = block_permutation_test(statistic, x, y, permutations=4000, seed=0)
    assert test.distinct == 126
    # Four standard errors of a proportion from 4000 draws.
    assert abs(test.p_value - exact) < 4 * math.sqrt(exact * (1 - exact) / 4000) + 1 / 4001


@pytest.mark.parametrize("value", [-5.0, 0.0, 1e-9, 7.0])
def test_ties_count_as_reached_whatever_their_sign(value: float) -> None:
    test = block_permutation_test(lambda a, b: value, [0, 1, 2], [0, 1], permutations=30)
    assert test.p_value == 1.0


def test_rounding_does_not_make_the_observed_relabelling_rarer_than_it_is() -> None:
    # Two blocks against two, far apart: 2 of 6 relabellings are the observed one, up to the order of rows.
    rng = np.random.default_rng(9)
    x = rng.normal(size=(40, 16))
    x[20:] += 30
    matrix = gram(x[:20], x[20:])
    blocks = np.repeat([0, 1], 10)
    test = block_permutation_test(
        lambda a, b: frechet_from_gram(matrix, a, b), blocks, blocks, permutations=600, seed=0
    )
    assert test.p_value == pytest.approx(1 / 3, abs=0.08)


def test_block_labels_need_no_order_and_no_numbering() -> None:
    values = np.random.default_rng(10).normal(size=12)
    seen = []

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        seen.append({"x": set(a.tolist()), "y": set(b.tolist())})
        return float(values[a].mean() - values[b].mean())

    block_permutation_test(statistic, [7, 3, 7, 3, 9, 9], [3, 3, 7, 1, 7, 1], permutations=50)
    wholes = ({0, 2}, {1, 3}, {4, 5}, {6, 7}, {8, 10}, {9, 11})
    assert all(whole <= side["x"] or whole <= side["y"] for side in seen for whole in wholes)
    assert len({frozenset(side["x"]) for side in seen}) > 10


@given(
    x=st.lists(st.integers(0, 5), min_size=2, max_size=20),
    y=st.lists(st.integers(0, 5), min_size=2, max_size=20),
    seed=st.integers(0, 100),
)
def test_halves_never_split_a_block_whatever_the_blocks(x: list[int], y: list[int], seed: int) -> None:
    owner = [("x", b) for b in x] + [("y", b) for b in y]
    calls: list[tuple[set, set]] = []

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        assert len(a) == len(b) == len(set(a.tolist())) == len(set(b.tolist())) >= 2
        calls.append(({owner[i] for i in a}, {owner[i] for i in b}))
        return 1.0

    halves = split_halves(statistic, x, y, repeats=5, seed=seed)
    assert not any(first & second for first, second in calls)
    assert len(halves.within) == 2 * len(halves.between)
    if min(len(set(x)), len(set(y))) < 2:
        assert not calls
        assert halves.ratio is None


def test_the_ratio_is_one_where_the_domains_are_one_and_grows_with_their_distance() -> None:
    rng = np.random.default_rng(12)
    base = np.repeat(rng.normal(size=(40, 5)), 3, axis=0)
    blocks = np.repeat(np.arange(20), 3).tolist()
    ratios = []
    for shift in (0.0, 1.0, 4.0):
        moved = base.copy()
        moved[60:] += shift
        matrix = gram(moved[:60], moved[60:])
        halves = split_halves(lambda a, b, m=matrix: frechet_from_gram(m, a, b), blocks, blocks, repeats=40)
        ratios.append(halves.ratio)
    assert 0.5 < ratios[0] < 2
    assert ratios[0] < ratios[1] < ratios[2]
    # Identical rows within and between: no distance at all, hence no ratio rather than a division by nought.
    assert split_halves(lambda a, b: 0.0, blocks, blocks, repeats=3).ratio is None


def test_the_jackknife_leaves_out_each_block_once() -> None:
    rng = np.random.default_rng(13)
    x, y = rng.normal(size=(14, 4)), rng.normal(size=(11, 4)) + 2
    blocks_x, blocks_y = [0] * 3 + [1] * 4 + [5] * 5 + [2] * 2, [4, 4, 4, 0, 0, 1, 1, 1, 1, 0, 4]
    matrix = gram(x, y)

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        return frechet_from_gram(matrix, a, b)

    variance = 0.0
    for blocks, other, offset in ((blocks_x, np.arange(14, 25), 0), (blocks_y, np.arange(14), 14)):
        labels = set(blocks)
        values = []
        for label in labels:
            kept = np.array([i + offset for i, b in enumerate(blocks) if b != label])
            values.append(statistic(kept, other) if offset == 0 else statistic(other, kept))
        variance += (len(labels) - 1) / len(labels) * sum((v - np.mean(values)) ** 2 for v in values)
    margin = t.ppf(0.95, 3 + 2) * math.sqrt(variance)
    value = statistic(np.arange(14), np.arange(14, 25))
    expected = (max(0.0, value - margin), value + margin)
    assert block_jackknife_interval(statistic, blocks_x, blocks_y, level=0.9) == pytest.approx(expected)


def test_a_higher_coverage_is_a_wider_interval() -> None:
    values = np.random.default_rng(14).normal(size=12)
    values[:6] += 9
    intervals = [
        block_jackknife_interval(_mean_difference(values), range(6), range(6), level=level)
        for level in (0.5, 0.9, 0.99)
    ]
    widths = [high - low for low, high in intervals]
    assert widths[0] < widths[1] < widths[2]


def test_the_seed_decides_the_halves() -> None:
    statistic = _mean_difference(np.random.default_rng(15).normal(size=24))
    blocks = np.repeat(np.arange(6), 2)
    first, again, other = (split_halves(statistic, blocks, blocks, repeats=8, seed=s) for s in (4, 4, 5))
    assert first == again
    assert first != other


def test_smaller_may_mean_further_apart() -> None:
    rng = np.random.default_rng(12)
    values = np.concatenate([rng.normal(size=12), 3 + rng.normal(size=12)])
    difference, blocks = _mean_difference(values), np.repeat(np.arange(6), 2)
    larger = block_permutation_test(difference, blocks, blocks, permutations=200, seed=1)
    smaller = block_permutation_test(
        lambda a, b: -difference(a, b), blocks, blocks, permutations=200, seed=1, further="smaller"
    )
    assert smaller.p_value == larger.p_value < 0.05
    assert smaller.null == tuple(-v for v in larger.null)


def test_values_that_are_not_a_number_count_for_nothing() -> None:
    calls = itertools.count()

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        return math.nan if next(calls) % 3 == 2 else 1.0

    blocks = [0, 0, 1, 1, 2, 2, 3, 3]
    test = block_permutation_test(statistic, blocks, blocks, permutations=98)
    assert len(test.null) == 65  # of 99 calls every third, the first is the observed one
    assert test.p_value == 1.0
    assert split_halves(lambda a, b: math.nan, blocks, blocks).ratio is None
    assert block_jackknife_interval(lambda a, b: math.nan, blocks, blocks) is None


def test_an_interval_stays_within_its_bounds() -> None:
    values = np.random.default_rng(13).normal(size=16)
    blocks = np.repeat(np.arange(4), 2)

    def difference(a: np.ndarray, b: np.ndarray) -> float:
        return float(values[a].mean() - values[b].mean())

    low, high = block_jackknife_interval(difference, blocks, blocks, bounds=(-math.inf, math.inf))
    assert low < difference(np.arange(8), 8 + np.arange(8)) < high
    assert block_jackknife_interval(
        difference, blocks, blocks, bounds=(low + 0.1, high - 0.1)
    ) == pytest.approx((low + 0.1, high - 0.1))


@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=2, max_size=4),
    seed=st.integers(0, 99),
)
def test_equal_rows_are_equally_many_from_equally_many_blocks(sizes: list[list[int]], seed: int) -> None:
    groups = [np.repeat(np.arange(len(lengths)), lengths).tolist() for lengths in sizes]
    chosen = equal_rows(groups, seed=seed)
    assert len({len(rows) for rows in chosen}) == 1
    if max(map(max, sizes)) == 1:
        assert {len(rows) for rows in chosen} == {min(map(len, sizes))}
    fewest = min(map(len, sizes))
    for rows, labels in zip(chosen, groups, strict=True):
        assert rows.tolist() == sorted(set(rows.tolist()))
        blocks = np.asarray(labels)[rows]
        assert len(set(blocks.tolist())) <= fewest
        for block in set(blocks.tolist()):  # consecutive slices from the start of a block
            members = rows[blocks == block]
            assert members.tolist() == list(range(labels.index(block), labels.index(block) + len(members)))
    assert all((a == b).all() for a, b in zip(chosen, equal_rows(groups, seed=seed), strict=True))
