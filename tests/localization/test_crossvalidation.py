"""The protocol as a whole: nothing of a test fold gets into it, and a leak of known size is found."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.crossvalidation import cross_validate
from emvfm.localization.leak import measure_leak
from emvfm.localization.metrics import METRICS
from emvfm.localization.options import HeadOptions, ProtocolOptions
from emvfm.localization.predictions import difference_interval, fold_values, mean_interval
from emvfm.localization.simulation import expected_leak, simulate_embeddings

KNN = HeadOptions(head="knn", neighbours=5)
MLP = HeadOptions(hidden=(16,), epochs=8, batch=64, patience=3)


def _data(seed: int = 0, proteins: int = 60, fields: int = 3, classes: int = 4):
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"p{i:03d}" for i in range(proteins)], fields)
    labels = np.repeat(rng.random((proteins, classes)) < 0.35, fields, axis=0)
    return simulate_embeddings(labels, groups, width=12, signal=0.6, seed=seed), labels, groups


@pytest.mark.parametrize("head", [KNN, MLP, HeadOptions(head="logreg")])
@pytest.mark.parametrize("rule", ["global", "per-class"])
@pytest.mark.parametrize("level", ["row", "group"])
def test_labels_of_a_test_fold_change_nothing_but_its_scores(head, rule, level) -> None:
    """Thresholds, weights and stopping epoch are the same whatever the test rows' labels are."""
    x, labels, groups = _data()
    protocol = ProtocolOptions(folds=3, thresholds=rule, level=level)
    first = cross_validate(x, labels, groups, head, protocol)
    test = np.flatnonzero(first.folds.fold == 0)
    wrong = labels.copy()
    wrong[test] = ~wrong[test]
    second = cross_validate(x, wrong, groups, head, protocol, folds=first.folds)
    assert second.runs[0].thresholds == first.runs[0].thresholds
    assert second.runs[0].training == first.runs[0].training
    assert second.runs[0].scores != first.runs[0].scores
    np.testing.assert_array_equal(second.row_scores[test], first.row_scores[test])
    # It would have shown: the other folds did learn from these labels, and decide elsewhere.
    assert any(a.thresholds != b.thresholds for a, b in zip(first.runs[1:], second.runs[1:], strict=True))


def test_embeddings_of_a_test_fold_change_no_other_score() -> None:
    x, labels, groups = _data()
    protocol = ProtocolOptions(folds=3)
    head = replace(MLP, pca=5)
    first = cross_validate(x, labels, groups, head, protocol)
    test = np.flatnonzero(first.folds.fold == 1)
    moved = x.copy()
    moved[test[0]] += 1000
    second = cross_validate(moved, labels, groups, head, protocol)
    np.testing.assert_array_equal(second.row_scores[test[1:]], first.row_scores[test[1:]])
    assert second.runs[1].thresholds == first.runs[1].thresholds


def test_out_of_fold_scores_fold_means_and_both_deviations() -> None:
    x, labels, groups = _data()
    seen = []
    found = cross_validate(x, labels, groups, KNN, ProtocolOptions(thresholds="fixed"), progress=seen.append)
    assert [run.fold for run in seen] == [0, 1, 2, 3, 4]
    assert np.isfinite(found.row_scores).all()
    np.testing.assert_array_equal(found.predictions.labels, labels)
    np.testing.assert_array_equal(found.predictions.fold, found.folds.fold)
    per_fold = [
        f1_score(labels[t], found.row_scores[t] > 0.5, average="macro", zero_division=0)
        for _, t in found.folds
    ]
    mean = found.mean("macro_f1_all")
    assert mean.values == pytest.approx(per_fold, abs=1e-12)
    assert (mean.mean, mean.std_ddof0) == pytest.approx((np.mean(per_fold), np.std(per_fold)))
    assert mean.std_ddof1 == pytest.approx(np.std(per_fold, ddof=1))
    assert mean.std_ddof1 == pytest.approx(mean.std_ddof0 * np.sqrt(5 / 4))
    assert "(ddof 0)" in mean.text()
    assert "(ddof 1)" in mean.text()
    for own in found.means:  # two ways to the same numbers
        assert own.values == pytest.approx(found.mean(own.metric).values, abs=1e-12)
    assert [m.metric for m in found.means] == list(METRICS)
    json.dumps(found.to_json(), allow_nan=False)
    again = cross_validate(x, labels, groups, KNN, ProtocolOptions(thresholds="fixed"))
    assert again.to_json() == found.to_json()


def test_the_protein_level_scores_each_protein_once() -> None:
    x, labels, groups = _data()
    found = cross_validate(x, labels, groups, KNN, ProtocolOptions(level="group", thresholds="fixed"))
    assert found.pooled.n == found.pooled.n_groups == 60
    assert "groups (mean of rows)" in found.pooled.protocol
    order = np.argsort(found.predictions.group)
    by_hand = found.row_scores.reshape(60, 3, 4).mean(axis=1)
    np.testing.assert_allclose(found.predictions.scores[order], by_hand, rtol=1e-12)


@pytest.mark.parametrize("proteins", [60, 6])
@pytest.mark.parametrize("metric", ["macro_f1_present", "macro_ap", "exact_match"])
def test_intervals_over_proteins_are_those_of_a_loop(metric, proteins) -> None:
    x, labels, groups = _data(proteins=proteins)
    found = cross_validate(x, labels, groups, KNN, ProtocolOptions(folds=3, thresholds="fixed")).predictions
    estimate = mean_interval(found, metric, samples=40, seed=3)
    draws = np.random.default_rng(3).multinomial(proteins, np.full(proteins, 1 / proteins), size=40)
    replicates = []
    for draw in draws:
        rows = np.concatenate([np.repeat(np.flatnonzero(found.group == g), n) for g, n in enumerate(draw)])
        parts = {f: getattr(found, f)[rows] for f in ("labels", "scores", "decided", "group", "fold", "unit")}
        replicates.append(fold_values(type(found)(**parts), metric).mean)
    ends = np.quantile(replicates, [0.025, 0.975]) + estimate.value - np.mean(replicates)
    assert (estimate.low, estimate.high) == pytest.approx(np.clip(ends, 0, 1), abs=1e-12)
    assert estimate.bias == pytest.approx(np.mean(replicates) - estimate.value, abs=1e-12)
    assert estimate.low <= estimate.value <= estimate.high
    assert (estimate.n, estimate.n_groups, estimate.seed) == (3 * proteins, proteins, 3)
    none = difference_interval(found, found, metric, samples=20)
    assert (none.value, none.low, none.high, none.p_value) == (0, 0, 0, 1)


def test_ungrouped_folds_overstate_by_the_known_amount_and_say_so(opencell) -> None:
    groups = np.repeat(np.arange(len(opencell)), 4)
    labels = opencell[groups]
    x = simulate_embeddings(labels, groups, width=24, noise=0.05, seed=0)
    nearest = HeadOptions(head="knn", neighbours=1, standardise=False, distance="euclidean")
    leak, _, ungrouped = measure_leak(
        x, labels, groups, nearest, ProtocolOptions(thresholds="fixed"), metric="macro_f1_all", samples=200
    )
    expected = expected_leak(labels, ungrouped.folds.report.seen_rows)
    assert leak.ungrouped.mean == pytest.approx(expected.ungrouped, abs=0.01)
    assert leak.grouped.mean == pytest.approx(expected.grouped, abs=0.03)
    assert leak.overstatement.value == pytest.approx(expected.overstatement, abs=0.03)
    assert leak.overstatement.low < expected.overstatement < leak.overstatement.high
    assert leak.overstatement.low > 0.5
    assert leak.text().startswith("ungrouped folds overstate macro_f1_all: ")
    assert "cross folds" in leak.text()
    json.dumps(leak.to_json(), allow_nan=False)


def test_without_a_look_of_their_own_proteins_do_not_leak() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(150), 3)
    labels = np.repeat(rng.random((150, 3)) < 0.4, 3, axis=0)
    x = simulate_embeddings(labels, groups, width=8, signal=1.0, identity=0.0, noise=1.0)
    leak, *_ = measure_leak(x, labels, groups, KNN, ProtocolOptions(thresholds="fixed"), samples=200)
    assert leak.overstatement.low < 0.02
    assert abs(leak.overstatement.value) < 0.05
    clear = leak.overstatement.low > 0 or leak.overstatement.high < 0
    assert ("do not measurably overstate" in leak.text()) is not clear


def test_what_does_not_fit_is_refused() -> None:
    x, labels, groups = _data()
    with pytest.raises(UsageError, match="one embedding a row"):
        cross_validate(x[:5], labels, groups)
    other = cross_validate(x[:90], labels[:90], groups[:90], KNN, ProtocolOptions(folds=3))
    with pytest.raises(RefusedError, match="folds of other rows"):
        cross_validate(x, labels, groups, KNN, folds=other.folds)
    with pytest.raises(UsageError, match="no such score"):
        other.mean("f3")
    whole = cross_validate(x, labels, groups, KNN, ProtocolOptions(folds=3))
    with pytest.raises(RefusedError, match="same groups"):
        difference_interval(whole.predictions, other.predictions, "macro_ap")
