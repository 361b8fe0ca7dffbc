"""Figures of distances: valid PNG, the same bytes for the same input, marks where the numbers say so."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from emvfm.report import distance_figures as figures
from emvfm.report.drawing import COLOURS

NULL = np.random.default_rng(0).gamma(3, 1, 200)
ROWS = [
    {"label": "a × b", "value": 20.0, "null": NULL, "low": 15.0, "high": 25.0},
    {"label": "$a_1$ × c", "value": 3.0, "null": (), "low": None, "high": None},
]
VALUES = np.array([[1.0, 20.0, 2.0], [20.0, np.nan, 30.0], [2.0, 30.0, 1.5]])
BEYOND = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
SERIES = {"label": "a × b", "value": [1, 5], "low": [0, None], "high": [2, None], "bound": [3, None]}
LINE = {"label": "a × b", "inverse_n": (0.01, 0.02), "distances": (3.0, 4.0), "value": 2.0, "slope": 100.0}
CALLS = {
    "values": lambda: figures.values_with_nulls(ROWS, "Fréchet distance"),
    "smaller": lambda: figures.values_with_nulls(ROWS, "coverage", "smaller"),
    "matrix": lambda: figures.distance_matrix(
        VALUES, list("abc"), BEYOND, "distance", known=~np.eye(3, dtype=bool)
    ),
    "directed": lambda: figures.distance_matrix(
        VALUES, ["a" * 15, "b", "c"], BEYOND, "coverage", further="smaller", reference=True
    ),
    "layers": lambda: figures.distances_by_layer(
        [0, 3], [{**SERIES, "beyond": [False, True]}] * 4, "distance"
    ),
    "lines": lambda: figures.extrapolations(
        [{**LINE, "low": -1.0, "high": 5.0}, {**LINE, "low": None, "high": None}]
    ),
}


def _pixels(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def _count(pixels: np.ndarray, colour: str) -> int:
    wanted = [int(COLOURS[colour][i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(pixels - wanted).max(axis=-1) < 12).sum())


@pytest.mark.parametrize("name", CALLS)
def test_every_figure_is_a_readable_png_and_the_same_again(name: str) -> None:
    pixels = _pixels(CALLS[name]())
    assert min(pixels.shape[:2]) >= 200
    assert pixels.std() > 5
    assert CALLS[name]() == CALLS[name]()


def test_a_frame_marks_each_cell_beyond_its_null_and_no_other() -> None:
    counts = [
        _count(_pixels(figures.distance_matrix(VALUES, list("abc"), marks, "distance")), "orange")
        for marks in (np.zeros((3, 3), bool), BEYOND, np.eye(3, dtype=bool))
    ]
    legend = counts[0]
    assert counts[1] > 5 * legend
    assert counts[2] == legend  # the diagonal is no pair


def test_dark_is_further_whatever_the_direction() -> None:
    far, near = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    none = np.zeros((2, 2), bool)
    larger = _pixels(figures.distance_matrix(far, ["a", "b"], none, "x"))
    smaller = _pixels(figures.distance_matrix(near, ["a", "b"], none, "x", further="smaller"))
    half = (slice(60, 240), slice(60, 400))
    np.testing.assert_allclose(larger[half].mean(), smaller[half].mean(), rtol=0.1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: figures.values_with_nulls([], "x"),
        lambda: figures.distance_matrix(VALUES, ["a"], BEYOND, "x"),
        lambda: figures.distances_by_layer([], [], "x"),
        lambda: figures.extrapolations([]),
    ],
)
def test_what_cannot_be_drawn_is_an_error(call) -> None:
    with pytest.raises(ValueError, match=r"no distances|matrix"):
        call()


def test_matplotlib_is_not_imported_with_the_module() -> None:
    code = "import sys, emvfm.report.distance_figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
