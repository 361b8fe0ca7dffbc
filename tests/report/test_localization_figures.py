"""Figures of localisation: they hold what they are given, at the edges too."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from emvfm.report.localization_figures import (
    calibration_curves,
    class_scores,
    confusion_matrix,
    efficiency_curves,
    label_pairs,
    score_bars,
)
from emvfm.report.localization_panels import composite, image_panels

NAMES = ["er", "golgi", "a name that is rather long for an axis $x$"]


def _size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def _bar(backbone: str, channels: str, value: float) -> dict:
    return {"backbone": backbone, "channels": channels, "value": value, "low": value - 0.1, "high": value + 0.05,
            "folds": [value - 0.02, value + 0.02]}  # fmt: skip


def test_bars_are_grouped_by_the_way_of_channels_where_there_are_several() -> None:
    grid = [_bar(b, c, 0.5) for b in ("dinov2", "pixel") for c in ("replicate", "map")]
    assert min(_size(score_bars(grid, "macro F1", "± std"))) > 300
    single = [{**_bar("dinov2", "", 0.7), "low": None, "high": None, "folds": []}]
    assert min(_size(score_bars(single, "macro F1", "none"))) > 100
    with pytest.raises(ValueError, match="no runs"):
        score_bars([], "macro F1", "")


def test_matrices_take_empty_classes() -> None:
    counts = np.array([[5, 1, 0], [0, 0, 0], [2, 0, 9]])
    assert min(_size(confusion_matrix(counts, NAMES, "title"))) > 200
    assert min(_size(label_pairs(counts, np.zeros((3, 3)), NAMES))) > 200


def test_curves_take_gaps() -> None:
    nan = float("nan")
    curve = {
        "label": "a",
        "said": [0.1, nan, 0.9],
        "found": [0.2, nan, 0.7],
        "counts": [5, 0, 3],
        "error": 0.1,
    }
    assert min(_size(calibration_curves([curve, {**curve, "label": "b"}]))) > 200
    points = {"label": "a", "groups": [3, 30], "values": [0.2, 0.6], "low": [0.1, nan], "high": [0.3, nan]}
    assert min(_size(efficiency_curves([points], "macro F1", "proteins"))) > 200
    rows = [
        {"class": n, "support": i, "value": None if i == 1 else 0.5, "spread": None}
        for i, n in enumerate(NAMES)
    ]
    assert min(_size(class_scores(rows, "F1", "title"))) > 150


def test_a_composite_has_each_channel_in_its_colour() -> None:
    gfp, dna = np.zeros((8, 8), np.uint16), np.zeros((8, 8), np.uint16)
    gfp[2:6, 2:6], dna[6:, 6:] = 4000, 900
    found = composite({"gfp": gfp, "dna": dna}, {"red": "gfp", "green": "dna"})
    assert found.shape == (8, 8, 3)
    assert found[3, 3].tolist() == [1, 0, 0]
    assert found[7, 7].tolist() == [0, 1, 0]
    assert not found[..., 2].any()


def test_panels_show_images_of_different_sizes_and_none_without_a_composite() -> None:
    rng = np.random.default_rng(0)
    two = {"gfp": rng.random((20, 30)), "dna": rng.random((20, 30))}
    items = [
        {"id": "a", "channels": two, "composite": rng.random((20, 30, 3)), "true": ["er", "golgi"],
         "predicted": {}, "right": False},
        {"id": "b", "channels": {"gfp": rng.random((9, 5))}, "composite": None, "true": [], "predicted": {"er": 0.9},
         "right": True},
    ]  # fmt: skip
    assert min(_size(image_panels(items, "title"))) > 300
    with pytest.raises(ValueError, match="no images"):
        image_panels([], "title")
