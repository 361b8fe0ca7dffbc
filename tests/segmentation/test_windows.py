"""Windows cover an image evenly, and blending what they say gives back what one look at the whole would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter

from emvfm.segmentation.windows import blend, plan


@st.composite
def _plans(draw):
    cell = draw(st.sampled_from([1, 2, 4, 7]))
    size = tuple(cell * draw(st.integers(1, 40)) for _ in range(2))
    tile = cell * draw(st.integers(1, 20))
    return size, tile, draw(st.integers(0, tile - 1)), cell


def _blended(image: np.ndarray, windows, model=lambda x: x, **resumed) -> np.ndarray:
    height, width = windows.rows.window, windows.columns.window

    def compute(top, lefts):
        return (model(image[top : top + height, left : left + width]) for left in lefts)

    bands = list(blend(windows, compute, **resumed))
    assert [band.top for band in bands] == list(
        np.cumsum([bands[0].top, *(len(b.values) for b in bands)])[:-1]
    )
    return np.concatenate([band.values for band in bands])


@given(_plans())
@settings(max_examples=150, deadline=None)
def test_weights_sum_to_one_at_every_pixel(given) -> None:
    size, tile, overlap, cell = given
    windows = plan(size, tile, overlap, cell)
    for axis, length in zip((windows.rows, windows.columns), size, strict=True):
        total = np.zeros(length)
        for start, weights in zip(axis.starts, axis.weights, strict=True):
            assert start % cell == 0
            assert 0 <= start <= length - axis.window
            assert (weights >= 0).all()
            total[start : start + axis.window] += weights
        np.testing.assert_allclose(total, 1, atol=1e-5)
        assert all(b > a for a, b in zip(axis.starts, axis.starts[1:], strict=False))
        assert axis.starts[-1] + axis.window == length


def test_windows_of_one_cell_can_share_nothing_and_still_cover_all() -> None:
    axis = plan((70, 7), 7, 6, 7).rows
    assert len(axis.starts) == 10
    assert all((weights == 1).all() for weights in axis.weights)


@given(_plans(), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_a_model_that_says_what_it_sees_gives_the_image(given, seed) -> None:
    size, tile, overlap, cell = given
    image = np.random.default_rng(seed).random(size).astype(np.float32)
    np.testing.assert_allclose(_blended(image, plan(*given)), image, atol=1e-5)
    assert plan(size, tile, overlap, cell).count >= 1


@pytest.mark.parametrize(("tile", "overlap"), [(32, 16), (40, 24), (64, 17), (100, 99), (200, 32)])
def test_the_tile_does_not_matter_to_a_model_of_bounded_reach(tile: int, overlap: int) -> None:
    image = np.random.default_rng(0).random((131, 97)).astype(np.float32)
    reach = overlap // 4

    def model(pixels):
        return uniform_filter(pixels, 2 * reach + 1, mode="reflect")

    np.testing.assert_allclose(
        _blended(image, plan(image.shape, tile, overlap), model), model(image), atol=1e-5
    )


def test_a_reach_beyond_the_context_does_matter() -> None:
    image = np.random.default_rng(0).random((131, 97)).astype(np.float32)

    def model(pixels):
        return uniform_filter(pixels, 41, mode="reflect")

    assert np.abs(_blended(image, plan(image.shape, 48, 16), model) - model(image)).max() > 1e-2


@given(_plans(), st.data())
@settings(max_examples=60, deadline=None)
def test_going_on_from_a_carry_gives_the_same_to_the_bit(given, data) -> None:
    image = np.random.default_rng(1).random(given[0]).astype(np.float32)
    windows = plan(*given)
    height, width = windows.rows.window, windows.columns.window

    def compute(top, lefts):
        return (image[top : top + height, left : left + width] for left in lefts)

    whole = list(blend(windows, compute))
    stop = data.draw(st.integers(0, len(whole) - 1))
    rest = list(blend(windows, compute, first=stop + 1, carry=whole[stop].carry))
    assert len(rest) == len(whole) - stop - 1
    for one, other in zip(rest, whole[stop + 1 :], strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.carry, other.carry)


def test_a_weight_falls_from_the_middle_of_a_window_and_is_zero_in_its_context() -> None:
    axis = plan((512, 512), 128, 64).rows
    inner = axis.weights[1]
    assert (inner[:16] == 0).all()
    assert (inner[-16:] == 0).all()
    assert (np.diff(inner[16:64]) >= 0).all()
    assert (axis.weights[0][:16] == 1).all()  # nobody else sees the border


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "cell"),
    [
        ((8, 8), 0, 0, 1),
        ((8, 8), 4, 4, 1),
        ((8, 8), 4, -1, 1),
        ((8, 8), 6, 0, 4),
        ((9, 8), 4, 0, 4),
        ((0, 8), 4, 0, 1),
    ],
)
def test_numbers_that_do_not_fit_are_refused(size, tile, overlap, cell) -> None:
    with pytest.raises(ValueError, match="px"):
        plan(size, tile, overlap, cell)
