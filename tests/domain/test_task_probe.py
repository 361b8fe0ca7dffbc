"""The task probe: scikit-learn on the same patches, directions known by construction, honest sentences."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emvfm.domain.folds import FoldPlan, plan_folds
from emvfm.domain.task_probe import PatchSample, TaskSettings, balanced_patches, probe_task, task_directions
from emvfm.errors import UsageError

SETTINGS = TaskSettings(draws=100)


def _plan(n: int, length: int = 2) -> FoldPlan:
    return plan_folds([i // length for i in range(n)], ["v"] * n, list(range(n)))


def _sample(
    direction: np.ndarray, seed: int, *, n: int = 12, each: int = 20, shift: float = 0.0
) -> PatchSample:
    """Patches of `n` images whose class lies along `direction`, with noise of unit scale around."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.repeat([True, False], each // 2), n)
    x = rng.normal(size=(len(labels), len(direction))) + np.outer(labels - 0.5, direction) + shift
    return PatchSample(x.astype(np.float32), labels, np.repeat(np.arange(n), each))


def _axis(i: int, length: float = 3.0, dimension: int = 6) -> np.ndarray:
    return np.eye(dimension)[i] * length


def test_patches_are_drawn_evenly_from_each_image_and_the_same_for_every_layer() -> None:
    rng = np.random.default_rng(0)
    shares = [rng.random(50), rng.random(30), None, np.zeros(10), np.full(4, 0.5)]
    first = [None if s is None else np.stack([s, np.arange(len(s))], axis=1) for s in shares]
    images = [(np.zeros((5, 2)) if x is None else x, s) for x, s in zip(first, shares, strict=True)]
    sample = balanced_patches(iter(images), 5, TaskSettings(per_image=8))
    assert sorted(set(sample.images.tolist())) == [0, 1]  # no mask, no foreground, neither
    for i in (0, 1):
        mine = sample.images == i
        assert sample.labels[mine].sum() == (~sample.labels[mine]).sum() == min(4, (shares[i] >= 0.8).sum())
    assert (sample.features[sample.labels, 0] >= 0.8).all()
    assert (sample.features[~sample.labels, 0] <= 0.2).all()
    assert len({tuple(row) for row in sample.features}) == len(sample)
    other = balanced_patches(((x + np.array([10, 0]), s) for x, s in images), 5, TaskSettings(per_image=8))
    np.testing.assert_array_equal(other.features[:, 1], sample.features[:, 1])
    assert len(balanced_patches(images, 5, TaskSettings(total=20))) <= 20
    another = balanced_patches(images, 5, TaskSettings(per_image=8, seed=1))
    assert (another.features[:, 1] != sample.features[:, 1]).any()
    assert balanced_patches(images[2:], 3, SETTINGS) is None
    with pytest.raises(UsageError, match="share per patch"):
        balanced_patches([(np.zeros((3, 2)), np.zeros(4))], 1, SETTINGS)


def test_scores_are_scikit_learns_on_the_same_folds() -> None:
    a, b = _sample(_axis(0, 1.5), 0), _sample(_axis(1, 1.0) + _axis(0, 1.0), 1, shift=0.3)
    plan = _plan(12)
    result = probe_task("ab", [a, b], [plan, plan], SETTINGS)

    def model():
        return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))

    across = model().fit(a.features.astype(float), a.labels).decision_function(b.features.astype(float))
    own = np.zeros(len(b))
    for fold in plan.folds:
        train, test = np.isin(b.images, fold.train), np.isin(b.images, fold.test)
        own[test] = (
            model().fit(b.features[train].astype(float), b.labels[train]).decision_function(b.features[test])
        )
    for scores, cell in ((across, result.cell("a", "b")), (own, result.cell("b", "b"))):
        assert cell.auroc.value == pytest.approx(roc_auc_score(b.labels, scores), abs=1e-6)
        assert cell.average_precision.value == pytest.approx(
            average_precision_score(b.labels, scores), abs=1e-6
        )
        assert cell.balanced_accuracy.value == pytest.approx(
            balanced_accuracy_score(b.labels, scores > 0), abs=1e-6
        )
        assert cell.auroc.low <= cell.auroc.value <= cell.auroc.high
        assert (cell.n, cell.blocks) == (240, 6)
    gap = result.cell("a", "b").difference
    assert gap.value == pytest.approx(
        roc_auc_score(b.labels, across) - roc_auc_score(b.labels, own), abs=1e-6
    )


def test_a_shared_direction_transfers_and_an_orthogonal_or_opposite_one_does_not() -> None:
    names = ("a", "same", "other", "opposite")
    samples = [
        _sample(_axis(axis, length), seed, shift=shift)
        for seed, (axis, length, shift) in enumerate(((0, 3, 0), (0, 3, 5), (1, 3, 0), (0, -3, 0)))
    ]
    result = probe_task(names, samples, [_plan(12)] * 4, SETTINGS)
    cosines = {c.names[1]: c for c in result.cosines if c.names[0] == "a"}
    assert cosines["same"].value > 0.9
    assert abs(cosines["other"].value) < 0.25
    assert cosines["opposite"].value < -0.9
    for cosine in cosines.values():
        assert min(cosine.halves) > 0.85
        assert -1 <= cosine.low <= cosine.value <= cosine.high <= 1
    assert result.cell("a", "same").auroc.value > 0.95  # a shift moves the threshold, not the order
    assert abs(result.cell("a", "other").auroc.value - 0.5) < 0.1
    assert result.cell("a", "opposite").auroc.value < 0.05
    assert [(c.train, c.test) for c in result.cells] == [(a, b) for a in names for b in names]
    json.dumps(result.to_json(), allow_nan=False)


def test_directions_live_in_the_space_scaled_within_datasets() -> None:
    scale = np.array([1, 10, 0.1, 1, 1, 1])
    plain = [_sample(_axis(0) + _axis(1), 0), _sample(_axis(1), 1)]
    stretched = [PatchSample((s.features * scale).astype(np.float32), s.labels, s.images) for s in plain]
    shifted = [PatchSample(s.features + 7 * i, s.labels, s.images) for i, s in enumerate(plain)]
    expected = task_directions(plain)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1)
    for same in (stretched, shifted):
        np.testing.assert_allclose(task_directions(same), expected, atol=2e-3)


def test_near_copies_do_not_leak_into_a_datasets_own_probe() -> None:
    rng = np.random.default_rng(5)
    # Each block of three slices repeats its patches, and labels mean nothing.
    x = np.concatenate([np.tile(rng.normal(size=(10, 40)), (3, 1)) for _ in range(8)])
    labels = np.tile(np.repeat([True, False], 5), 24)
    sample = PatchSample(
        (x + 0.01 * rng.normal(size=x.shape)).astype(np.float32), labels, np.repeat(np.arange(24), 10)
    )
    grouped = probe_task("a", [sample], [_plan(24, 3)], SETTINGS).cell("a", "a").auroc
    single = probe_task("a", [sample], [plan_folds(range(24), ["v"] * 24, [None] * 24)], SETTINGS)
    assert single.cell("a", "a").auroc.value > grouped.value + 0.1
    assert abs(grouped.value - 0.5) < 0.2


def test_sentences_say_what_was_found_and_what_was_not_possible() -> None:
    samples = [_sample(_axis(0, 2.0), 0), _sample(_axis(0, 1.0) + _axis(1, 1.0), 1)]
    result = probe_task(
        ("lucchi", "vnc"),
        samples,
        [_plan(12)] * 2,
        SETTINGS,
        target="mitochondria",
        impossible={"c": "no masks"},
    )
    text = "\n".join(result.verdicts)
    cell = result.cell("lucchi", "vnc")
    assert f"a probe trained on lucchi finds mitochondria in vnc with AUROC {cell.auroc}" in text
    assert f"{abs(cell.difference.value):.2f} below vnc's own probe" in text
    assert "c: the task probe is not possible, no masks" in text
    assert "cosine of the task directions of lucchi and vnc" in text


def test_with_few_blocks_there_is_no_interval_and_with_one_no_own_probe() -> None:
    one = _plan(12, 12)
    result = probe_task("ab", [_sample(_axis(0), 0), _sample(_axis(0), 1)], [one, _plan(12)], SETTINGS)
    assert result.cell("a", "a").auroc is None
    assert result.cell("b", "a").auroc.low is None
    assert result.cell("b", "a").difference is None
    assert (result.cosines[0].low, result.cosines[0].halves[0]) == (None, None)
    text = "\n".join(result.verdicts)
    assert "a: too few blocks" in text
    assert "1 blocks are too few for an interval" in text
