"""How often intervals over proteins hold what they are for, on proteins drawn again and again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from emvfm.localization.predictions import Interval, Predictions, difference_interval, mean_interval

pytestmark = pytest.mark.slow

#: Share of OpenCell's 1 310 proteins that have each label at grade 2 or better, from `cytoplasmic` down.
SHARES = np.array([594, 485, 299, 155, 120, 119, 115, 90, 87, 64, 50, 46, 46, 36, 28, 13, 11]) / 1310
ROWS, FOLDS = 4, 5


def _draw(rng: np.random.Generator, proteins: int, shares: np.ndarray, worse: float = 1.0) -> Predictions:
    """Draw proteins and what two heads in five say of their rows; `worse` of the true positives stay."""
    group = np.repeat(np.arange(proteins), ROWS)
    labels = (rng.random((proteins, len(shares))) < shares)[group]
    likes = np.repeat(rng.normal(scale=0.8, size=(proteins, len(shares))), ROWS, axis=0)
    scores = 1 / (1 + np.exp(-(np.where(labels, 1.0, -3.5) + likes)))
    decided = (rng.random(labels.shape) < scores) & (rng.random(labels.shape) < worse)
    fold = (rng.permutation(proteins) % FOLDS)[group]
    return Predictions(labels, scores, decided, group, fold, np.arange(len(group)))


def _share(found: list[Interval], plain: bool = False) -> float:
    """Return how many of the intervals hold the mean of the estimates: what to expect of other proteins."""
    expected = np.mean([one.value for one in found])
    moved = [one.bias if plain else 0.0 for one in found]
    return float(
        np.mean([one.low + b <= expected <= one.high + b for one, b in zip(found, moved, strict=True)])
    )


def _intervals(metric: str, proteins: int, shares: np.ndarray, times: int) -> list[Interval]:
    rng = np.random.default_rng(7)
    drawn: Iterator[Predictions] = (_draw(rng, proteins, shares) for _ in range(times))
    return [mean_interval(one, metric, samples=200, seed=i) for i, one in enumerate(drawn)]


def test_with_rare_classes_centred_intervals_cover_and_plain_ones_do_not() -> None:
    found = _intervals("macro_f1_present", 150, SHARES, 100)
    assert np.mean([one.bias for one in found]) > 0.01
    assert _share(found) >= 0.88
    assert _share(found, plain=True) <= 0.82
    everything = _intervals("macro_f1_all", 150, SHARES, 100)
    assert np.mean([one.bias for one in everything]) < -0.03
    assert _share(everything) >= 0.8
    assert _share(everything, plain=True) <= 0.5


def test_with_common_classes_both_cover() -> None:
    found = _intervals("macro_f1_present", 200, np.full(4, 0.3), 100)
    assert abs(np.mean([one.bias for one in found])) < 0.01
    assert _share(found) >= 0.88


def test_two_heads_that_are_alike_are_seldom_called_different() -> None:
    rng = np.random.default_rng(3)
    found = []
    for i in range(100):
        one = _draw(rng, 80, np.full(4, 0.3))
        again = rng.random(one.labels.shape) < one.scores  # of the same proteins, by a head as good
        other = Predictions(one.labels, one.scores, again, one.group, one.fold, one.unit)
        found.append(difference_interval(one, other, "macro_f1_present", samples=200, seed=i))
    assert np.mean([one.p_value <= 0.05 for one in found]) <= 0.12
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.88
    for one in found:
        assert (one.p_value > 0.06) <= (one.low <= 0 <= one.high)
