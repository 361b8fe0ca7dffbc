"""Scores of localisation: scikit-learn and loops as oracles, and the cases that are undefined."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from emvfm.errors import UsageError
from emvfm.localization.metrics import METRICS, calibration_error, score


def _draw(seed: int, n: int, classes: int, ties: bool):
    rng = np.random.default_rng(seed)
    labels = rng.random((n, classes)) < rng.uniform(0.02, 0.7, classes)
    scores = np.clip(0.35 * labels + rng.random((n, classes)) * 0.65, 0, 1)
    if ties:
        scores = scores.round(1)
    return labels, scores, scores > 0.5


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 9), st.booleans())
def test_every_score_is_that_of_scikit_learn(seed: int, n: int, classes: int, ties: bool) -> None:
    labels, scores, decided = _draw(seed, n, classes, ties)
    found = score(labels, scores, decided)
    present = np.flatnonzero(labels.any(axis=0))
    ranked = [i for i in present if not labels[:, i].all()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "macro_f1_all": sk.f1_score(labels, decided, average="macro", zero_division=0),
            "micro_f1": sk.f1_score(labels, decided, average="micro", zero_division=0),
            "weighted_f1": sk.f1_score(labels, decided, average="weighted", zero_division=0),
            "samples_f1": sk.f1_score(labels, decided, average="samples", zero_division=0),
            "exact_match": sk.accuracy_score(labels, decided),
            "hamming_loss": sk.hamming_loss(labels, decided),
            "ranking_ap": sk.label_ranking_average_precision_score(labels, scores),
            "coverage_error": sk.coverage_error(labels, scores),
            "brier": np.mean([sk.brier_score_loss(t, s, pos_label=True) for t, s in zip(labels.T, scores.T, strict=True)]),
        }  # fmt: skip
        if len(present):
            expected["macro_f1_present"] = sk.f1_score(
                labels, decided, average="macro", labels=present, zero_division=0
            )
            expected["macro_ap"] = sk.average_precision_score(labels[:, present], scores[:, present])
            expected["micro_ap"] = sk.average_precision_score(labels, scores, average="micro")
        if ranked:
            expected["macro_auroc"] = sk.roc_auc_score(labels[:, ranked], scores[:, ranked])
        table = sk.precision_recall_fscore_support(labels, decided, average=None, zero_division=0)
    for name, value in expected.items():
        assert abs(found.value(name) - value) < 1e-12, name
    own = [[c.precision, c.recall, c.f1, c.support] for c in found.classes]
    np.testing.assert_allclose(own, np.array(table).T, rtol=0, atol=1e-12)
    for i, one in enumerate(found.classes):
        assert (one.ap is None) == (i not in present)
        if one.ap is not None:
            assert abs(one.ap - sk.average_precision_score(labels[:, i], scores[:, i])) < 1e-12
        if one.auroc is not None:
            assert abs(one.auroc - sk.roc_auc_score(labels[:, i], scores[:, i])) < 1e-12
    assert set(METRICS) <= set(found.to_json())
    json.dumps(found.to_json(), allow_nan=False)


def test_calibration_error_is_that_of_a_loop_over_bins() -> None:
    labels, scores, _ = _draw(1, 400, 3, False)
    scores[0, 0], scores[1, 0] = 1.0, 0.0
    for truth, values in zip(labels.T, scores.T, strict=True):
        expected = 0.0
        for low in np.arange(10) / 10:
            inside = (values >= low) & ((values < low + 0.1) | ((low > 0.85) & (values == 1)))
            if inside.any():
                expected += inside.mean() * abs(truth[inside].mean() - values[inside].mean())
        assert abs(calibration_error(truth, values, bins=10) - expected) < 1e-9


def test_what_is_undefined_is_none_or_nought() -> None:
    labels = np.array([[0, 1, 0], [0, 1, 0]])
    scores = np.array([[0.9, 0.8, 0.1], [0.1, 0.9, 0.2]])
    found = score(labels, scores, scores > 0.5, names=["a", "b", "c"], groups=["p", "p"])
    absent, everywhere, never = found.classes
    assert (absent.ap, absent.auroc, absent.f1) == (None, None, 0.0)
    assert (everywhere.ap, everywhere.auroc, everywhere.f1) == (1.0, None, 1.0)
    assert (never.support, never.predicted, never.f1) == (0, 0, 0.0)
    assert found.macro_auroc is None
    assert np.isnan(found.value("macro_auroc"))
    assert (found.macro_f1_present, found.macro_f1_all) == (1.0, pytest.approx(1 / 3))
    assert (found.n, found.n_groups, found.n_present) == (2, 1, 1)


def test_nothing_there_and_nothing_predicted() -> None:
    nothing = np.zeros((3, 2))
    found = score(nothing, nothing + 0.1, nothing)
    assert (found.macro_f1_present, found.micro_f1, found.samples_f1, found.exact_match) == (0, 0, 0, 1)
    assert (found.macro_ap, found.micro_ap, found.ranking_ap, found.coverage_error) == (None, None, 1, 0)


def test_scores_do_not_depend_on_the_order_of_rows() -> None:
    labels, scores, decided = _draw(5, 5000, 6, True)
    order = np.random.default_rng(0).permutation(5000)
    first, second = score(labels, scores, decided), score(labels[order], scores[order], decided[order])
    for metric in METRICS:
        assert first.value(metric) == pytest.approx(second.value(metric), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "decided"),
    [
        ([[0, 1]], [[0.1]], [[0, 1]]),
        ([[0, 2]], [[0.1, 0.2]], [[0, 1]]),
        ([[0, 1]], [[0.1, np.nan]], [[0, 1]]),
        ([[0, 1]], [[0.1, 0.2]], [[0.1, 0.2]]),
        (np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 2))),
    ],
)
def test_what_cannot_be_scored_is_refused(labels, scores, decided) -> None:
    with pytest.raises(UsageError):
        score(labels, scores, decided)
    with pytest.raises(UsageError, match="no such score"):
        score([[1]], [[1.0]], [[1]]).value("f2")
