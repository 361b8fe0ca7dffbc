"""Scores over slices are those of the parts they are made of, with intervals that belong to the same draws."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from emvfm.segmentation.boundary import boundary_score
from emvfm.segmentation.calibration import brier, calibration_error
from emvfm.segmentation.evaluation_options import EvalConfig
from emvfm.segmentation.failures import object_failures
from emvfm.segmentation.histograms import ProbabilityHistogram, probability_histogram
from emvfm.segmentation.instances import label_instances, match_instances
from emvfm.segmentation.metrics import count, pooled
from emvfm.segmentation.scoring import Tally, estimates, measure
from emvfm.segmentation.thresholds import average_precision_of

FULL = EvalConfig(metrics="full", smallest=5, samples=60)


def _slice(seed: int, shape: tuple[int, int] = (50, 60)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=shape), 2) * 5
    noise = gaussian_filter(rng.normal(size=shape), 1)
    return (1 / (1 + np.exp(-4 * (smooth + noise - 1.2)))).astype(np.float32), smooth > 1


def _measured(n: int = 6, config: EvalConfig = FULL, nm: float | None = 5.0):
    tally, slices = Tally(3), []
    for seed in range(n):
        one, histogram = measure(
            *_slice(seed), 0.5, config, id=f"s{seed}", source="ab"[seed % 2], block=seed // 2, pixel_size_nm=nm
        )  # fmt: skip
        slices.append(one)
        tally.add(seed // 2, histogram)
    return slices, tally


def test_values_are_those_of_the_modules_on_all_slices() -> None:
    slices, tally = _measured()
    got = {name: estimate.value for name, estimate in estimates(slices, tally, FULL).items()}
    pairs = [_slice(seed) for seed in range(6)]
    counts = [count(p > 0.5, t) for p, t in pairs]
    whole = sum((probability_histogram(*pair) for pair in pairs), start=ProbabilityHistogram.empty())
    outlines = [boundary_score(p > 0.5, t) for p, t in pairs]
    assert got["iou_per_image"] == pytest.approx(np.mean([c.iou for c in counts]))
    assert got["dice_per_image"] == pytest.approx(np.mean([c.dice for c in counts]))
    assert got["iou_macro"] == pytest.approx(np.mean([pooled(counts[0::2]).iou, pooled(counts[1::2]).iou]))
    assert got["average_precision"] == pytest.approx(average_precision_of(whole.counts))
    assert got["calibration_error"] == pytest.approx(calibration_error(whole.counts, whole.totals))
    assert got["brier"] == pytest.approx(brier(whole))
    assert got["hd95_px"] == pytest.approx(np.mean([o.hausdorff for o in outlines]))
    assert got["hd95_nm"] == pytest.approx(5 * got["hd95_px"])
    assert got["assd_nm"] == pytest.approx(5 * got["assd_px"])
    assert got["boundary_f1"] == pytest.approx(sum(outlines[1:], start=outlines[0]).f1)
    assert 0 < got["ap75"] < got["ap50"] <= 1
    assert 0 < got["pq"] < got["rq"] <= 1


def test_every_interval_holds_its_value_and_says_its_blocks() -> None:
    slices, tally = _measured()
    for name, estimate in estimates(slices, tally, FULL).items():
        assert estimate.low <= estimate.value <= estimate.high, name
        assert estimate.n == 6
        assert "3 blocks" in estimate.method
    single, histogram = measure(*_slice(1), 0.5, FULL, id="s", source="a", block=0)
    alone = Tally(1)
    alone.add(0, histogram)
    assert all(e.low is None for e in estimates([single], alone, FULL).values())


def test_what_was_not_asked_for_or_is_defined_nowhere_is_left_out() -> None:
    basic = EvalConfig(samples=20)
    names = set(estimates(*_measured(config=basic), basic))
    assert names == {
        "iou_per_image", "dice_per_image", "iou_macro", "average_precision", "calibration_error", "brier",
    }  # fmt: skip
    assert not {"hd95_nm", "assd_nm"} & set(estimates(*_measured(nm=None), FULL))
    empty, histogram = measure(
        np.zeros((9, 9), np.float32), _slice(0)[1][:9, :9] | True, 0.5, FULL, id="s", source="a", block=0
    )
    tally = Tally(1)
    tally.add(0, histogram)
    found = estimates([empty], tally, FULL)
    assert "hd95_px" not in found
    assert found["boundary_f1"].value == 0
    assert json.loads(json.dumps(empty.extra(), allow_nan=False))["hd95_px"] is None


def test_the_extra_scores_of_a_slice_are_its_own() -> None:
    slices, _ = _measured(2)
    probability, truth = _slice(1)
    extra, outlines = slices[1].extra(), boundary_score(probability > 0.5, truth)
    assert extra["boundary_f1"] == outlines.f1
    assert extra["hd95_nm"] == pytest.approx(5 * outlines.hausdorff)
    assert extra["objects_true"] == label_instances(truth, minimum=5).max()
    assert extra["objects_matched"] <= min(extra["objects_true"], extra["objects_predicted"])


def test_a_higher_threshold_finds_less() -> None:
    found = [measure(*_slice(0), t, FULL, id="s", source="a", block=0)[0].counts for t in (0.2, 0.5, 0.9)]
    assert [c.tp + c.fp for c in found] == sorted((c.tp + c.fp for c in found), reverse=True)


def test_missed_and_false_objects_are_listed_where_they_are() -> None:
    truth, prediction = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    truth[2:8, 2:8] = prediction[2:8, 2:8] = True
    truth[20:24, 30:36] = True
    prediction[30:33, 5:8] = True
    labels = label_instances(truth), label_instances(prediction)
    probability = np.where(prediction, 0.75, 0.1)
    match = match_instances(*labels, probability)
    missed, false = object_failures(match, *labels, image="i", source="s", pixel_size_nm=5)
    assert (missed.kind, missed.row, missed.column, missed.area_px) == ("missed", 21.5, 32.5, 24)
    assert (missed.area_nm2, missed.score, missed.best_iou) == (600, None, 0)
    assert (false.kind, false.row, false.column, false.area_px) == ("false", 31, 6, 9)
    assert false.score == pytest.approx(0.75)
    assert (
        object_failures(match_instances(labels[0], labels[0]), labels[0], labels[0], image="i", source="s")
        == []
    )


def test_objects_may_be_cut_at_their_necks() -> None:
    y, x = np.mgrid[:40, :60]
    truth = ((y - 20) ** 2 + (x - 20) ** 2 <= 100) | ((y - 20) ** 2 + (x - 36) ** 2 <= 100)
    counted = [
        measure(truth.astype(np.float32), truth, 0.5, EvalConfig(metrics="full", objects=o), id="s", source="a",
                block=0)[0].extra()["objects_true"]
        for o in ("components", "watershed")
    ]  # fmt: skip
    assert counted == [1, 2]
