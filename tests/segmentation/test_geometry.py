"""A mask, its target and the logits at native size name the same pixels, whatever the size and the scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from emvfm.backbones.preprocess import Preprocess, scaled_size, token_centres
from emvfm.segmentation.geometry import as_map, at_native, target_of
from emvfm.segmentation.heads import logits_at
from emvfm.segmentation.losses import IGNORE

SIZE = st.tuples(st.integers(20, 70), st.integers(20, 70))
SCALE = st.sampled_from(["native", "x2", "x0.5", "x1.3", "64", "37"])
SEED = st.integers(0, 10**6)
PATCH = 7
BLOCKS = nn.Upsample(scale_factor=PATCH, mode="nearest")  # a head that paints each patch with its token


def _grid(size: tuple[int, int], scale: str) -> tuple[int, int]:
    height, width = scaled_size(size, scale)
    return -(-height // PATCH), -(-width // PATCH)


def _native(
    head: nn.Module, tokens: torch.Tensor, patch: int, size: tuple[int, int], scale: str
) -> torch.Tensor:
    """Return the head's logits on the pixels of the input, and from there at native size."""
    padded = (tokens.shape[-2] * patch, tokens.shape[-1] * patch)
    return at_native(logits_at(head, tokens, padded), size, scale)


def test_a_map_holds_the_layers_side_by_side() -> None:
    patches = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float16)
    found = as_map(patches)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    want = np.empty((10, 3, 4), np.float32)
    for layer in range(2):
        for channel in range(5):
            for y in range(3):
                for x in range(4):
                    want[layer * 5 + channel, y, x] = patches[layer, y, x, channel]
    np.testing.assert_array_equal(found, want)


@given(SIZE, SEED)
@settings(deadline=None)
def test_the_target_of_an_image_at_native_size_is_the_mask_and_ignored_padding(
    size: tuple[int, int], seed: int
) -> None:
    mask = np.random.default_rng(seed).random(size) < 0.4
    grid = _grid(size, "native")
    target = target_of(mask, grid, PATCH, "native")
    assert target.dtype == np.uint8
    assert target.shape == (grid[0] * PATCH, grid[1] * PATCH)
    np.testing.assert_array_equal(target[: size[0], : size[1]], mask)
    assert (target[size[0] :] == IGNORE).all()
    assert (target[:, size[1] :] == IGNORE).all()


@given(SIZE, SCALE, SEED)
@settings(deadline=None)
def test_each_target_pixel_is_the_mask_pixel_under_its_centre(
    size: tuple[int, int], scale: str, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(size) < 0.5
    target = target_of(mask, _grid(size, scale), PATCH, scale)
    height, width = scaled_size(size, scale)
    rng = np.random.default_rng(seed + 1)
    for y, x in zip(rng.integers(height, size=30), rng.integers(width, size=30), strict=True):
        # Whole numbers, so that a centre exactly between two pixels is no matter of rounding.
        row, column = (2 * int(y) + 1) * size[0] // (2 * height), (2 * int(x) + 1) * size[1] // (2 * width)
        assert target[y, x] == mask[row, column]
    assert (target[height:] == IGNORE).all()
    assert (target[:, width:] == IGNORE).all()


def test_a_doubled_target_repeats_every_pixel() -> None:
    mask = np.random.default_rng(1).random((21, 25)) < 0.5
    target = target_of(mask, _grid((21, 25), "x2"), PATCH, "x2")
    np.testing.assert_array_equal(target[:42, :50], mask.repeat(2, 0).repeat(2, 1))


@given(SIZE, SEED)
@settings(deadline=None)
def test_a_head_that_paints_patches_reproduces_them_at_the_right_pixels(
    size: tuple[int, int], seed: int
) -> None:
    grid = _grid(size, "native")
    tokens = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 2, *grid)).astype(np.float32))
    found = _native(BLOCKS, tokens, PATCH, size, "native")[0].numpy()
    rows, columns = np.arange(size[0]) // PATCH, np.arange(size[1]) // PATCH
    np.testing.assert_array_equal(found, tokens[0].numpy()[:, rows][:, :, columns])


@given(SIZE, SCALE)
@settings(deadline=None)
def test_tokens_that_hold_their_place_give_pixels_that_hold_theirs(size: tuple[int, int], scale: str) -> None:
    """Bilinear interpolation keeps a ramp, so any shift by half a pixel or a wrong scale shows."""
    grid, scaled = _grid(size, scale), scaled_size(size, scale)
    centres = token_centres(grid, PATCH, size, scaled)
    tokens = torch.from_numpy(centres.transpose(2, 0, 1)[None].astype(np.float32))
    found = _native(nn.Identity(), tokens, PATCH, size, scale)[0].numpy()
    assert found.shape == (2, *size)
    pixel = [native / new for native, new in zip(size, scaled, strict=True)]  # of the input, in native pixels
    last = [min(centres[-1, -1, k], size[k] - 1 - pixel[k]) for k in (0, 1)]
    for k in (0, 1):
        places = np.arange(size[k])
        inside = (places >= centres[0, 0, k] + pixel[k]) & (places <= last[k] - pixel[k])
        values = np.moveaxis(found[k], k, 0)[inside]
        np.testing.assert_allclose(values, np.broadcast_to(places[inside, None], values.shape), atol=2e-3)


@pytest.mark.parametrize(("scale", "block"), [("native", 8), ("x2", 4), ("x0.5", 16)])
@given(seed=SEED, shift=st.tuples(st.integers(0, 2), st.integers(0, 2)))
@settings(deadline=None, max_examples=25)
def test_a_mask_seen_through_tokens_comes_back_where_it_was(
    scale: str, block: int, seed: int, shift: tuple[int, int]
) -> None:
    """Image → patches → painted logits gives the mask of blocks again, also moved by whole blocks."""
    height, width = 5 * block + block // 2, 6 * block  # the last row of patches is half padding
    rng = np.random.default_rng(seed)
    blocks = np.zeros((6, 6), bool)
    blocks[:3, :3] = rng.random((3, 3)) < 0.5
    preprocess = Preprocess(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), scale)
    head = nn.Upsample(scale_factor=8, mode="nearest")
    for moved in (blocks, np.roll(blocks, shift, (0, 1))):
        mask = moved.repeat(block, 0).repeat(block, 1)[:height, :width]
        prepared = preprocess.prepare(mask.astype(np.uint8) * np.uint8(255))
        h, w = prepared.grid
        fraction = prepared.pixels[0].reshape(h, 8, w, 8).mean((1, 3))[None, None]
        logits = _native(head, torch.from_numpy(fraction), 8, (height, width), scale)
        np.testing.assert_array_equal(logits[0, 0].numpy() > 0.5, mask)
        target = target_of(mask, prepared.grid, 8, scale)
        counted = target != IGNORE
        painted = (fraction[0, 0] > 0.5).repeat(8, 0).repeat(8, 1)
        np.testing.assert_array_equal(target[counted].astype(bool), painted[counted])
