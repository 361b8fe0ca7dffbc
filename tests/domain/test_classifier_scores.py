"""Scores by blocks against scikit-learn's on the resampled rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from emvfm.domain.classifier_scores import Estimate, ScoredRows, block_weights, interval, recalls


def _rows(seed: int, n: int = 120, n_blocks: int = 7):
    rng = np.random.default_rng(seed)
    positive, blocks = rng.random(n) < 0.4, rng.integers(0, n_blocks, n)
    scores = np.round(rng.normal(size=n) + positive, 1)  # with ties
    return scores, positive, blocks, n_blocks


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_a_resample_are_scikit_learns_on_the_repeated_rows(seed: int) -> None:
    scores, positive, blocks, n_blocks = _rows(seed)
    rows = ScoredRows(scores, positive, blocks, n_blocks, threshold=0.3)
    weights = block_weights([np.arange(n_blocks)], 5, np.random.default_rng(seed))
    assert (weights.sum(axis=1) == n_blocks).all()
    for i, weight in enumerate([np.ones(n_blocks), *weights]):
        repeated = np.repeat(np.arange(len(scores)), weight[blocks].astype(int))
        y, s = positive[repeated], scores[repeated]
        expected = (
            roc_auc_score(y, s), average_precision_score(y, s), balanced_accuracy_score(y, s > 0.3),
        )  # fmt: skip
        given = None if i == 0 else weight
        found = (rows.auroc(given), rows.average_precision(given), rows.balanced_accuracy(given))
        assert [float(f[0]) for f in found] == pytest.approx(expected, rel=1e-12)


def test_all_resamples_at_once_are_the_single_ones() -> None:
    scores, positive, blocks, n_blocks = _rows(9)
    rows = ScoredRows(scores, positive, blocks, n_blocks)
    weights = block_weights([np.arange(n_blocks)], 20, np.random.default_rng(0))
    for measure in (rows.auroc, rows.average_precision, rows.balanced_accuracy):
        np.testing.assert_allclose(measure(weights), [measure(w)[0] for w in weights])


def test_a_resample_of_one_class_has_no_score() -> None:
    rows = ScoredRows([0.0, 1.0], [False, True], [0, 1], 2)
    for measure in (rows.auroc, rows.average_precision, rows.balanced_accuracy):
        np.testing.assert_array_equal(np.isnan(measure([[1, 1], [2, 0], [0, 2]])), [False, True, True])
    assert interval(rows.auroc([[2, 0]]), 0.95) == (None, None)


def test_strata_are_resampled_within_themselves() -> None:
    weights = block_weights([[0, 1], [2, 3, 4]], 50, np.random.default_rng(1))
    assert (weights[:, :2].sum(axis=1) == 2).all()
    assert (weights[:, 2:].sum(axis=1) == 3).all()
    assert len(np.unique(weights, axis=0)) > 10


def test_an_untested_row_counts_as_a_guess() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [np.nan] * 3])
    np.testing.assert_allclose(recalls(probabilities, np.array([0, 1, 2])), [1, 0, 1 / 3])


def test_an_interval_holds_its_level_and_an_estimate_reads_well() -> None:
    assert interval(np.arange(101.0), 0.9) == pytest.approx((5, 95))
    assert str(Estimate(0.912, 0.88, 0.934)) == "0.91 [0.88, 0.93]"
    assert str(Estimate(0.912)) == "0.91"
