"""Bands of a canvas are the rows of the image prepared as a whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emvfm.backbones import canvas as canvas_module
from emvfm.backbones import preprocess as preprocess_module
from emvfm.backbones.canvas import Canvas
from emvfm.backbones.preprocess import Preprocess
from emvfm.errors import CorruptError

PREPROCESS = Preprocess(7, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


class Array:
    """An array that counts the rows it gives out."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.most = values, 0
        self.shape, self.dtype = values.shape, values.dtype

    def rows(self, start: int, stop: int) -> np.ndarray:
        self.most = max(self.most, stop - start)
        return self.values[start:stop]


@given(
    st.integers(7, 90), st.integers(7, 60), st.sampled_from(["native", "x0.6", "x1.7", "80", "x0.37"]),
    st.sampled_from(["uint8", "uint16", "float32"]), st.booleans(), st.data(),
)  # fmt: skip
@settings(deadline=None, max_examples=80)
def test_bands_are_rows_of_the_whole(
    height: int, width: int, input_size: str, dtype: str, colour: bool, data: st.DataObject
) -> None:
    shape = (height, width, 3) if colour else (height, width)
    image = np.random.default_rng(height * width).integers(0, 255, shape).astype(dtype)
    preprocess = replace(PREPROCESS, input_size=input_size)
    if min(preprocess.scaled((height, width))) < 7:
        return
    whole = preprocess.prepare(image)
    canvas = Canvas(Array(image), preprocess)
    assert canvas.grid == whole.grid
    bottom = data.draw(st.integers(2 if whole.grid[0] > 1 else 1, whole.grid[0]))
    top = data.draw(st.integers(0, max(0, bottom - 2)))
    band = canvas.standardise(canvas.band(top, bottom))
    np.testing.assert_allclose(band, whole.pixels[:, top * 7 : bottom * 7], atol=1e-4)


def test_a_band_reads_hardly_more_than_itself() -> None:
    image = Array(np.random.default_rng(0).integers(0, 255, (7000, 20)).astype(np.uint8))
    Canvas(image, PREPROCESS).band(10, 20)
    assert image.most == 70
    Canvas(image, replace(PREPROCESS, input_size="x0.5")).band(10, 20)
    assert image.most <= 140 + 2 * 5


def test_the_intensity_window_is_the_same_however_much_is_read_at_once(monkeypatch) -> None:
    image = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    monkeypatch.setattr(preprocess_module, "WINDOW_PIXELS", 500)  # every fifth pixel
    monkeypatch.setattr(canvas_module, "_BAND_PIXELS", 700)
    array = Array(image)
    band = Canvas(array, PREPROCESS).band(0, 43)
    np.testing.assert_allclose(PREPROCESS.standardise(band), PREPROCESS.prepare(image).pixels, atol=1e-5)


def test_values_that_are_not_finite_are_refused() -> None:
    image = np.zeros((70, 20), np.float32)
    image[60, 3] = np.nan
    with pytest.raises(CorruptError, match="not finite"):
        Canvas(Array(image), PREPROCESS).band(8, 10)
