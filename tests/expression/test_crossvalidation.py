"""Planted signals come back, exchanged ones do not, and genes never see what is tested."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.expression.correlation import pearson
from emvfm.expression.crossvalidation import Model, cross_validate
from emvfm.expression.folds import leave_one_out, spatial_blocks
from emvfm.expression.genes import variable_genes
from emvfm.expression.regressors import Head
from emvfm.expression.resampling import draw, replicate_correlations, sum_blocks
from emvfm.expression.scores import bootstrap_p, score_models, verdict
from emvfm.representations.estimates import Estimate

G, D, SIDE = 20, 8, 9
SECTIONS = [s for s in "pqr" for _ in range(SIDE * SIDE)]
XY = np.array([(i, j) for _ in "pqr" for i in range(SIDE) for j in range(SIDE)], float)
BLOCKS = spatial_blocks(*XY.T, SECTIONS, 3.0)
NAMES = [f"g{i}" for i in range(G)]


def _data(noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(SECTIONS), D))
    y = x @ rng.normal(size=(D, G)) + noise * rng.normal(size=(len(SECTIONS), G))
    return x, y - y.min(axis=0) + 0.1


def _choose(values: np.ndarray, sections: Sequence[str]) -> np.ndarray:
    return variable_genes(values, sections, 10, detected=0.0)


def _run(models, y, head=None, choose=_choose):
    return cross_validate(models, y, leave_one_out(SECTIONS), SECTIONS, BLOCKS, head or Head(), choose)


@pytest.mark.parametrize("head", [Head(), Head("ridge", alpha=1.0), Head("pls"), Head("knn", k=5, pca=0)])
def test_a_planted_linear_signal_is_recovered_and_an_exchanged_one_is_not(head: Head) -> None:
    x, y = _data()
    models = [Model("it", "backbone", x), Model("exchanged", "permuted", x, True), Model("mean", "mean")]
    scores = score_models(
        models,
        _run(models, y, head),
        NAMES,
        SECTIONS,
        BLOCKS,
        [("it", "exchanged"), ("it", "mean")],
        samples=400,
    )
    it, exchanged, mean = scores.models
    assert it.pearson.value > (0.9 if head.name != "knn" else 0.6)
    assert exchanged.pearson.low < 0 < exchanged.pearson.high
    assert np.isnan(mean.pearson.value)
    assert mean.undefined == mean.correlations == 30
    assert mean.skill.value == pytest.approx(0, abs=1e-12)
    assert mean.pearson_spots is not None
    beats, over_mean = scores.differences
    assert beats.verdict.startswith("it beats exchanged")
    assert over_mean.metric == "skill"
    assert over_mean.verdict.startswith("it beats mean")


def test_genes_are_chosen_without_the_test_section() -> None:
    x, y = _data()
    y = y.copy()
    p = np.array(SECTIONS) == "p"
    y[p, 0] = 1000 * np.random.default_rng(1).random(p.sum())  # the most variable gene, in section p alone
    y[~p, 0] = 1.0
    seen: list[np.ndarray] = []

    def choose(values: np.ndarray, sections: Sequence[str]) -> np.ndarray:
        seen.append(np.array(sections))
        return _choose(values, sections)

    folds = _run([Model("it", "backbone", x)], y, choose=choose)
    assert [sorted(set(s)) for s in seen] == [["q", "r"], ["p", "r"], ["p", "q"]]
    chosen = {f.fold.name: set(f.genes.tolist()) for f in folds}
    assert 0 not in chosen["p"]  # where the choice sees all sections, it is there
    assert 0 in chosen["q"]
    assert 0 in chosen["r"]
    assert 0 in _choose(y, SECTIONS)


def test_what_is_tested_changes_no_prediction() -> None:
    x, y = _data()
    models = [Model("it", "backbone", x), Model("exchanged", "permuted", x, True)]
    one = _run(models, y)
    other = y.copy()
    other[one[0].fold.test] = np.random.default_rng(5).random((len(one[0].fold.test), G)) * 99
    two = _run(models, other)
    for name in ("it", "exchanged"):
        assert np.array_equal(one[0].predicted[name].values, two[0].predicted[name].values)
        assert not np.array_equal(one[1].predicted[name].values, two[1].predicted[name].values)


def test_the_same_seed_gives_the_same_and_models_do_not_disturb_each_other() -> None:
    x, y = _data()
    alone = _run([Model("exchanged", "permuted", x, True)], y)
    both = _run([Model("it", "backbone", x), Model("exchanged", "permuted", x, True)], y)
    for a, b in zip(alone, both, strict=True):
        assert np.array_equal(a.predicted["exchanged"].values, b.predicted["exchanged"].values)


def test_names_and_rows_must_fit() -> None:
    x, y = _data()
    for models in ([Model("a", "backbone", x), Model("a", "pixel", x)], [Model("a", "backbone", x[:4])]):
        with pytest.raises(UsageError):
            _run(models, y)


def test_sums_over_blocks_give_the_correlations_of_rows_drawn_twice() -> None:
    """The naive twin repeats the rows of the blocks that are drawn."""
    rng = np.random.default_rng(3)
    p, y = rng.normal(5, 2, (81, 6)), rng.normal(1e4, 3, (81, 6))
    y += p
    p[:, 3] = 1.0
    blocks = BLOCKS[:81]
    sums = sum_blocks(p, y, y.mean(axis=0), blocks, np.arange(6))
    draws = draw([["s"] * 9], [np.arange(6)], 6, samples=25, seed=1)
    found, used = replicate_correlations([[sums]], draws)
    assert used == ((5, 6),)
    for r in range(26):
        rows = np.concatenate(
            [np.repeat(np.flatnonzero(blocks == b), int(w)) for b, w in enumerate(draws.blocks[0][r])]
        )
        each, times = pearson(p[rows], y[rows]), draws.genes[r]
        known = np.isfinite(each)
        if times[known].sum():
            assert found[0, r] == pytest.approx(np.average(each[known], weights=times[known]), abs=1e-9)
    assert found[0, 0] == pytest.approx(np.nanmean(pearson(p, y)), abs=1e-9)


def test_blocks_are_drawn_within_their_section() -> None:
    draws = draw([["a", "a", "b", "b", "b"]], [np.array([1, 3])], 5, samples=50)
    assert (draws.blocks[0][:, :2].sum(axis=1) == 2).all()
    assert (draws.blocks[0][:, 2:].sum(axis=1) == 3).all()
    assert not draws.genes[:, [0, 2, 4]].any()
    assert (draws.genes.sum(axis=1) == 2).all()


def test_differences_count_genes_that_both_have() -> None:
    x, y = _data()
    models = [Model("it", "backbone", x), Model("other", "pixel", x[:, :2])]
    folds = _run(models, y)
    folds[0].predicted["other"].values[:, 4] = 1.0
    scores = score_models(models, folds, NAMES, SECTIONS, BLOCKS, [("it", "other")], samples=100)
    assert scores.differences[0].genes == (29, 30)
    assert [m.undefined for m in scores.models] == [0, 1]
    assert sum(row["pearson"] is None for row in scores.genes) == 1


def test_the_verdict_is_in_words() -> None:
    def estimate(low: float | None, high: float | None) -> Estimate:
        return Estimate(0.1, low, high, 0.95, "m", 9)

    assert verdict("a", "b", estimate(-0.1, 0.2)).startswith("no evidence that a beats b here: +0.100")
    assert verdict("a", "b", estimate(0.05, 0.2)).startswith("a beats b here")
    assert verdict("a", "b", estimate(-0.2, -0.1)).startswith("a is worse than b")
    assert "cannot be told" in verdict("a", "b", estimate(None, None))
    assert bootstrap_p(np.ones(99)) == pytest.approx(0.02)
    assert bootstrap_p(np.zeros(9)) == 1.0
    assert np.isnan(bootstrap_p(np.full(3, np.nan)))


def _field(rng: np.random.Generator, k: int) -> np.ndarray:
    """Return ``(N, k)`` values that neighbours share."""
    from scipy.ndimage import gaussian_filter

    parts = [gaussian_filter(rng.normal(size=(k, SIDE, SIDE)), (0, 1.2, 1.2)).reshape(k, -1).T for _ in "pqr"]
    return np.concatenate(parts)


def test_intervals_cover_where_neighbours_are_alike_and_models_know_nothing() -> None:
    covered, n = 0, 25
    for seed in range(n):
        rng = np.random.default_rng(seed)
        y, a, b = _field(rng, 8) + 5, _field(rng, 4), _field(rng, 4)
        models = [Model("a", "backbone", a), Model("b", "pixel", b)]
        folds = _run(
            models, y, Head("ridge", alpha=50.0, pca=0), choose=lambda values, sections: np.arange(8)
        )
        (one,) = score_models(
            models, folds, NAMES[:8], SECTIONS, BLOCKS, [("a", "b")], samples=200, seed=seed
        ).differences
        covered += one.estimate.low <= 0 <= one.estimate.high
    assert covered >= 21  # of 25: at 95 % fewer than that in 1 of 100 such tests


def test_errors_of_neighbours_are_measured() -> None:
    from emvfm.expression.dependence import residual_reach

    rng = np.random.default_rng(0)
    sections = SECTIONS
    for values, expected in ((rng.normal(size=(len(sections), 8)), 0.5), (_field(rng, 8), 2.5)):
        folds = _run(
            [Model("mean", "mean")], values + 9, choose=lambda values, sections: np.arange(values.shape[1])
        )
        found = residual_reach(folds, "mean", *XY.T, sections, 1.0)
        assert found.reach == expected
        assert found.correlations[0] > 0.3 or expected == 0.5
