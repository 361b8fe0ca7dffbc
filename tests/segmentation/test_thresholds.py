"""Curves from histograms against scikit-learn, torchmetrics and thresholding pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import binary_jaccard_index, binary_precision, binary_recall

from emvfm.errors import UsageError
from emvfm.segmentation.histograms import BINS, ProbabilityHistogram, probability_histogram
from emvfm.segmentation.thresholds import average_precision_of, best_threshold, precision_recall


def _slice(seed: int, shape: tuple[int, int] = (40, 50)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(shape) < 0.2
    # Also multiples of 1/1024 and the ends: the cases in which "above" and "at least" differ.
    probability = np.clip(rng.normal(0.3 + 0.3 * truth, 0.2), 0, 1).astype(np.float32)
    coarse = rng.random(shape) < 0.3
    probability[coarse] = np.round(probability[coarse] * 64) / 64
    return probability, truth


@pytest.mark.parametrize("threshold", [1 / BINS, 0.25, 0.5, 0.75, 1 - 1 / BINS])
def test_points_of_the_curve_are_those_of_thresholding_the_pixels(threshold: float) -> None:
    probability, truth = _slice(1)
    curve = precision_recall(probability_histogram(probability, truth))
    k = int(threshold * BINS)
    assert curve.threshold[k] == threshold
    pair = torch.from_numpy(probability > threshold).int(), torch.from_numpy(truth).int()
    assert curve.precision[k] == pytest.approx(float(binary_precision(*pair)), abs=1e-6)
    assert curve.recall[k] == pytest.approx(float(binary_recall(*pair)), abs=1e-6)
    assert curve.iou[k] == pytest.approx(float(binary_jaccard_index(*pair)), abs=1e-6)


def test_average_precision_is_that_of_scikit_learn() -> None:
    probability, truth = _slice(2)
    rounded = np.ceil(probability * BINS) / BINS  # what the bins keep
    got = average_precision_of(probability_histogram(probability, truth).counts)
    zero_is_in_the_first_bin = np.maximum(rounded, 1 / BINS)
    assert got == pytest.approx(average_precision_score(truth.ravel(), zero_is_in_the_first_bin.ravel()))
    assert got == pytest.approx(average_precision_score(truth.ravel(), probability.ravel()), abs=2e-3)


def test_slices_pool_as_their_pixels_do() -> None:
    pairs = [_slice(seed, (20 + seed, 30)) for seed in range(4)]
    total = sum((probability_histogram(*pair) for pair in pairs), start=ProbabilityHistogram.empty())
    whole = probability_histogram(
        np.concatenate([p.ravel() for p, _ in pairs])[None], np.concatenate([t.ravel() for _, t in pairs])[None]
    )  # fmt: skip
    np.testing.assert_array_equal(total.counts, whole.counts)
    np.testing.assert_allclose(total.totals, whole.totals)
    np.testing.assert_allclose(total.squares, whole.squares)
    tables = np.stack([probability_histogram(*pair).counts for pair in pairs])
    np.testing.assert_allclose(
        average_precision_of(tables), [average_precision_of(table) for table in tables]
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better_than_the_best(seed: int) -> None:
    probability, truth = _slice(seed)
    best = best_threshold(probability_histogram(probability, truth))

    def iou(threshold: float) -> float:
        found = probability > threshold
        return (found & truth).sum() / (found | truth).sum()

    assert all(iou(best) >= iou(k / BINS) - 1e-12 for k in range(1, BINS))


def test_a_model_that_is_sure_keeps_one_half() -> None:
    truth = _slice(1)[1]
    for low, high in ((0.0, 1.0), (0.4, 0.6)):
        probability = np.where(truth, high, low).astype(np.float32)
        assert best_threshold(probability_histogram(probability, truth)) == 0.5
    shy = np.where(truth, 0.25, 0.125).astype(np.float32)
    assert 0.125 <= best_threshold(probability_histogram(shy, truth)) < 0.25


def test_empty_and_full_slices_are_defined() -> None:
    nothing, all_ = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    for truth, precision in ((nothing, 0.0), (all_, 1.0)):
        high = precision_recall(probability_histogram(np.ones((4, 5), np.float32), truth))
        assert high.precision[512] == high.iou[512] == precision
        assert high.recall[512] == 1
    low = precision_recall(probability_histogram(np.zeros((4, 5), np.float32), nothing))
    assert (low.precision[512], low.recall[512], low.iou[512]) == (1, 1, 1)
    assert average_precision_of(ProbabilityHistogram.empty().counts) == 0
    with pytest.raises(UsageError, match="no foreground"):
        best_threshold(probability_histogram(np.zeros((4, 5), np.float32), nothing))


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
def test_what_is_no_probability_is_refused(value: float) -> None:
    truth = np.zeros((2, 2), bool)
    with pytest.raises(UsageError, match="not probabilities"):
        probability_histogram(np.array([[0, 0], [0, value]], np.float32), truth)
    with pytest.raises(UsageError, match="not the mask"):
        probability_histogram(np.zeros((2, 3), np.float32), truth)
