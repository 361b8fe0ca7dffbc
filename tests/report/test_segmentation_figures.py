"""Figures of scores are pictures that show their data, and refuse what can't be told apart."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from emvfm.report.segmentation_figures import MOST, differences, precision_recall, reliability

CURVE = {
    "label": "a, frozen", "area": 0.8, "at": 0.5, "threshold": [0.0, 0.5, 0.9], "precision": [0.1, 0.7, 0.9],
    "recall": [1.0, 0.8, 0.3],
}  # fmt: skip
BINS = {
    "label": "a $x$, frozen", "error": 0.1,
    "rows": [
        {"low": 0.0, "high": 0.5, "pixels": 90, "predicted": 0.2, "observed": 0.1},
        {"low": 0.5, "high": 0.75, "pixels": 0, "predicted": None, "observed": None},
        {"low": 0.75, "high": 1.0, "pixels": 10, "predicted": 0.8, "observed": 0.9},
    ],
}  # fmt: skip
BAR = {"label": "LoRA on a:test", "value": 0.1, "low": 0.05, "high": 0.2, "note": "p = 0.01"}


def _pixels(picture: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(picture)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("draw", "item", "changes"),
    [
        (precision_recall, CURVE, {"precision": [0.1, 0.5, 0.6]}),
        (reliability, BINS, {"rows": [*BINS["rows"][:2], {**BINS["rows"][2], "observed": 0.5}]}),
        (differences, BAR, {"value": -0.1, "low": None, "high": None}),
    ],
)
def test_pictures_show_the_data_and_are_the_same_every_time(draw, item, changes) -> None:
    picture = draw([item])
    assert draw([item]) == picture
    pixels, other = _pixels(picture), _pixels(draw([{**item, **changes}]))
    assert np.ptp(pixels) > 100
    assert pixels.shape != other.shape or (pixels != other).any()
    assert _pixels(draw([item, {**item, **changes, "label": "another"}])).shape[0] >= pixels.shape[0]
    with pytest.raises(ValueError, match="no "):
        draw([])


@pytest.mark.parametrize(("draw", "item"), [(precision_recall, CURVE), (reliability, BINS)])
def test_curves_that_cannot_be_told_apart_are_refused(draw, item) -> None:
    with pytest.raises(ValueError, match="told apart"):
        draw([item] * (MOST + 1))
