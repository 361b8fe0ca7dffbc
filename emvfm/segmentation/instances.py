"""Objects in masks: labelling, splitting those that touch, and how well two sets of objects match.

Objects of one image never overlap, so above an IoU of one half an object has at most one partner, and
greedy and optimal matching are the same (Kirillov et al. 2019, arXiv 1801.00868). Numpy and scipy only.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError

__all__ = [
    "InstanceMatch",
    "average_precision",
    "label_instances",
    "match_instances",
    "panoptic",
    "split_instances",
]

Labels = NDArray[np.int32]


def label_instances(mask: NDArray[np.bool_], *, minimum: int = 1) -> Labels:
    """Number the connected parts of a mask; pixels touch at sides and corners.

    Parameters
    ----------
    mask
        ``(H, W)`` bool.
    minimum
        Smaller parts, in pixels, are left out.

    Returns
    -------
    ``(H, W)`` int32: 0 outside, else 1 … n without gaps, in the order of the parts' first pixels.

    Raises
    ------
    UsageError
        When the mask is not bool or `minimum` is below 1.
    """
    from scipy.ndimage import label

    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise UsageError("not a mask", where="mask", got=f"{mask.dtype} {mask.shape}", expected="bool (H, W)")
    if minimum < 1:
        raise UsageError("out of range", where="minimum", got=minimum, expected="at least 1")
    labels, _ = label(mask, structure=np.ones((3, 3), int), output=np.int32)
    return _without_small(labels, minimum)


def _without_small(labels: Labels, minimum: int) -> Labels:
    kept = np.bincount(labels.ravel()) >= minimum
    kept[0] = False
    return (np.cumsum(kept) * kept).astype(np.int32)[labels]


def split_instances(mask: NDArray[np.bool_], *, minimum: int = 1, separation: float = 8.0) -> Labels:
    """Number the parts of a mask, cut at their necks by a watershed of the distance to the outside.

    Seeds are the places farthest from the outside within `separation`; basins grow from them in order of
    falling distance (Meyer 1994, doi:10.1016/0165-1684(94)90060-4), within their part only.

    Parameters
    ----------
    mask
        ``(H, W)`` bool.
    minimum
        Smaller parts and pieces, in pixels, are left out.
    separation
        Least distance between seeds of one part, in px, above 0.

    Raises
    ------
    UsageError
        See :func:`label_instances`; or `separation` is not positive.
    """
    from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter

    if not separation > 0:
        raise UsageError("out of range", where="separation", got=separation, expected="above 0")
    parts = label_instances(mask, minimum=minimum)
    # What lies beyond the image is unknown, so its frame repels no seed.
    depth = gaussian_filter(distance_transform_edt(parts > 0), 1.0) if parts.any() else np.zeros(mask.shape)
    pieces = np.zeros_like(parts)
    count = 0
    for number, box in enumerate(find_objects(parts), start=1):
        inside = parts[box] == number
        found = _flood(np.where(inside, depth[box], -1.0), _seeds(depth[box], inside, separation))
        pieces[box][inside] = found[inside] + count
        count += int(found.max())
    return _without_small(pieces, minimum)


def _seeds(depth: NDArray[np.float64], inside: NDArray[np.bool_], separation: float) -> list[tuple[int, int]]:
    """Return the local maxima of a part, deepest first, none nearer than `separation` to a deeper one."""
    from scipy.ndimage import maximum_filter

    shown = np.where(inside, depth, -1.0)
    points = np.argwhere(inside & (shown == maximum_filter(shown, size=3, mode="nearest")))
    points = points[np.argsort(-shown[tuple(points.T)], kind="stable")]
    seeds: list[NDArray[np.intp]] = []
    for point in points:
        if all(((point - seed) ** 2).sum() >= separation**2 for seed in seeds):
            seeds.append(point)
    return [(int(y), int(x)) for y, x in seeds]


def _flood(depth: NDArray[np.float64], seeds: Sequence[tuple[int, int]]) -> Labels:
    """Grow labels 1 … n from `seeds` over the pixels of depth >= 0, deepest first, first come first served."""
    labels = np.zeros(depth.shape, np.int32)
    queue = [(-depth[seed], order, *seed) for order, seed in enumerate(seeds)]
    for label, seed in enumerate(seeds, start=1):
        labels[seed] = label
    heapq.heapify(queue)
    order = len(queue)
    while queue:
        _, _, y, x = heapq.heappop(queue)
        for v in range(max(0, y - 1), min(depth.shape[0], y + 2)):
            for u in range(max(0, x - 1), min(depth.shape[1], x + 2)):
                if labels[v, u] == 0 and depth[v, u] >= 0:
                    labels[v, u] = labels[y, x]
                    heapq.heappush(queue, (-depth[v, u], order, v, u))
                    order += 1
    return labels


@dataclass(frozen=True)
class InstanceMatch:
    """Objects of one image, true and predicted, with the best overlap of each.

    Parameters
    ----------
    true_iou
        ``(n,)`` float64, of each true object the IoU with its best predicted one, 0 without any.
    predicted_iou
        ``(m,)`` float64, of each predicted object the IoU with its best true one.
    score
        ``(m,)`` float64, the confidence in each predicted object; all 1 if none was given.
    """

    true_iou: NDArray[np.float64]
    predicted_iou: NDArray[np.float64]
    score: NDArray[np.float64]

    def counts(self, threshold: float = 0.5) -> NDArray[np.float64]:
        """Return IoU sum of the matches, tp, fp, fn, and the absolute error of the count, ``(5,)`` float64.

        A match is a pair whose IoU is above `threshold`, which is at least 0.5.
        """
        matched = self.true_iou[self.true_iou > _at_least_half(threshold)]
        n_true, n_predicted = len(self.true_iou), len(self.predicted_iou)
        wrong, missed = n_predicted - len(matched), n_true - len(matched)
        return np.array([matched.sum(), len(matched), wrong, missed, abs(n_predicted - n_true)], np.float64)


def _at_least_half(threshold: float) -> float:
    if not 0.5 <= threshold < 1:
        raise UsageError("out of range", where="IoU threshold", got=threshold, expected="0.5 to below 1")
    return threshold


def match_instances(
    truth: NDArray[Any], prediction: NDArray[Any], probability: NDArray[Any] | None = None
) -> InstanceMatch:
    """Overlap every true object with every predicted one.

    Parameters
    ----------
    truth, prediction
        ``(H, W)`` integer labels 0 … n, 0 is outside; a number that no pixel has is no object.
    probability
        ``(H, W)`` of the foreground in [0, 1]; its mean over a predicted object is the object's score.

    Raises
    ------
    UsageError
        When the labels are not integers, negative, or of different shapes.
    """
    for name, labels in {"truth": truth, "prediction": prediction}.items():
        if not np.issubdtype(labels.dtype, np.integer) or (labels.size and labels.min() < 0):
            raise UsageError("not labels", where=name, got=labels.dtype, expected="integers from 0")
        if labels.shape != truth.shape:
            raise UsageError("wrong shape", where=name, got=labels.shape, expected=truth.shape)
    true, predicted = truth.ravel().astype(np.int64), prediction.ravel().astype(np.int64)
    true_area, predicted_area = np.bincount(true, minlength=1), np.bincount(predicted, minlength=1)
    both = (true > 0) & (predicted > 0)
    pairs, shared = np.unique(true[both] * len(predicted_area) + predicted[both], return_counts=True)
    i, j = np.divmod(pairs, len(predicted_area))
    iou = shared / (true_area[i] + predicted_area[j] - shared)
    best_true, best_predicted = np.zeros(len(true_area)), np.zeros(len(predicted_area))
    np.maximum.at(best_true, i, iou)
    np.maximum.at(best_predicted, j, iou)
    score = np.ones(len(predicted_area))
    if probability is not None:
        weights = np.bincount(predicted, probability.ravel().astype(np.float64), len(predicted_area))
        score = weights / np.maximum(predicted_area, 1)
    there, found = true_area > 0, predicted_area > 0
    there[0] = found[0] = False
    return InstanceMatch(best_true[there], best_predicted[found], score[found])


def panoptic(table: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return panoptic, segmentation and recognition quality and the count error of added-up counts.

    PQ is SQ × RQ: the mean IoU of the matches times their F1. Without any object in truth and prediction
    all three are 1 and the count error 0; without a match all three are 0. The count error is the sum of
    the images' absolute errors over the number of true objects (over 1 where there is none).

    Parameters
    ----------
    table
        ``(..., 5)`` of :meth:`InstanceMatch.counts`, added over images.
    """
    total, tp, fp, fn, off = np.moveaxis(table, -1, 0)
    nothing = tp + fp + fn == 0
    rq = np.divide(tp, tp + 0.5 * (fp + fn), out=np.ones_like(tp), where=~nothing)
    sq = np.where(nothing, 1.0, np.divide(total, tp, out=np.zeros_like(tp), where=tp > 0))
    return {"pq": sq * rq, "sq": sq, "rq": rq, "count_error": off / np.maximum(tp + fn, 1)}


def average_precision(
    matches: Sequence[InstanceMatch],
    threshold: float = 0.5,
    *,
    times: NDArray[np.integer[Any]] | None = None,
) -> NDArray[np.float64]:
    """Return the area under precision over recall of predicted objects, pooled over images, most certain first.

    As in VOC since 2010 precision is made to fall (Everingham et al. 2015, doi:10.1007/s11263-014-0733-5) and
    the area is exact, not of 101 points. Objects of equal score come together. Without true objects it is 1
    if nothing was predicted and else 0.

    Parameters
    ----------
    matches
        Of each image.
    threshold
        IoU above which an object is found, at least 0.5.
    times
        ``(S, images)`` how often each image counts, for resampling; None counts each once.

    Returns
    -------
    ``(S,)`` float64, or ``()`` without `times`.
    """
    _at_least_half(threshold)
    counted = np.ones((1, len(matches))) if times is None else np.asarray(times, np.float64)
    n_true = counted @ np.array([len(m.true_iou) for m in matches], np.float64)
    score = np.concatenate([np.zeros(0), *(m.score for m in matches)])
    found = np.concatenate([np.zeros(0), *(m.predicted_iou for m in matches)]) > threshold
    image = np.repeat(np.arange(len(matches)), [len(m.score) for m in matches])
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=-1.0))
    areas = np.empty(len(counted))
    for row, weights in enumerate(counted):
        weight = weights[image[order]]
        tp, all_ = np.cumsum(weight * found[order])[ends], np.cumsum(weight)[ends]
        if n_true[row] == 0:
            areas[row] = float(weight.sum() == 0)
            continue
        precision = np.divide(tp, all_, out=np.zeros_like(tp), where=all_ > 0)
        falling = np.maximum.accumulate(precision[::-1])[::-1]
        areas[row] = (np.diff(tp / n_true[row], prepend=0.0) * falling).sum()
    return areas[0] if times is None else areas
