"""Warps against scipy's own resampling and against what a rotation, a zoom and a displacement mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from emvfm.errors import UsageError
from emvfm.segmentation.losses import IGNORE
from emvfm.segmentation.warping import Warp, central, draw_warp, margin, resample, resample_tokens

STILL = np.zeros((2, 2, 2), np.float32)


def _image(shape: tuple[int, ...] = (40, 50), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def _points(warp: Warp, size: tuple[int, int]) -> np.ndarray:
    """Rows and columns `(h, w, 2)` from the middle, by scipy's interpolation between the nodes."""
    nodes = warp.nodes(size)
    at = np.meshgrid(
        *(np.linspace(0, n - 1, side) for n, side in zip(nodes.shape[1:], size, strict=True)), indexing="ij"
    )
    return np.stack([map_coordinates(axis, at, order=1) for axis in nodes], axis=-1)


def _labels(shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, size=shape).astype(np.uint8)


@pytest.mark.parametrize("size", [(40, 50), (21, 30), (20, 31)])
def test_a_warp_that_does_nothing_gives_the_middle(size: tuple[int, int]) -> None:
    image, labels = _image(), _labels()
    got, under = resample(image, labels, Warp(0.0, 1.0, STILL), size)
    np.testing.assert_allclose(got, central(image, size), atol=1e-4)
    assert np.array_equal(under, central(labels, size))
    assert (got.dtype, under.dtype) == (np.float32, np.uint8)


@pytest.mark.parametrize("k", [1, 2, 3, -1])
def test_quarter_turns_turn_as_numpy_does(k: int) -> None:
    image, labels = _image((30, 30)), _labels((30, 30))
    got, under = resample(image, labels, Warp(k * math.pi / 2, 1.0, STILL), (30, 30))
    np.testing.assert_allclose(got, np.rot90(image, k), atol=1e-4)
    assert (under == np.rot90(labels, k)).mean() > 0.99


def test_a_zoom_of_two_repeats_labels_and_one_of_a_half_skips_every_other() -> None:
    labels = _labels((16, 16))
    _, larger = resample(_image((16, 16)), labels, Warp(0.0, 2.0, STILL), (16, 16))
    assert np.array_equal(larger, central(labels, (8, 8)).repeat(2, 0).repeat(2, 1))
    _, smaller = resample(_image((16, 16)), labels, Warp(0.0, 0.5, STILL), (8, 8))
    assert (smaller != IGNORE).all()


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=15, deadline=None)
def test_any_warp_reads_what_scipy_reads(seed: int, colour: bool) -> None:
    rng, size = np.random.default_rng(seed), (33, 28)
    strengths = {"rotation": 40.0, "zoom": 0.3, "elastic": 5.0}
    rows, columns = margin(size, **strengths)
    image = _image((size[0] + 2 * rows, size[1] + 2 * columns, *([3] if colour else [])), seed)
    labels = _labels(image.shape[:2])
    warp = draw_warp(rng, size, **strengths)
    got, under = resample(image, labels, warp, size)
    at = _points(warp, size)
    at += [rows + (size[0] - 1) / 2, columns + (size[1] - 1) / 2]
    where = np.moveaxis(at, -1, 0)
    planes = np.moveaxis(image, -1, 0) if colour else image[None]
    want = np.stack([map_coordinates(plane, where, order=1) for plane in planes], axis=-1)
    np.testing.assert_allclose(got, want.reshape(got.shape), atol=1e-3)
    clear = (np.abs(where % 1 - 0.5) > 1e-3).all(axis=0)  # halves may be rounded either way
    nearest = labels[tuple(np.rint(where).astype(int))]
    assert np.array_equal(under[clear], nearest[clear])


@pytest.mark.parametrize("patch", [4, 7])
def test_tokens_are_read_where_the_middle_of_their_patch_comes_from(patch: int) -> None:
    rng, (h, w), around = np.random.default_rng(3), (5, 6), 3
    size = (h * patch, w * patch)
    tokens = torch.from_numpy(rng.normal(size=(4, h + 2 * around, w + 2 * around)).astype(np.float32))
    warp = draw_warp(rng, size, rotation=20.0, zoom=0.2, elastic=3.0)
    got = resample_tokens(tokens, warp, patch, size)
    at = _points(warp, size).reshape(h, patch, w, patch, 2).mean((1, 3))
    at = (at + np.array(size) / 2) / patch + around - 0.5  # in tokens, from the middle of the first
    want = np.stack([map_coordinates(plane, np.moveaxis(at, -1, 0), order=1) for plane in tokens.numpy()])
    np.testing.assert_allclose(got, want, atol=1e-4)
    still = resample_tokens(tokens, Warp(0.0, 1.0, STILL), patch, size)
    np.testing.assert_allclose(still, tokens[:, around:-around, around:-around], atol=1e-5)


@given(
    st.integers(1, 80),
    st.integers(1, 80),
    st.floats(0, 180),
    st.floats(0, 1),
    st.floats(0, 8),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_the_margin_is_enough_for_every_warp(
    height: int, width: int, rotation: float, zoom: float, elastic: float, seed: int
) -> None:
    size, strengths = (height, width), {"rotation": rotation, "zoom": zoom, "elastic": elastic}
    rows, columns = margin(size, **strengths)
    points = _points(draw_warp(np.random.default_rng(seed), size, **strengths), size)
    most = np.abs(points).reshape(-1, 2).max(axis=0)
    assert most[0] <= (height - 1) / 2 + rows + 1e-3
    assert most[1] <= (width - 1) / 2 + columns + 1e-3


def test_the_margin_is_no_larger_than_needed() -> None:
    none = {"rotation": 0.0, "zoom": 0.0, "elastic": 0.0}
    assert margin((64, 32), **none) == (0, 0)
    assert margin((64, 64), **{**none, "elastic": 5.0}) == (6, 6)
    assert margin((64, 64), **{**none, "zoom": 0.5}) == (17, 17)
    assert margin((100, 100), **{**none, "rotation": 45.0}) == (22, 22)
    assert margin((100, 100), **{**none, "rotation": 180.0}) == (22, 22)
    assert margin((100, 20), **{**none, "rotation": 90.0}) == (2, 42)


def test_what_lies_outside_is_ignored_in_the_mask_and_mirrored_in_the_image() -> None:
    image, labels = np.full((20, 20), 0.5, np.float32), np.ones((20, 20), np.uint8)
    got, under = resample(image, labels, Warp(math.pi / 4, 0.8, STILL), (20, 20))
    assert np.allclose(got, 0.5, atol=1e-5)
    assert under[0, 0] == under[-1, -1] == IGNORE
    assert under[10, 10] == 1
    assert set(np.unique(under)) == {1, IGNORE}


def test_elastic_fields_are_smooth_bounded_and_fold_nothing() -> None:
    for seed in range(10):
        warp = draw_warp(np.random.default_rng(seed), (200, 160), rotation=0, zoom=0, elastic=16)
        points = _points(warp, (200, 160))
        rows = np.arange(200)[:, None] - 99.5
        columns = np.arange(160)[None] - 79.5
        assert np.abs(points - np.stack(np.broadcast_arrays(rows, columns), -1)).max() <= 16 + 1e-4
        down, along = np.diff(points, axis=0)[:, :-1], np.diff(points, axis=1)[:-1]
        assert (down[..., 0] * along[..., 1] - down[..., 1] * along[..., 0]).min() > 0


def test_what_is_drawn_follows_the_bounds_and_takes_the_same_from_the_generator() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_warp(rng, (32, 32), rotation=30, zoom=0.5, elastic=4) for _ in range(1000)]
    angles = np.degrees([warp.angle for warp in drawn])
    zooms = np.log([warp.zoom for warp in drawn]) / math.log(1.5)
    shifts = np.array([np.abs(warp.shift).max() for warp in drawn])
    for values, most in ((angles, 30), (zooms, 1)):
        assert np.abs(values).max() <= most + 1e-9
        assert abs(values.mean()) < most / 10
        assert values.std() == pytest.approx(most / math.sqrt(3), rel=0.1)
    assert shifts.max() <= 4 + 1e-5
    assert shifts.mean() == pytest.approx(2, rel=0.1)
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    draw_warp(one, (32, 32), rotation=30, zoom=0.5, elastic=4)
    draw_warp(other, (32, 32), rotation=0, zoom=0, elastic=0)
    assert one.random() == other.random()


def test_strengths_out_of_range_are_usage_errors() -> None:
    for name, value in (("rotation", -1.0), ("rotation", 181.0), ("zoom", -0.1), ("elastic", 17.0)):
        strengths = {"rotation": 0.0, "zoom": 0.0, "elastic": 0.0, name: value}
        with pytest.raises(UsageError, match=name):
            draw_warp(np.random.default_rng(0), (8, 8), **strengths)
