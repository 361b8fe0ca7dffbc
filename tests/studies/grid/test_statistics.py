"""Statistics over seeds against SciPy, enumeration and textbook numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from emvfm.errors import UsageError
from emvfm.segmentation.comparison import holm
from emvfm.studies.grid.statistics import mean_over, sign_flip


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_students_interval_is_that_of_scipy(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(0.7, 0.02, n)
    found = mean_over(values, level)
    low, high = stats.t.interval(level, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert found.n == n


def test_students_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = [(m := mean_over(rng.normal(0, 1, 4), 0.9)).low < 0 < m.high for _ in range(2000)]
    assert np.mean(hits) == pytest.approx(0.9, abs=0.02)


def test_a_single_value_has_no_spread() -> None:
    found = mean_over([0.5])
    assert (found.mean, found.sd, found.low, found.high) == (0.5, None, None, None)
    with pytest.raises(UsageError):
        mean_over([])


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_flips_of_signs_are_those_of_enumeration(n: int) -> None:
    d = np.random.default_rng(n).normal(0.3, 1, n)
    ways = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=n)]
    expected = np.mean([way >= abs(d.sum()) - 1e-12 for way in ways])
    found = sign_flip(d)
    assert found.p_value == pytest.approx(expected)
    assert found.smallest == min(1.0, 2 / 2**n)


def test_flips_of_signs_are_those_of_scipy() -> None:
    d = np.random.default_rng(5).normal(0.5, 1, 8)
    expected = stats.permutation_test(
        (d,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip(d).p_value == pytest.approx(expected.pvalue)


def test_many_pairs_are_flipped_at_random_and_agree_with_the_exact_test() -> None:
    d = np.random.default_rng(2).normal(0.4, 1, 17)
    signs = 1 - 2 * ((np.arange(2**17)[:, None] >> np.arange(17)) % 2)
    exact = np.mean(np.abs(signs @ d) >= abs(d.sum()) - 1e-12)
    found = sign_flip(d, samples=9999, seed=1)
    assert found.p_value == pytest.approx(exact, abs=0.02)
    assert found == sign_flip(d, samples=9999, seed=1)
    assert "random" in found.method


def test_darwins_maize_is_fishers_example() -> None:
    """Fisher 1935, The Design of Experiments, §21: 863 of the 16384 one-sided ways, exactly."""
    d = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sign_flip(d).p_value == pytest.approx(2 * 863 / 2**15)


def test_holm_is_that_of_the_textbook() -> None:
    """p sorted, times 4, 3, 2, 1, and never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
