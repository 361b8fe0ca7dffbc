"""Pixels in, pixels out: ranges, padding, validity, and the way back to native coordinates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emvfm.backbones.options import BackboneOptions
from emvfm.backbones.preprocess import (
    Preprocess,
    intensity_window,
    scaled_size,
    token_centres,
    valid_fraction,
)
from emvfm.backbones.registry import find_spec
from emvfm.errors import CorruptError, UsageError

PLAIN = Preprocess(14, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SIZES = st.tuples(st.integers(14, 90), st.integers(14, 90))


@given(SIZES, st.sampled_from([14, 16]), st.sampled_from(["native", "64", "x1.5", "x2"]))
@settings(max_examples=60, deadline=None)
def test_any_size_gives_whole_patches_and_exact_validity(
    size: tuple[int, int], patch: int, input_size: str
) -> None:
    scaled = scaled_size(size, input_size)
    preprocess = replace(PLAIN, patch=patch, input_size=input_size)
    image = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    if min(scaled) < patch:
        with pytest.raises(UsageError, match="smaller than one patch"):
            preprocess.prepare(image)
        return
    prepared = preprocess.prepare(image)
    h, w = prepared.grid
    assert prepared.pixels.shape == (3, h * patch, w * patch)
    assert prepared.pixels.dtype == prepared.valid.dtype == np.float32
    # The oracle of validity: mark the real pixels and count them patch by patch.
    marked = np.zeros((h * patch, w * patch))
    marked[: scaled[0], : scaled[1]] = 1
    counted = marked.reshape(h, patch, w, patch).mean((1, 3))
    np.testing.assert_allclose(prepared.valid, counted, atol=1e-6)
    assert (prepared.size, prepared.scaled) == (size, scaled)
    assert prepared.valid.min() > 0


@given(SIZES, st.sampled_from(["native", "x2", "x1.25"]))
@settings(max_examples=40, deadline=None)
def test_token_centres_lead_back_to_native_pixels(size: tuple[int, int], input_size: str) -> None:
    """An image of its own coordinates, averaged over a patch, is that patch's centre."""
    preprocess = replace(PLAIN, input_size=input_size)
    rows = np.broadcast_to(np.arange(size[0], dtype=np.float32)[:, None], size)
    prepared = preprocess.prepare(rows)
    low, high = prepared.window
    h, w = prepared.grid
    means = prepared.pixels[0].reshape(h, 14, w, 14).mean((1, 3)) * (high - low) + low
    centres = token_centres(prepared.grid, 14, prepared.size, prepared.scaled)
    assert centres.shape == (h, w, 2)
    inner = np.zeros_like(prepared.valid, dtype=bool)
    inner[1:-1] = prepared.valid[1:-1] == 1  # borders are clipped by the percentiles and the kernel
    np.testing.assert_allclose(means[inner], centres[..., 0][inner], atol=0.51)


def test_valid_fraction_by_hand() -> None:
    expected = np.array([[1, 0.5], [0.25, 0.125]], np.float32)
    np.testing.assert_array_equal(valid_fraction((20, 24), 16), expected)


def test_padding_is_a_reflection_on_the_right_and_bottom() -> None:
    image = np.arange(20 * 15, dtype=np.float64).reshape(20, 15) % 251
    prepared = PLAIN.prepare(image.astype(np.uint8))
    assert prepared.pixels.shape == (3, 28, 28)
    back = np.rint(prepared.pixels[0] * 255)
    np.testing.assert_array_equal(back, np.pad(image, ((0, 8), (0, 13)), mode="reflect"))


def test_whole_patches_are_not_touched() -> None:
    image = np.random.default_rng(1).integers(0, 256, (28, 42, 3), dtype=np.uint8)
    prepared = PLAIN.prepare(image)
    np.testing.assert_array_equal(np.rint(prepared.pixels * 255), np.moveaxis(image, -1, 0))
    np.testing.assert_array_equal(prepared.valid, 1)


def test_normalisation_is_the_backbones_own() -> None:
    for name in ("dinov2", "openclip", "openclip_vitl14_laion2b", "dinov3_vitl16_sat"):
        spec = find_spec(name)
        preprocess = Preprocess.for_backbone(spec, BackboneOptions())
        white = preprocess.normalise(np.full((4, 4), 255, np.uint8))
        expected = (1 - np.array(spec.mean)) / np.array(spec.std)
        np.testing.assert_allclose(white[:, 0, 0], expected, rtol=1e-5)
        assert preprocess.patch == spec.patch


def test_grey_and_its_three_copies_are_the_same() -> None:
    grey = np.random.default_rng(2).integers(0, 65536, (30, 31), dtype=np.uint16)
    one, three = (PLAIN.prepare(image) for image in (grey, np.stack([grey] * 3, axis=-1)))
    # A percentile between two values interpolates by rank, which three copies move a little.
    np.testing.assert_allclose(one.pixels, three.pixels, atol=1e-3)
    eight = (grey >> 8).astype(np.uint8)
    pair = [PLAIN.prepare(image).pixels for image in (eight, np.stack([eight] * 3, axis=-1))]
    np.testing.assert_array_equal(pair[0], pair[1])


def test_eight_bits_keep_their_range_and_others_use_percentiles() -> None:
    image = np.random.default_rng(3).integers(100, 120, (40, 40), dtype=np.uint8)
    assert intensity_window(image) == (0, 255)
    wide = image.astype(np.uint16) * 100
    wide[0, 0] = 65535  # one hot pixel must not make the rest black
    low, high = PLAIN.prepare(wide).window
    assert 10_000 <= low < high <= 12_000
    assert PLAIN.prepare(wide).pixels.max() == 1


@given(st.floats(0.01, 1000), st.floats(-1000, 1000))
@settings(max_examples=30, deadline=None)
def test_scale_and_offset_of_a_float_image_do_not_matter(scale: float, offset: float) -> None:
    image = np.random.default_rng(4).normal(size=(20, 20))
    moved = PLAIN.prepare(image * scale + offset).pixels
    np.testing.assert_allclose(moved, PLAIN.prepare(image).pixels, atol=2e-3)


def test_a_constant_image_is_finite() -> None:
    for value in (0, 7, 65535):
        pixels = PLAIN.prepare(np.full((20, 20), value, np.uint16)).pixels
        np.testing.assert_array_equal(pixels, 0)


def test_shrinking_is_antialiased() -> None:
    checkerboard = (np.indices((112, 112)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = replace(PLAIN, input_size="x0.25").prepare(checkerboard).pixels
    np.testing.assert_allclose(pixels, 0.5, atol=0.05)


@pytest.mark.parametrize(
    ("input_size", "scaled"),
    [("native", (768, 1024)), ("512", (384, 512)), ("x0.5", (384, 512)), ("x2", (1536, 2048))],
)
def test_sizes_by_name(input_size: str, scaled: tuple[int, int]) -> None:
    assert scaled_size((768, 1024), input_size) == scaled


@pytest.mark.parametrize(
    "input_size", ["", "big", "x", "x0", "-5", "0", "1.5", "x-1", "512px", "xnan", "xinf"]
)
def test_a_wrong_size_fails_before_the_first_image(input_size: str) -> None:
    with pytest.raises(UsageError, match="input size"):
        Preprocess.for_backbone(find_spec("dinov2"), BackboneOptions(input_size=input_size))


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6)))
@settings(max_examples=40, deadline=None)
def test_any_small_array_is_refused(array: np.ndarray) -> None:
    with pytest.raises(UsageError):
        PLAIN.prepare(array)


def test_damaged_values_are_refused() -> None:
    image = np.ones((20, 20), np.float32)
    image[3, 3] = np.nan
    with pytest.raises(CorruptError, match="finite"):
        PLAIN.prepare(image)
    with pytest.raises(UsageError, match="not an image"):
        PLAIN.prepare(np.full((20, 20), "a"))


def test_identity_changes_with_all_that_changes_pixels() -> None:
    from emvfm.provenance import canonical_json

    variants = [
        PLAIN,
        replace(PLAIN, input_size="x0.5"),
        replace(PLAIN, patch=16),
        replace(PLAIN, mean=(0.5, 0.5, 0.5)),
        replace(PLAIN, std=(0.5, 0.5, 0.5)),
    ]
    assert len({canonical_json(v.identity()) for v in variants}) == len(variants)
