"""Comparisons on the same folds: formulas as twins, scipy, and how often chance alone is called a difference."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.comparison import compare, compare_all, corrected_t, wilcoxon
from emvfm.localization.crossvalidation import cross_validate
from emvfm.localization.options import HeadOptions, ProtocolOptions
from emvfm.localization.simulation import simulate_embeddings

PROTOCOL = ProtocolOptions(thresholds="fixed")


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 2)
    labels = np.repeat(rng.random((100, 4)) < 0.4, 2, axis=0)
    x = simulate_embeddings(labels, groups, width=10, signal=0.7)
    one = cross_validate(x, labels, groups, HeadOptions(head="logreg"), PROTOCOL)
    heads = {"near": HeadOptions(head="knn"), "noise": HeadOptions(head="knn")}
    inputs = {"near": x, "noise": rng.normal(size=x.shape).astype(np.float32)}
    others = {
        name: cross_validate(inputs[name], labels, groups, heads[name], PROTOCOL, folds=one.folds)
        for name in heads
    }
    return {"logreg": one, **others}


def test_the_corrected_t_is_the_plain_one_without_shared_rows_and_the_formula_with_them() -> None:
    values = [0.02, 0.05, -0.01, 0.03, 0.04]
    plain = stats.ttest_1samp(values, 0)
    near = corrected_t(values, 1e-12)
    assert (near.t, near.p_value) == pytest.approx((plain.statistic, plain.pvalue), rel=1e-9)
    assert (near.low, near.high) == pytest.approx(plain.confidence_interval(0.95), rel=1e-9)
    found = corrected_t(values, 0.25)
    mean = sum(values) / 5
    variance = sum((v - mean) ** 2 for v in values) / 4
    assert found.t == pytest.approx(mean / ((1 / 5 + 1 / 4) * variance) ** 0.5, rel=1e-12)
    assert found.t == pytest.approx(plain.statistic * (0.2 / 0.45) ** 0.5, rel=1e-12)
    assert found.p_value > plain.pvalue
    opposite = corrected_t([-v for v in values], 0.25)
    assert (opposite.t, opposite.p_value) == pytest.approx((-found.t, found.p_value))


def test_folds_that_differ_alike_or_not_at_all() -> None:
    nothing, same = corrected_t([0, 0, 0], 0.5), corrected_t([0.1, 0.1, 0.1], 0.5)
    assert (nothing.p_value, nothing.t) == (1.0, None)
    assert (same.p_value, same.t, same.low) == (0.0, None, pytest.approx(0.1))
    with pytest.raises(UsageError, match="two or more"):
        corrected_t([0.1], 0.5)
    with pytest.raises(UsageError, match="out of range"):
        corrected_t([0.1, 0.2], 0)


def test_signed_ranks_are_scipys_and_go_through_all_signs_with_ties() -> None:
    values = [0.02, 0.05, -0.01, 0.03, 0.04]
    assert wilcoxon(values).p_value == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)
    assert wilcoxon([1, 2, 3, 4, 5]).p_value == wilcoxon([1, 1, 1, 1, 1]).p_value == 0.0625
    assert wilcoxon([1, 2, 3, 4, 5]).smallest == 0.0625
    tied = np.array([1, 1, -1, 2, 2, 3])
    ranks = stats.rankdata(abs(tied))
    sums = [
        sum(r for r, s in zip(ranks, signs, strict=True) if s)
        for signs in itertools.product([0, 1], repeat=6)
    ]
    middle, own = ranks.sum() / 2, ranks[tied > 0].sum()
    expected = np.mean([abs(s - middle) >= abs(own - middle) for s in sums])
    assert wilcoxon(tied).p_value == pytest.approx(expected)
    assert wilcoxon([0, 0]).p_value == 1


def test_chance_alone_is_called_a_difference_less_often_than_by_the_plain_test() -> None:
    """Fold scores share a part, as folds share training rows: correlation 1/k is what the correction assumes."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(4000, 1)) * np.sqrt(0.2)
    folds = shared + rng.normal(size=(4000, 5)) * np.sqrt(0.8)
    plain = np.mean(stats.ttest_1samp(folds, 0, axis=1).pvalue < 0.05)
    own = np.mean([corrected_t(row, 0.25).p_value < 0.05 for row in folds])
    assert plain > 0.1
    assert own == pytest.approx(0.05, abs=0.012)


def test_runs_on_the_same_folds_are_compared(runs) -> None:
    found = compare(runs["logreg"], runs["noise"], names=("logreg", "noise"), samples=300)
    assert found.proteins.low > 0
    assert found.proteins.value == pytest.approx(found.first.mean - found.second.mean)
    assert found.corrected.difference == pytest.approx(found.proteins.value)
    assert found.corrected.ratio == 0.25
    assert found.text().startswith("logreg - noise: macro_f1_present +")
    json.dumps(found.to_json(), allow_nan=False)
    back = compare(runs["noise"], runs["logreg"], samples=300)
    assert back.proteins.value == pytest.approx(-found.proteins.value)
    assert (back.proteins.low, back.proteins.high) == pytest.approx(
        (-found.proteins.high, -found.proteins.low)
    )
    same = compare(runs["near"], runs["near"], samples=50)
    assert same.corrected.p_value == same.signed_ranks.p_value == same.proteins.p_value == 1


def test_many_runs_are_corrected_for_their_number(runs) -> None:
    found = compare_all(runs, "macro_ap", samples=30)
    assert [one.names for one in found] == [("logreg", "near"), ("logreg", "noise"), ("near", "noise")]
    raw = sorted(one.corrected.p_value for one in found)
    assert min(one.p_holm for one in found) == pytest.approx(min(1, 3 * raw[0]))
    assert all(one.p_holm >= one.corrected.p_value for one in found)
    against = compare_all(runs, against="noise", samples=30)
    assert [one.names for one in against] == [("logreg", "noise"), ("near", "noise")]
    with pytest.raises(UsageError, match="runs to compare"):
        compare_all(runs, against="gone")


def test_other_folds_are_refused(runs) -> None:
    rng = np.random.default_rng(0)
    groups, labels = np.arange(200), rng.random((200, 4)) < 0.4
    other = cross_validate(rng.normal(size=(200, 10)), labels, groups, HeadOptions(head="knn"), PROTOCOL)
    with pytest.raises(RefusedError, match="not the same folds"):
        compare(runs["near"], other)
    same_folds = cross_validate(
        rng.normal(size=(200, 10)),
        labels,
        groups,
        HeadOptions(head="knn"),
        PROTOCOL,
        folds=runs["near"].folds,
    )
    with pytest.raises(RefusedError, match="not the same labels"):
        compare(runs["near"], same_folds)
