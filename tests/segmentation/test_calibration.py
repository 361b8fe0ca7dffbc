"""Calibration from histograms against torchmetrics and the definitions pixel by pixel."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from emvfm.errors import UsageError
from emvfm.segmentation.calibration import brier, calibration_error, reliability
from emvfm.segmentation.histograms import ProbabilityHistogram, probability_histogram


def _slice(seed: int, honest: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.5, 1.5, (60, 70)).astype(np.float32)
    chance = probability if honest else np.sqrt(probability)
    return probability, rng.random(probability.shape) < chance


def _error(histogram: ProbabilityHistogram, bins: int = 16) -> float:
    return float(calibration_error(histogram.counts, histogram.totals, bins))


@pytest.mark.parametrize("bins", [1, 8, 16, 64])
def test_the_error_is_that_of_torchmetrics(bins: int) -> None:
    probability, truth = _slice(1)
    planes = torch.from_numpy(probability).ravel(), torch.from_numpy(truth).ravel().int()
    want = float(binary_calibration_error(*planes, n_bins=bins, norm="l1"))
    assert _error(probability_histogram(probability, truth), bins) == pytest.approx(want, abs=1e-5)


def test_the_curve_and_the_brier_score_are_those_of_the_pixels() -> None:
    probability, truth = _slice(2)
    histogram = probability_histogram(probability, truth)
    assert brier(histogram) == pytest.approx(((probability.astype(float) - truth) ** 2).mean())
    for row in reliability(histogram, 8):
        inside = (probability > row.low) & (probability <= row.high)
        assert row.pixels == inside.sum()
        assert row.predicted == pytest.approx(probability[inside].mean(dtype=float))
        assert row.observed == pytest.approx(truth[inside].mean())
    gaps = [row.pixels * abs(row.predicted - row.observed) for row in reliability(histogram)]
    assert _error(histogram) == pytest.approx(sum(gaps) / truth.size)


def test_honest_probabilities_have_less_error_and_perfect_ones_none() -> None:
    honest, bent = (probability_histogram(*_slice(3, honest)) for honest in (True, False))
    assert _error(honest) < 0.02 < 0.1 < _error(bent)
    truth = _slice(1)[1]
    perfect = probability_histogram(truth.astype(np.float32), truth)
    assert (_error(perfect), brier(perfect)) == (0, 0)
    wrong = probability_histogram((~truth).astype(np.float32), truth)
    assert (_error(wrong), brier(wrong)) == (1, 1)


def test_slices_pool_and_bins_without_pixels_are_none() -> None:
    first, second = probability_histogram(*_slice(1)), probability_histogram(*_slice(2))
    total = first + second
    n = [histogram.counts.sum() for histogram in (first, second)]
    assert brier(total) == pytest.approx((n[0] * brier(first) + n[1] * brier(second)) / sum(n))
    sure = probability_histogram(np.full((3, 3), 0.9, np.float32), np.ones((3, 3), bool))
    rows = reliability(sure, 4)
    assert [row.pixels for row in rows] == [0, 0, 0, 9]
    assert math.isnan(rows[0].predicted)
    assert json.loads(json.dumps(rows[0].to_json(), allow_nan=False))["observed"] is None
    nothing = ProbabilityHistogram.empty()
    assert (_error(nothing), brier(nothing)) == (0, 0)


@pytest.mark.parametrize("bins", [0, 2000])
def test_bins_out_of_range_are_told(bins: int) -> None:
    with pytest.raises(UsageError, match="bins"):
        reliability(ProbabilityHistogram.empty(), bins)
