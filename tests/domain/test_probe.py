"""The domain probe: scikit-learn's pipelines on the same folds, no leak between slices, an honest null."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import kstest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emvfm.domain.folds import FoldPlan, join_plans, plan_folds
from emvfm.domain.probe import ProbeSettings, out_of_fold, probe_domains, probe_one_stack
from emvfm.errors import UsageError


def _plan(n_blocks: int, length: int, **options: int) -> FoldPlan:
    n = n_blocks * length
    return plan_folds(np.repeat(np.arange(n_blocks), length).tolist(), ["v"] * n, list(range(n)), **options)


def _sets(*shifts: float, n_blocks: int = 5, length: int = 3, dimension: int = 12, seed: int = 0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n_blocks * length, dimension)) + shift for shift in shifts]


@pytest.mark.parametrize("dimension", [4, 60])  # fewer and more dimensions than rows
@pytest.mark.parametrize("pca", [0, 3])
def test_the_linear_probe_is_scikit_learns_pipeline_on_the_same_folds(dimension: int, pca: int) -> None:
    sets = _sets(0.0, 0.5, 1.0, dimension=dimension)
    plan = join_plans([_plan(5, 3)] * 3)
    x, y = np.concatenate(sets), np.repeat(np.arange(3), 15)
    found = out_of_fold(x, plan.folds, y, ProbeSettings(pca=pca))
    expected = np.full((45, 3), np.nan)
    for fold in plan.folds:
        model = make_pipeline(
            StandardScaler(),
            *([PCA(pca, svd_solver="full")] if pca else []),
            LogisticRegression(class_weight="balanced", max_iter=1000),
        )
        expected[fold.test] = model.fit(x[fold.train], y[fold.train]).predict_proba(x[fold.test])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    result = probe_domains("abc", sets, [_plan(5, 3)] * 3, ProbeSettings(pca=pca, permutations=1))
    assert result.balanced_accuracy.value == pytest.approx(
        balanced_accuracy_score(y, expected.argmax(axis=1)), rel=1e-12
    )
    assert result.auroc.value == pytest.approx(
        roc_auc_score(y, expected, multi_class="ovr", average="macro"), rel=1e-12
    )
    assert sum(map(sum, result.confusion)) == 45
    assert result.proxy_a_distance is None


def test_the_nearest_neighbours_vote_with_equal_weight_for_classes() -> None:
    x = np.concatenate(_sets(0.0, 0.6))[:24]
    y = np.repeat([0, 1], [15, 9])
    plan = join_plans([_plan(5, 3), _plan(3, 3, gap=0)])
    found = out_of_fold(x, plan.folds, y, ProbeSettings(classifier="knn", neighbours=4))
    for fold in plan.folds:
        scale = StandardScaler().fit(x[fold.train])
        distance = cdist(scale.transform(x[fold.test]), scale.transform(x[fold.train]))
        for row, near in zip(fold.test, distance.argsort(axis=1)[:, :4], strict=True):
            votes = np.array([(y[fold.train][near] == c).sum() / (y[fold.train] == c).sum() for c in (0, 1)])
            np.testing.assert_allclose(found[row], votes / votes.sum(), atol=1e-6)


@pytest.mark.parametrize("classifier", ["linear", "knn"])
def test_separable_domains_are_told_apart_and_identical_ones_are_not(classifier: str) -> None:
    settings = ProbeSettings(classifier=classifier, permutations=19)
    plans = [_plan(5, 3)] * 2
    sets = _sets(0.0, 4.0)
    within = [probe_one_stack(n, x, _plan(5, 3), settings) for n, x in zip("ab", sets, strict=True)]
    apart = probe_domains("ab", sets, plans, settings, within=within)
    assert (apart.balanced_accuracy.value, apart.auroc.value) == (1.0, 1.0)
    assert apart.proxy_a_distance is not None
    assert apart.proxy_a_distance.value == 2.0
    assert apart.balanced_accuracy.p_value <= 2 / 20  # the observed relabelling may be drawn again
    assert apart.confusion == ((15, 0), (0, 15))
    assert apart.distinct == 252
    assert "tells a and b apart" in apart.verdict
    assert "the interval has no width" in apart.verdict
    same = probe_domains("ab", _sets(0.0, 0.0, seed=1), plans, settings)
    assert same.balanced_accuracy.p_value > 0.05
    assert "no evidence" in same.verdict
    json.dumps(apart.to_json(), allow_nan=False)


def _correlated(rng: np.random.Generator, n_blocks: int, length: int, dimension: int) -> np.ndarray:
    centres = np.repeat(rng.normal(size=(n_blocks, dimension)), length, axis=0)
    return centres + 0.05 * rng.normal(size=centres.shape)


def test_near_copies_of_neighbouring_slices_do_not_leak_into_the_probe() -> None:
    rng = np.random.default_rng(3)
    # One walk through the same space a dataset: neighbours are nearly copies, the datasets are alike.
    grouped, single = [], []
    for _ in range(3):
        sets = [_correlated(rng, 8, 5, 10) for _ in range(2)]
        settings = ProbeSettings(classifier="knn", neighbours=3, permutations=1)
        plans = [_plan(8, 5)] * 2
        slices = [plan_folds(range(40), ["v"] * 40, [None] * 40, parts=40)] * 2  # every slice on its own
        grouped.append(probe_domains("ab", sets, plans, settings).balanced_accuracy.value)
        single.append(probe_domains("ab", sets, slices, settings).balanced_accuracy.value)
    assert np.mean(single) > 0.95
    assert 0.3 < np.mean(grouped) < 0.6  # at or, as a part left out makes its dataset unlike it, below chance


@pytest.mark.parametrize("classifier", ["linear", "knn"])
def test_p_values_are_uniform_for_stacks_of_one_kind(classifier: str) -> None:
    rng = np.random.default_rng(7)
    draws = 30 if classifier == "linear" else 50
    found = []
    for seed in range(draws):
        sets = [_correlated(rng, 4, 3, 3), _correlated(rng, 5, 3, 3)]
        settings = ProbeSettings(classifier=classifier, permutations=9, seed=seed, draws=10)
        found.append(probe_domains("ab", sets, [_plan(4, 3), _plan(5, 3)], settings).auroc.p_value)
    # p is one of 1/10 … 10/10; uniform noise within each step makes it continuous for the KS test.
    assert kstest(np.array(found) - rng.uniform(size=draws) / 10, "uniform").pvalue > 0.01


def test_two_ends_of_a_drifting_stack_are_told_apart_and_that_tempers_the_verdict() -> None:
    drift = np.linspace(-3, 3, 40)[:, None] + np.random.default_rng(0).normal(size=(40, 6)) * 0.5
    plan, settings = _plan(10, 4), ProbeSettings(permutations=19)
    null = probe_one_stack("a", drift, plan, settings)
    assert null.ends is not None
    assert null.ends > 0.8
    assert 0.25 < np.mean(null.random) < 0.75
    steady = probe_one_stack("a", np.random.default_rng(1).normal(size=(40, 6)), plan, settings)
    assert steady.ends < 0.75
    result = probe_domains("ab", [drift[:20], drift[20:]], [_plan(5, 4)] * 2, settings, within=[null])
    assert "two ends of a alone" in result.verdict
    assert "no sign of a gap" in result.verdict or "hardly better" in result.verdict


def test_with_too_few_blocks_it_says_so() -> None:
    for n_blocks in (1, 2, 3):
        sets = _sets(0.0, 5.0, n_blocks=n_blocks)
        result = probe_domains("ab", sets, [_plan(n_blocks, 3)] * 2, ProbeSettings(permutations=19))
        assert not result.enough
        assert "too few blocks" in result.verdict
        assert (result.balanced_accuracy.low is None) == (n_blocks < 3)
    alone = probe_one_stack("a", sets[0][:3], _plan(1, 3), ProbeSettings())
    assert (alone.ends, alone.random) == (None, ())


def test_rows_that_can_not_be_tested_count_as_guessed() -> None:
    # Two blocks a dataset: the gap takes the other one, so nothing is left to learn from.
    result = probe_domains(
        "ab", _sets(0.0, 5.0, n_blocks=2), [_plan(2, 3)] * 2, ProbeSettings(permutations=19)
    )
    assert result.tested == (0, 0)
    assert (result.balanced_accuracy.value, result.auroc.value, result.accuracy) == (0.5, 0.5, 0.5)


def test_the_majority_is_told_and_the_seed_decides() -> None:
    sets = [*_sets(0.0, n_blocks=6), *_sets(0.4, n_blocks=4, seed=5)]
    plans = [_plan(6, 3), _plan(4, 3)]
    first, again, other = (
        probe_domains("ab", sets, plans, ProbeSettings(permutations=19, seed=s)) for s in (1, 1, 2)
    )
    assert first.to_json() == again.to_json()
    assert first.null != other.null
    assert first.majority_accuracy == pytest.approx(0.6)
    assert first.chance == 0.5
    assert first.balanced_accuracy.low <= first.balanced_accuracy.value <= first.balanced_accuracy.high


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match="not finite"):
        probe_domains("ab", [np.full((6, 2), np.nan)] * 2, [_plan(2, 3)] * 2, ProbeSettings())
    with pytest.raises(UsageError, match="rows and labels"):
        out_of_fold(np.zeros((5, 2)), _plan(2, 3).folds, np.zeros(6, int), ProbeSettings())
