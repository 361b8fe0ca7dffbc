"""Retrieval between its bounds: a naive twin, planted matches, chance, and what has no correlation."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.expression.crossvalidation import FoldPredictions, Model, cross_validate
from emvfm.expression.folds import leave_one_out
from emvfm.expression.regressors import Head
from emvfm.expression.retrieval import match_expression, score_retrieval

SECTIONS = ("a",) * 60 + ("b",) * 60
BLOCKS = np.arange(120) // 6


def _table(seed: int = 0, n: int = 120, genes: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(n, 3)) @ rng.normal(size=(3, genes))
        + rng.normal(size=(n, genes))
        + 5 * np.arange(genes)
    )


def _folds(features: np.ndarray, y: np.ndarray) -> tuple[FoldPredictions, ...]:
    models = [Model("net", "backbone", features), Model("swapped", "permuted", features, permute=True)]
    every = np.arange(y.shape[1])
    return cross_validate(
        models, y, leave_one_out(SECTIONS), SECTIONS, BLOCKS, Head("1nn"), lambda v, s: every
    )


def test_matches_are_those_of_a_naive_twin() -> None:
    y, t = _table(1, 9), _table(2, 20)
    nearest = np.arange(9)
    found = match_expression(t[nearest], y, t)
    z, own = (t - t.mean(0)) / t.std(0), (y - t.mean(0)) / t.std(0)
    by_hand = np.array([[np.corrcoef(a, b)[0, 1] for b in z] for a in own])
    assert found.found == pytest.approx(by_hand[np.arange(9), nearest])
    assert found.blind == pytest.approx(by_hand.mean(axis=1))
    assert found.best == pytest.approx(by_hand.max(axis=1))


def test_genes_that_do_not_vary_among_training_spots_change_nothing() -> None:
    y, t = _table(1, 9), _table(2, 20)
    more = [np.column_stack([v, np.full(len(v), 1e6)]) for v in (t[:9], y, t)]
    assert match_expression(*more).found == pytest.approx(match_expression(t[:9], y, t).found)


def test_a_spot_of_mean_expression_has_no_correlation() -> None:
    y, t = _table(1, 3), _table(2, 20)
    y[1] = t.mean(axis=0)
    found = match_expression(t[:3], y, t)
    assert np.isnan([found.found[1], found.blind[1], found.best[1]]).all()
    assert np.isfinite(found.found[[0, 2]]).all()


def test_retrieval_by_expression_itself_is_near_the_best_and_noise_is_near_chance() -> None:
    y = _table()
    z = (y - y.mean(0)) / y.std(0)
    rows = z - z.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    (known, swapped) = score_retrieval(["net", "swapped"], _folds(rows, y), SECTIONS, BLOCKS, samples=200)
    assert known.share.value > 0.9
    assert known.blind < known.found.value <= known.best + 1e-12
    assert swapped.share.low < 0 < swapped.share.high
    noise = np.random.default_rng(5).normal(size=(120, 8))
    (chance,) = score_retrieval(["net"], _folds(noise, y), SECTIONS, BLOCKS, samples=200)
    assert chance.share.low < 0 < chance.share.high
    assert chance.found.n == 120


def test_the_value_is_the_mean_over_spots_then_folds_and_draws_are_seeded() -> None:
    y = _table()
    folds = _folds(_table(3), y)
    (one,) = score_retrieval(["net"], folds, SECTIONS, BLOCKS, samples=100, seed=4)
    matches = [match_expression(f.predicted["net"].values, f.measured, f.trained) for f in folds]
    assert one.found.value == pytest.approx(np.mean([m.found.mean() for m in matches]))
    assert one.best == pytest.approx(np.mean([m.best.mean() for m in matches]))
    assert one.share.value == pytest.approx((one.found.value - one.blind) / (one.best - one.blind))
    assert score_retrieval(["net"], folds, SECTIONS, BLOCKS, samples=100, seed=4) == (one,)
    assert json.loads(json.dumps(one.to_json()))["undefined"] == 0


@pytest.mark.parametrize(
    "shapes",
    [((3, 4), (3, 4), (0, 4)), ((3, 4), (2, 4), (5, 4)), ((3, 4), (3, 4), (5, 3)), ((3, 1), (3, 1), (5, 1))],
)
def test_what_can_not_be_compared_is_refused_in_one_line(shapes: tuple[tuple[int, int], ...]) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError) as caught:
        match_expression(*(rng.normal(size=shape) for shape in shapes))
    assert "\n" not in str(caught.value)
