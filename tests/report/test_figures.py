"""Figures: valid PNG, deterministic, colours that mean what the legend says, and no state left behind."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from emvfm.report import distance_figures, figures

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(60, 200, (96, 128)).astype(np.uint8)
TRUTH = np.zeros((96, 128), bool)
TRUTH[20:60, 20:60] = True
SHIFTED = np.roll(TRUTH, 12, axis=1)


def _open(png):
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(float)


CALLS = {
    "overlay": lambda: figures.overlay(IMAGE, TRUTH, SHIFTED, "title"),
    "overlay_grid": lambda: figures.overlay_grid([(IMAGE, TRUTH, SHIFTED, str(k)) for k in range(4)]),
    "montage": lambda: figures.montage([IMAGE] * 3, ["a", "b", "c"], [TRUTH, None, TRUTH & False]),
    "iou_matrix": lambda: figures.iou_matrix(
        np.array([[0.8, np.nan], [0.1, 0.5]]), ["a", "$b_1$"], ["a", "b"], np.zeros((2, 2)), np.ones((2, 2))
    ),
    "bars": lambda: figures.bars_with_intervals(["x", "y"], [0.2, np.nan], [0.1, np.nan], [0.3, np.nan]),
    "fd": lambda: distance_figures.values_with_nulls(
        [{"label": "a – b", "value": 9.0, "null": RNG.random(0), "low": 7, "high": 11}], "Fréchet distance"
    ),
    "trends": lambda: figures.trends(
        {"a": [(1, 0.2, 0.1, 0.3), (32, 0.7, None, None)], "$b": []}, "slices", "IoU", log=True
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_figure_is_a_png_of_readable_size(name):
    pixels = _open(CALLS[name]())
    assert min(pixels.shape[:2]) >= 150
    assert pixels.std() > 5  # something is drawn


@pytest.mark.parametrize("name", CALLS)
def test_same_input_same_bytes(name):
    assert CALLS[name]() == CALLS[name]()


def test_overlay_tints_each_part_in_its_own_colour():
    flat = np.full((96, 128), 100, np.uint8)
    flat[0, 0], flat[0, 1] = 0, 255
    blended = figures._blended(flat, TRUTH, SHIFTED)
    found, wrong, missed = blended[30, 40], blended[30, 65], blended[30, 22]
    outside = blended[80, 100]
    assert np.ptp(outside) < 1e-6  # grey
    assert found.argmax() == 1  # green
    assert wrong.argmax() == 0  # vermilion
    assert missed.argmax() == 2  # blue


def test_overlay_of_a_perfect_prediction_shows_no_error_colour():
    blended = figures._blended(IMAGE, TRUTH, TRUTH)
    assert (blended[TRUTH].argmax(axis=1) == 1).mean() > 0.99
    np.testing.assert_allclose(np.ptp(blended[~TRUTH], axis=1), 0, atol=1e-6)


def test_large_and_coloured_images_are_thinned_alike():
    large = np.repeat(np.repeat(IMAGE, 20, 0), 20, 1)
    mask = np.repeat(np.repeat(TRUTH, 20, 0), 20, 1)
    assert max(figures._blended(np.stack([large] * 3, -1), mask, mask).shape) <= 900


@pytest.mark.parametrize(
    "call",
    [
        lambda: figures.overlay(IMAGE, TRUTH[:-1], TRUTH[:-1]),
        lambda: figures.overlay(IMAGE, TRUTH, TRUTH[:-1]),
        lambda: figures.overlay_grid([]),
        lambda: figures.montage([]),
        lambda: figures.iou_matrix(np.zeros((2, 3)), ["a"], ["b"]),
        lambda: distance_figures.values_with_nulls([], "x"),
        lambda: figures.trends({"a": []}, "x", "y"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(call):
    with pytest.raises(ValueError, match=r"differ|no |matrix"):
        call()


def test_style_does_not_leak():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    CALLS["bars"]()
    assert dict(mpl.rcParams) == before


def test_matplotlib_is_not_imported_with_the_module():
    import subprocess
    import sys

    code = "import sys, emvfm.report.figures, emvfm.report.html; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
