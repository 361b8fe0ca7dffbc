"""Objects against scikit-image, the Hungarian method and naive twins; and where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from skimage.measure import label as skimage_label
from skimage.morphology import remove_small_objects
from skimage.segmentation import watershed

from emvfm.errors import UsageError
from emvfm.segmentation.instances import (
    InstanceMatch,
    _flood,
    average_precision,
    label_instances,
    match_instances,
    panoptic,
    split_instances,
)

EMPTY = np.zeros((30, 40), np.int32)


def _blobs(seed: int, share: float = 0.25, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return noise > np.quantile(noise, 1 - share)


def _iou_table(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    rows = []
    for i in np.unique(truth[truth > 0]):
        a = truth == i
        others = [prediction == j for j in np.unique(prediction[prediction > 0])]
        rows.append([(a & b).sum() / (a | b).sum() for b in others])
    return np.array(rows)


def _disks(*discs: tuple[int, int, int], shape: tuple[int, int] = (40, 80)) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.logical_or.reduce([(y - a) ** 2 + (x - b) ** 2 <= r**2 for a, b, r in discs])


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_those_of_scikit_image(seed: int) -> None:
    mask = _blobs(seed)
    np.testing.assert_array_equal(label_instances(mask), skimage_label(mask, connectivity=2))
    want = skimage_label(remove_small_objects(mask, max_size=19, connectivity=2), connectivity=2)
    np.testing.assert_array_equal(label_instances(mask, minimum=20), want)
    assert label_instances(mask).dtype == np.int32


@pytest.mark.parametrize("seed", range(3))
def test_flooding_is_the_watershed_of_scikit_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth = gaussian_filter(rng.random((30, 40)), 2)  # no two values alike: no ties
    mask = _blobs(seed, 0.6, (30, 40))
    seeds = [tuple(map(int, p)) for p in rng.permutation(np.argwhere(mask))[:6]]
    markers = np.zeros(depth.shape, int)
    for n, point in enumerate(seeds, start=1):
        markers[point] = n
    want = watershed(-depth, markers, mask=mask, connectivity=2)
    np.testing.assert_array_equal(_flood(np.where(mask, depth, -1.0), seeds), want)


def test_touching_disks_are_cut_at_the_neck_and_single_ones_are_left_whole() -> None:
    mask = _disks((20, 20, 10), (20, 36, 10), (20, 65, 9))
    assert label_instances(mask).max() == 2
    labels = split_instances(mask)
    assert labels.max() == 3
    np.testing.assert_array_equal(labels > 0, mask)
    left, right = labels[20, 12], labels[20, 44]
    assert set(np.unique(labels[:, :27])) == {0, left}
    assert set(np.unique(labels[:, 30:50])) == {0, right}
    assert len(np.unique(labels[:, 55:])) == 2
    for mask in (np.zeros((9, 9), bool), np.ones((9, 9), bool), _disks((5, 5, 0))):
        np.testing.assert_array_equal(split_instances(mask), mask)
    for seed in range(3):  # pieces of parts, never more
        mask = _blobs(seed)
        parts, pieces = label_instances(mask), split_instances(mask, separation=5)
        assert len(np.unique(np.stack([parts, pieces])[:, mask], axis=1).T) == pieces.max() >= parts.max()
        np.testing.assert_array_equal(pieces > 0, mask)


@pytest.mark.parametrize("seed", range(6))
def test_matches_are_those_of_the_hungarian_method(seed: int) -> None:
    truth, noise = label_instances(_blobs(seed)), np.random.default_rng(seed)
    moved = np.roll(_blobs(seed), noise.integers(0, 3, 2), axis=(0, 1)) ^ _blobs(seed + 7, 0.02)
    prediction, probability = label_instances(moved), noise.random(moved.shape)
    table, match = _iou_table(truth, prediction), match_instances(truth, prediction, probability)
    np.testing.assert_allclose(match.true_iou, table.max(axis=1))
    np.testing.assert_allclose(match.predicted_iou, table.max(axis=0))
    want = [probability[prediction == n].mean() for n in range(1, prediction.max() + 1)]
    np.testing.assert_allclose(match.score, want)
    for threshold in (0.5, 0.75):
        rows, columns = linear_sum_assignment(-np.where(table > threshold, table, 0))
        pairs = table[rows, columns][table[rows, columns] > threshold]
        total, tp, fp, fn, off = match.counts(threshold)
        assert (tp, fp, fn) == (len(pairs), table.shape[1] - len(pairs), table.shape[0] - len(pairs))
        assert total == pytest.approx(pairs.sum())
        assert off == abs(table.shape[0] - table.shape[1])
        got = panoptic(match.counts(threshold))
        assert got["pq"] == pytest.approx(pairs.sum() / (tp + fp / 2 + fn / 2))
        assert got["pq"] == pytest.approx(got["sq"] * got["rq"])


def test_numbers_of_objects_and_exchange_of_the_sides_change_nothing() -> None:
    truth, prediction = label_instances(_blobs(1)), label_instances(np.roll(_blobs(1), 2, axis=1))
    want = match_instances(truth, prediction)
    shuffled = np.concatenate([[0], np.random.default_rng(0).permutation(prediction.max()) * 3 + 5])
    got = match_instances(truth, shuffled[prediction])
    np.testing.assert_allclose(got.true_iou, want.true_iou)
    np.testing.assert_allclose(np.sort(got.predicted_iou), np.sort(want.predicted_iou))
    swapped = match_instances(prediction, truth)
    assert panoptic(swapped.counts())["pq"] == pytest.approx(panoptic(want.counts())["pq"])
    np.testing.assert_allclose(swapped.true_iou, want.predicted_iou)


def test_no_objects_on_both_sides_agree_and_on_one_side_score_nothing() -> None:
    some = EMPTY.copy()
    some[3, 4] = 1
    both, missed, wrong = (match_instances(a, b) for a, b in ((EMPTY, EMPTY), (some, EMPTY), (EMPTY, some)))
    assert {k: float(v) for k, v in panoptic(both.counts()).items()} == {
        "pq": 1, "sq": 1, "rq": 1, "count_error": 0,
    }  # fmt: skip
    for match in (missed, wrong):
        values = panoptic(match.counts())
        assert (values["pq"], values["sq"], values["rq"], values["count_error"]) == (0, 0, 0, 1)
        assert average_precision([match]) == 0
    assert average_precision([both]) == 1
    full = np.ones((30, 40), np.int32)
    assert panoptic(match_instances(full, full).counts())["pq"] == 1
    assert panoptic(match_instances(some, some).counts())["pq"] == 1
    assert panoptic(match_instances(some, full).counts())["pq"] == 0


def test_an_overlap_of_exactly_half_is_no_match() -> None:
    truth, prediction = EMPTY.copy(), EMPTY.copy()
    truth[0, :2], prediction[0, :1] = 1, 1
    assert match_instances(truth, prediction).true_iou == [0.5]
    assert match_instances(truth, prediction).counts()[1] == 0


def _naive_ap(matches: list[InstanceMatch], threshold: float) -> float:
    objects = sorted(((s, i) for m in matches for s, i in zip(m.score, m.predicted_iou, strict=True)))[::-1]
    n_true, points, tp = sum(len(m.true_iou) for m in matches), [], 0
    for rank, (_, iou) in enumerate(objects, start=1):
        tp += iou > threshold
        points.append((tp / n_true, tp / rank))
    area, last = 0.0, 0.0
    for k, (recall, _) in enumerate(points):
        area += (recall - last) * max(p for _, p in points[k:])
        last = recall
    return area


def _random_match(rng: np.random.Generator) -> InstanceMatch:
    iou = rng.random(rng.integers(1, 7))
    return InstanceMatch(np.append(iou, np.zeros(2)), np.append(iou, 0.0), rng.random(len(iou) + 1))


@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_average_precision_is_that_of_a_naive_loop_with_images_drawn_at_will(threshold: float) -> None:
    rng = np.random.default_rng(3)
    matches = [_random_match(rng) for _ in range(8)]
    assert average_precision(matches, threshold) == pytest.approx(_naive_ap(matches, threshold))
    times = rng.integers(0, 3, (5, 8))
    drawn = [average_precision([m for m, n in zip(matches, row, strict=True) for _ in range(n)], threshold)
             for row in times]  # fmt: skip
    np.testing.assert_allclose(average_precision(matches, threshold, times=times), drawn)


def test_only_the_order_of_scores_matters_to_average_precision() -> None:
    rng = np.random.default_rng(5)
    match = _random_match(rng)
    bent = InstanceMatch(match.true_iou, match.predicted_iou, match.score**3)
    assert average_precision([match]) == pytest.approx(average_precision([bent]))
    perfect = InstanceMatch(np.ones(3), np.ones(3), np.full(3, 0.2))
    assert average_precision([perfect]) == 1


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: label_instances(EMPTY), "not a mask"),
        (lambda: label_instances(EMPTY > 0, minimum=0), "out of range"),
        (lambda: split_instances(EMPTY > 0, separation=0), "out of range"),
        (lambda: match_instances(EMPTY, EMPTY[1:]), "wrong shape"),
        (lambda: match_instances(EMPTY, EMPTY.astype(float)), "not labels"),
        (lambda: match_instances(EMPTY, EMPTY - 1), "not labels"),
        (lambda: match_instances(EMPTY, EMPTY).counts(0.4), "IoU threshold"),
    ],
)
def test_misuse_is_told(call, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        call()
