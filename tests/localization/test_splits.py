"""Splits that somebody else decided, what is scored in them, and curves of label efficiency."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.comparison import compare, compare_all
from emvfm.localization.crossvalidation import cross_validate
from emvfm.localization.efficiency import label_efficiency, nested_rows
from emvfm.localization.folds import make_folds
from emvfm.localization.heads import fit_head
from emvfm.localization.options import HeadOptions, ProtocolOptions
from emvfm.localization.simulation import simulate_embeddings
from emvfm.localization.splits import one_split, value_folds

LOGREG = HeadOptions(head="logreg")
FIXED = ProtocolOptions(thresholds="fixed")


def _data(proteins: int = 60, fields: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"p{i:03d}" for i in range(proteins)], fields)
    labels = np.repeat(rng.random((proteins, 4)) < 0.4, fields, axis=0)
    return simulate_embeddings(labels, groups, width=12, signal=0.8, seed=seed), labels, groups


def test_a_split_learns_from_one_side_and_tests_the_other() -> None:
    x, labels, groups = _data()
    test = np.arange(len(x)) >= 120
    folds = one_split(labels, groups, test)
    assert (folds.k, folds.grouped, folds.report.rows, folds.report.crossing_groups) == (1, True, (60,), 0)
    found = cross_validate(x, labels, groups, LOGREG, FIXED, folds=folds)
    scores = fit_head(x[:120], labels[:120], LOGREG).scores(x[120:])
    np.testing.assert_array_equal(found.predictions.scores, scores)
    np.testing.assert_array_equal(found.predictions.unit, np.flatnonzero(test))
    assert np.isnan(found.row_scores[:120]).all()
    expected = f1_score(labels[test], scores > 0.5, average="macro")
    assert found.mean("macro_f1_present").mean == pytest.approx(expected, abs=1e-12)
    assert found.mean("macro_f1_present").std_ddof1 is None
    interval = found.interval("macro_f1_present", samples=50)
    assert interval.n_groups == 20
    assert interval.low is not None
    assert interval.low < expected
    json.dumps(found.to_json(), allow_nan=False)


def test_a_split_through_proteins_is_not_called_grouped() -> None:
    _, labels, groups = _data(proteins=4, fields=3)
    folds = one_split(labels, groups, np.arange(12) >= 7)
    assert not folds.grouped
    assert folds.report.crossing_groups == 1
    assert folds.report.seen_rows == pytest.approx(2 / 5)
    assert "too high for new groups" in folds.report.text()
    for test in (np.zeros(12, bool), np.ones(12, bool)):
        with pytest.raises(RefusedError, match="nothing to learn from"):
            one_split(labels, groups, test)
    with pytest.raises(UsageError):
        one_split(labels, groups, np.ones(11, bool))


def test_each_value_is_left_out_in_turn() -> None:
    x, labels, groups = _data()
    plates = np.array(["b", "a", "c"])[np.arange(len(x)) // 60]
    folds = value_folds(labels, groups, plates)
    assert (folds.k, folds.report.rows, folds.grouped) == (3, (60, 60, 60), True)
    assert [set(plates[test]) for _, test in folds] == [{"a"}, {"b"}, {"c"}]
    found = cross_validate(x, labels, groups, LOGREG, FIXED, folds=folds)
    alone = fit_head(x[60:], labels[60:], LOGREG).scores(x[:60])
    np.testing.assert_array_equal(found.row_scores[:60], alone)
    with pytest.raises(RefusedError, match="a single value"):
        value_folds(labels, groups, ["a"] * len(x))


def test_runs_on_one_split_are_compared_over_proteins_only() -> None:
    x, labels, groups = _data()
    folds = one_split(labels, groups, np.arange(len(x)) >= 120)
    good = cross_validate(x, labels, groups, LOGREG, FIXED, folds=folds)
    noise = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    bad = cross_validate(noise, labels, groups, LOGREG, FIXED, folds=folds)
    found = compare(good, bad, samples=200)
    assert found.corrected is None
    assert found.signed_ranks is None
    assert found.p_holm == found.proteins.p_value
    assert found.p_value < 0.05
    assert "single split" in found.text()
    three = compare_all({"a": good, "b": bad, "c": good}, samples=200)
    assert three[0].p_holm >= three[0].p_value
    json.dumps([one.to_json() for one in three], allow_nan=False)


def test_cells_become_fields_and_fields_proteins() -> None:
    x, labels, groups = _data(proteins=40, fields=4)
    fields = np.array([f"{g}-{i % 2}" for i, g in enumerate(groups)])
    shared = {"units": fields}
    rows = cross_validate(x, labels, groups, LOGREG, FIXED)
    unit = cross_validate(
        x, labels, groups, LOGREG, ProtocolOptions(thresholds="fixed", level="unit"), **shared
    )
    assert len(unit.predictions.labels) == 80
    np.testing.assert_array_equal(unit.row_scores, rows.row_scores)
    names = np.unique(fields)
    for at in (0, 17, 79):
        own = fields == names[unit.predictions.unit[at]]
        np.testing.assert_allclose(unit.predictions.scores[at], rows.row_scores[own].mean(axis=0))
        assert np.unique(groups)[unit.predictions.group[at]] == groups[own][0]
    # A field with three cells counts as much as one with one.
    uneven = np.where(np.arange(len(x)) % 4 == 0, fields, np.array([f"{g}-rest" for g in groups]))
    protein = cross_validate(
        x, labels, groups, LOGREG, ProtocolOptions(thresholds="fixed", level="group"), units=uneven
    )
    own = rows.row_scores[groups == "p007"]
    at = int(np.flatnonzero(protein.predictions.unit == 7)[0])
    np.testing.assert_allclose(protein.predictions.scores[at], (own[0] + own[1:].mean(axis=0)) / 2)
    with pytest.raises(UsageError, match="no units"):
        cross_validate(x, labels, groups, LOGREG, ProtocolOptions(level="unit"))


def test_shares_are_whole_proteins_each_within_the_next_with_their_share_of_every_label() -> None:
    _, labels, groups = _data(proteins=200, fields=2)
    number = np.unique(groups, return_inverse=True)[1]
    rows = np.flatnonzero(number % 5 != 0)
    found = nested_rows(labels, number, rows, [0.1, 0.5, 1.0], seed=3)
    assert set(found[0]) < set(found[1]) < set(found[2]) == set(rows)
    for share, own in zip([0.1, 0.5, 1.0], found, strict=True):
        assert len(own) == pytest.approx(share * len(rows), abs=4)
        assert (np.bincount(number[own])[np.unique(number[own])] == 2).all()
        np.testing.assert_allclose(labels[own].mean(axis=0), labels[rows].mean(axis=0), atol=0.12)
    for wrong in ([], [0.5, 0.1], [0.0, 0.5], [0.5, 1.2]):
        with pytest.raises(UsageError, match="not shares"):
            nested_rows(labels, number, rows, wrong)


def test_the_curve_ends_in_the_run_itself_and_says_where_a_head_cannot_be_fitted() -> None:
    x, labels, groups = _data(proteins=80)
    folds = make_folds(labels, groups)
    near = HeadOptions(head="knn", neighbours=30)
    run = cross_validate(x, labels, groups, near, FIXED, folds=folds)
    points = label_efficiency(x, labels, folds, near, FIXED, [0.05, 0.5, 1.0], samples=50)
    assert points[2].mean == run.mean("macro_f1_present")
    assert points[0].mean is None
    assert "more neighbours than rows" in str(points[0].failed)
    assert points[1].rows == pytest.approx(96, abs=3)
    assert points[1].groups == pytest.approx(32, abs=1)
    json.dumps([point.to_json() for point in points], allow_nan=False)
    curve = label_efficiency(x, labels, folds, LOGREG, FIXED, [0.1, 1.0], samples=50)
    assert curve[0].mean.mean < curve[1].mean.mean
