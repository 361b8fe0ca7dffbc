"""Which images are shown: half right, half wrong, as different in labels as there are."""

from __future__ import annotations

import numpy as np

from emvfm.localization.predictions import Predictions
from emvfm.studies.localize.panels import pick_examples
from emvfm.studies.localize.pictures import reliability


def _predictions(wrong: int, n: int = 40) -> Predictions:
    number = np.arange(n) % 4
    labels = np.arange(4) == number[:, None]
    decided = labels.copy()
    decided[:wrong] = ~decided[:wrong]
    rows = np.arange(n, dtype=np.intp)
    return Predictions(labels, labels * 0.8, decided, rows, (rows >= n - 4).astype(np.intp), rows)


def test_half_of_them_are_right_and_all_classes_are_there() -> None:
    found = _predictions(10)
    chosen = pick_examples(found, 0, 8)
    right = (found.labels[chosen] == found.decided[chosen]).all(axis=1)
    assert right.tolist() == [True] * 4 + [False] * 4
    for half in (chosen[:4], chosen[4:]):
        assert set(found.labels[half].argmax(axis=1)) == {0, 1, 2, 3}
    assert chosen == pick_examples(found, 0, 8) != pick_examples(found, 0, 8, seed=1)
    assert set(found.fold[chosen]) == {0}


def test_where_one_kind_is_short_the_other_fills_up() -> None:
    for wrong, expected in ((0, 0), (1, 1), (35, 5), (36, 6)):
        found = _predictions(wrong)
        chosen = pick_examples(found, 0, 6)
        assert len(set(chosen)) == 6
        assert int((found.labels[chosen] != found.decided[chosen]).any(axis=1).sum()) == expected
    assert len(pick_examples(_predictions(0), 1, 24)) == 4


def test_reliability_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((50, 3))
    labels = rng.random((50, 3)) < scores
    found = reliability(labels, scores, bins=4)
    for i in range(4):
        own = (scores >= i / 4) & (scores < (i + 1) / 4)
        assert found["counts"][i] == own.sum()
        np.testing.assert_allclose(found["said"][i], scores[own].mean())
        np.testing.assert_allclose(found["found"][i], labels[own].mean())
    empty = reliability([True], [0.9], bins=4)
    assert np.isnan(empty["said"][:3]).all()
