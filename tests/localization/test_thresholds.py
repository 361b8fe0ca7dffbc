"""Thresholds: the best of all cuts, by exhaustive search, and blind to all rows but those given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from emvfm.errors import UsageError
from emvfm.localization.thresholds import Thresholds, fixed_thresholds, tune_thresholds


def _draw(seed: int, n: int = 24, classes: int = 3):
    rng = np.random.default_rng(seed)
    labels = rng.random((n, classes)) < 0.4
    labels[0] = True
    return labels, (0.4 * labels + 0.6 * rng.random((n, classes))).round(int(rng.integers(1, 5)))


def _every_cut(scores: np.ndarray) -> np.ndarray:
    found = np.unique(scores)
    return np.concatenate([[found[0] - 1], (found[1:] + found[:-1]) / 2, [found[-1]], [0.5]])


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 9999))
def test_no_cut_is_better(seed: int) -> None:
    labels, scores = _draw(seed)
    own = tune_thresholds(labels, scores, "per-class", least=1)
    decided = own.decide(scores)
    for i in range(3):
        best = max(
            f1_score(labels[:, i], scores[:, i] > cut, zero_division=0) for cut in _every_cut(scores[:, i])
        )
        assert f1_score(labels[:, i], decided[:, i], zero_division=0) == pytest.approx(best, abs=1e-12)
    common = tune_thresholds(labels, scores, "global")
    assert len(set(common.values)) == 1
    best = max(f1_score(labels, scores > cut, average="macro", zero_division=0) for cut in _every_cut(scores))
    found = f1_score(labels, common.decide(scores), average="macro", zero_division=0)
    assert found == pytest.approx(best, abs=1e-12)


def test_among_equally_good_cuts_the_fixed_one_is_kept() -> None:
    assert tune_thresholds([[0], [1]], [[0.1], [0.9]], least=1).values == (0.5,)
    assert tune_thresholds([[0], [1]], [[0.6], [0.9]], least=1).values == (0.75,)
    assert tune_thresholds([[1], [1]], [[0.2], [0.4]], least=1).values[0] < 0.2
    np.testing.assert_array_equal(
        tune_thresholds([[1], [1]], [[0.2], [0.4]], least=1).decide([[0.2]]), [[True]]
    )


def test_classes_without_enough_positives_take_the_common_threshold() -> None:
    labels, scores = _draw(3, n=60)
    labels[:, 2] = False
    labels[7, 2] = True
    found = tune_thresholds(labels, scores, least=5)
    assert found.too_rare == (2,)
    assert found.values[2] == tune_thresholds(labels, scores, "global").values[0]
    assert found.tuned_on == 60
    nothing = tune_thresholds(np.zeros((4, 2)), np.zeros((4, 2)))
    assert nothing.values == (0.5, 0.5)


def test_fixed_thresholds_look_at_nothing() -> None:
    labels, scores = _draw(4)
    assert tune_thresholds(labels, scores, "fixed", fixed=0.3) == fixed_thresholds(3, 0.3)
    np.testing.assert_array_equal(fixed_thresholds(1).decide([[0.5], [0.51]]), [[False], [True]])


def test_neighbouring_numbers_can_be_told_apart() -> None:
    low = 0.7
    high = np.nextafter(low, 1)
    found = tune_thresholds([[0], [1]], [[low], [high]], least=1)
    np.testing.assert_array_equal(found.decide([[low], [high]]), [[False], [True]])


def test_what_cannot_be_tuned_is_refused() -> None:
    with pytest.raises(UsageError, match="no such rule"):
        tune_thresholds([[1]], [[0.5]], "best")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not one score a class"):
        Thresholds("fixed", (0.5,)).decide([[0.1, 0.2]])
