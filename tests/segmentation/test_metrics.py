"""Counts against scikit-learn and torchmetrics; the block bootstrap against its statistical promises."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score
from torchmetrics.classification import BinaryJaccardIndex

from emvfm.errors import UsageError
from emvfm.segmentation.metrics import (
    Counts,
    block_labels,
    bootstrap_pooled,
    count,
    pooled,
)

MASKS = arrays(np.bool_, (5, 6))
COUNTS = st.builds(Counts, *[st.integers(0, 10**9)] * 4)


@given(MASKS, MASKS, MASKS)
def test_counts_are_the_confusion_matrix_of_the_valid_pixels(
    prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray
) -> None:
    got = count(prediction, truth, valid)
    (tn, fp), (fn, tp) = (
        confusion_matrix(truth[valid], prediction[valid], labels=[False, True])
        if valid.any()
        else ((0, 0), (0, 0))
    )
    assert got == Counts(tp, fp, fn, tn)
    assert count(prediction, truth) == count(prediction, truth, np.ones_like(valid))


@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
def test_iou_and_dice_equal_the_libraries(density: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = rng.random((40, 30)) < density
        prediction = np.where(rng.random((40, 30)) < 0.8, truth, rng.random((40, 30)) < density)
        got = count(prediction, truth)
        assert got.iou == pytest.approx(jaccard_score(truth.ravel(), prediction.ravel()))
        assert got.dice == pytest.approx(f1_score(truth.ravel(), prediction.ravel()))
        other = BinaryJaccardIndex()(torch.tensor(prediction).int(), torch.tensor(truth).int())
        assert got.iou == pytest.approx(other.item(), rel=1e-6)


def test_nothing_to_find_scores_one_only_when_nothing_was_found() -> None:
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    assert (count(empty, empty).iou, count(empty, empty).dice) == (1.0, 1.0)
    assert (count(full, empty).iou, count(full, empty).dice) == (0.0, 0.0)
    assert (count(empty, full).iou, count(empty, full).dice) == (0.0, 0.0)
    assert (count(full, full).iou, count(full, full).dice) == (1.0, 1.0)


@given(COUNTS)
def test_dice_follows_from_iou(counts: Counts) -> None:
    assert counts.dice == pytest.approx(2 * counts.iou / (1 + counts.iou))
    assert 0 <= counts.iou <= counts.dice <= 1


def test_pooling_equals_scoring_all_pixels_at_once() -> None:
    rng = np.random.default_rng(1)
    truth, prediction = rng.random((2, 7, 9, 8)) < 0.3
    each = [count(p, t) for p, t in zip(prediction, truth, strict=True)]
    assert pooled(each) == count(prediction.reshape(-1, 8), truth.reshape(-1, 8))
    assert pooled([]) == Counts()


def test_blocks_are_consecutive_nearly_equal_and_stay_in_their_volume() -> None:
    z = list(range(100)) + list(range(37))
    volumes = ["a"] * 100 + ["b"] * 37
    labels = np.array(block_labels(volumes, z))
    assert not set(labels[:100]) & set(labels[100:])
    for part, length in ((labels[:100], 10), (labels[100:], 6)):
        assert (np.diff(part) >= 0).all()  # slices are in order, so blocks are runs
        sizes = Counter(part.tolist()).values()
        assert max(sizes) <= length
        assert max(sizes) - min(sizes) <= 1
    assert sorted(set(labels.tolist())) == list(range(labels.max() + 1))


@given(st.permutations(range(30)), st.integers(1, 40))
def test_blocks_depend_on_position_not_on_listing_order(order: list[int], length: int) -> None:
    straight = block_labels(["v"] * 30, range(30), length=length)
    shuffled = block_labels(["v"] * 30, order, length=length)
    groups = {frozenset(i for i in range(30) if straight[i] == label) for label in straight}
    assert groups == {frozenset(order[i] for i in range(30) if shuffled[i] == label) for label in shuffled}
    assert max(map(len, groups)) <= length


def test_blocks_follow_the_order_of_far_apart_positions() -> None:
    positions = [-7, 10_000, 3, 500_000, 77, 10_001]
    assert block_labels(["v"] * 6, positions, length=2) == [0, 1, 0, 2, 1, 2]


def test_tiles_of_a_slice_share_a_block_and_images_without_position_stand_alone() -> None:
    labels = block_labels(["v", "v", "v", "v", "w", "w"], [0, 0, 5, 5, None, None], length=1)
    assert labels == [0, 0, 1, 1, 2, 3]
    assert block_labels([], []) == []


def _slices(rng: np.random.Generator, n_blocks: int, per_block: int) -> tuple[list[Counts], list[int]]:
    """Draw slices whose quality is shared within a block and independent between blocks."""
    quality = rng.beta(8, 2, n_blocks).repeat(per_block)
    truth = rng.integers(500, 1500, n_blocks * per_block)
    tp = rng.binomial(truth, quality)
    fp = rng.binomial(truth, 0.1)
    counts = [Counts(int(a), int(b), int(t - a), 5000) for a, b, t in zip(tp, fp, truth, strict=True)]
    return counts, np.arange(n_blocks).repeat(per_block).tolist()


def test_the_estimate_is_the_pooled_value_within_its_interval() -> None:
    counts, blocks = _slices(np.random.default_rng(0), 12, 5)
    for statistic in ("iou", "dice"):
        got = bootstrap_pooled(counts, blocks, statistic=statistic)
        assert got.value == getattr(pooled(counts), statistic)
        assert got.low is not None
        assert got.high is not None
        assert 0 <= got.low < got.value < got.high <= 1
        assert got.n == 60
        assert "12 blocks" in got.method
        assert json.loads(json.dumps(got.to_json(), allow_nan=False)) == got.to_json()


def test_the_interval_equals_a_loop_that_draws_the_same_blocks() -> None:
    counts, blocks = _slices(np.random.default_rng(3), 6, 3)
    times = np.random.default_rng(9).multinomial(6, [1 / 6] * 6, size=200)
    replicates = [
        pooled([c for c, block in zip(counts, blocks, strict=True) for _ in range(row[block])]).iou
        for row in times
    ]
    got = bootstrap_pooled(counts, blocks, samples=200, level=0.8, seed=9)
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(replicates, [0.1, 0.9])))


def test_coverage_of_independent_blocks_is_near_nominal_and_of_single_slices_far_below() -> None:
    rng = np.random.default_rng(0)
    truth = pooled(_slices(rng, 20_000, 6)[0]).iou
    covered = np.zeros(2)
    repeats = 150
    for seed in range(repeats):
        counts, blocks = _slices(rng, 25, 6)
        for i, labels in enumerate((blocks, range(len(counts)))):
            got = bootstrap_pooled(counts, labels, samples=400, level=0.9, seed=seed)
            assert got.low is not None
            assert got.high is not None
            covered[i] += got.low <= truth <= got.high
    by_block, by_slice = covered / repeats
    assert 0.80 <= by_block <= 0.97
    assert by_slice < 0.70


def test_the_interval_ignores_order_within_blocks_and_follows_its_seed() -> None:
    counts, blocks = _slices(np.random.default_rng(4), 8, 6)
    order = np.random.default_rng(5).permutation(len(counts))
    shuffled = bootstrap_pooled([counts[i] for i in order], [blocks[i] for i in order])
    first = bootstrap_pooled(counts, blocks)
    assert shuffled == first == bootstrap_pooled(counts, blocks)
    assert bootstrap_pooled(counts, blocks, seed=1) != first


def test_a_lower_level_gives_a_narrower_interval() -> None:
    counts, blocks = _slices(np.random.default_rng(6), 10, 4)
    wide, narrow = (bootstrap_pooled(counts, blocks, level=level) for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high  # type: ignore[operator]


def test_one_block_has_no_interval_and_says_why() -> None:
    got = bootstrap_pooled([Counts(5, 1, 1, 9), Counts(3, 0, 1, 9)], [7, 7])
    assert (got.value, got.low, got.high) == (pytest.approx(8 / 11), None, None)
    assert "single block" in got.method
    json.dumps(got.to_json(), allow_nan=False)


def test_misuse_is_a_usage_error() -> None:
    mask = np.ones((2, 2), bool)
    for wrong in ((mask * 0.7, mask), (mask, mask.astype(int)), (mask, mask, mask[:1]), (mask[:1], mask)):
        with pytest.raises(UsageError):
            count(*wrong)
    with pytest.raises(UsageError, match="no images"):
        bootstrap_pooled([], [])
    with pytest.raises(UsageError, match="unknown statistic"):
        bootstrap_pooled([Counts()], [0], statistic="f2")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one block per slice"):
        bootstrap_pooled([Counts()], [0, 1])
    with pytest.raises(UsageError, match="level"):
        bootstrap_pooled([Counts()], [0], level=95)
    with pytest.raises(UsageError, match="one position"):
        block_labels(["a"], [])
    with pytest.raises(UsageError, match="too short"):
        block_labels(["a"], [0], length=0)
