"""Intervals: coverage on known populations, and what they say where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.representations.estimates import bootstrap_mean, jackknife


def test_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.exponential(size=(200, 40))
    boot = [bootstrap_mean(values, units="rows", samples=400) for values in drawn]
    jack = [jackknife(lambda rows, v=values: float(v[rows].mean()), 40) for values in drawn]
    for found in (boot, jack):
        assert 0.86 < np.mean([e.low <= 1 <= e.high for e in found]) <= 0.99


def test_the_jackknife_of_a_mean_is_student_s_interval() -> None:
    from scipy.stats import t

    values = np.random.default_rng(1).normal(size=30)
    found = jackknife(lambda rows: float(values[rows].mean()), 30)
    margin = t.ppf(0.975, 29) * values.std(ddof=1) / math.sqrt(30)
    assert found.high - found.value == pytest.approx(margin)


def test_too_few_units_have_no_interval_and_say_so() -> None:
    assert bootstrap_mean([0.3], units="groups").low is None
    assert bootstrap_mean([], units="groups").to_json()["value"] is None
    assert "2 groups" in jackknife(lambda rows: 1.0, 10, [0] * 5 + [1] * 5).method
    assert "undefined" in jackknife(lambda rows: 1.0 if len(rows) == 9 else math.nan, 9).method
    assert bootstrap_mean([1, 2, math.nan], units="groups").n == 2
    with pytest.raises(UsageError, match="coverage"):
        jackknife(lambda rows: 1.0, 10, level=1.0)
    with pytest.raises(UsageError, match="one group per row"):
        jackknife(lambda rows: 1.0, 10, [1, 2])
