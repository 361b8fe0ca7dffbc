"""The foreground share of a patch is the share of its own area, however the image is resized and padded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.views import View
from emvfm.extraction.foreground import patch_foreground

PLAIN = Preprocess(patch=8, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


def _mask(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < 0.4


def _naive(mask: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Cut native and resized pixels into their common cells and count cells, patch by patch.

    A row of cells is 1 / (native x resized) of the image's height: a native pixel is `resized` rows
    high, a resized pixel is `native` rows high, and no cell lies in two pixels of either.
    """
    (high, wide), (new_high, new_wide) = mask.shape, preprocess.scaled(mask.shape)
    cells = mask.repeat(new_high, axis=0).repeat(new_wide, axis=1)
    tall, broad = preprocess.patch * high, preprocess.patch * wide
    found = np.empty((-(-new_high // preprocess.patch), -(-new_wide // preprocess.patch)))
    for y in range(found.shape[0]):
        for x in range(found.shape[1]):
            found[y, x] = cells[y * tall : (y + 1) * tall, x * broad : (x + 1) * broad].mean()
    return found


@given(
    st.integers(8, 30),
    st.integers(8, 30),
    st.sampled_from(["native", "x0.5", "x2", "x0.7", "x1.3", "19", "33"]),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_equals_counting_cells(height: int, width: int, input_size: str, seed: int) -> None:
    mask, preprocess = _mask(height, width, seed), replace(PLAIN, input_size=input_size)
    found = patch_foreground(mask, preprocess)
    assert found.dtype == np.float32
    assert found.shape == preprocess.grid((height, width))
    np.testing.assert_allclose(found, _naive(mask, preprocess), atol=1e-6)


@pytest.mark.parametrize("size", [(16, 24), (17, 30), (9, 8)])
def test_padding_does_not_dilute_a_patch_at_the_edge(size: tuple[int, int]) -> None:
    np.testing.assert_allclose(patch_foreground(np.ones(size, bool), PLAIN), 1, rtol=1e-6)
    assert not patch_foreground(np.zeros(size, bool), PLAIN).any()


def test_one_pixel_counts_in_its_own_patch_only() -> None:
    mask = np.zeros((20, 20), bool)
    mask[18, 3] = True  # in the last row of patches, of which 4 of 8 rows are image
    expected = np.zeros((3, 3))
    expected[2, 0] = 1 / (4 * 8)
    np.testing.assert_allclose(patch_foreground(mask, PLAIN), expected, atol=1e-7)


@pytest.mark.parametrize("view", [View(turns=1), View(turns=3, mirrored=True), View(skipped=(4, 3))])
@pytest.mark.parametrize("input_size", ["native", "x1.3"])
def test_a_view_shows_the_mask_as_it_shows_the_image(view: View, input_size: str) -> None:
    mask, plain = _mask(25, 34), replace(PLAIN, input_size=input_size)
    expected = _naive(np.ascontiguousarray(view(mask)), plain)
    np.testing.assert_allclose(patch_foreground(mask, replace(plain, view=view)), expected, atol=1e-6)


def test_bands_of_a_tall_mask_join_without_a_seam() -> None:
    mask = np.random.default_rng(0).random((7 * 150 + 3, 40)) < 0.4
    preprocess = Preprocess(7, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "x0.9")
    whole = patch_foreground(mask, preprocess)
    assert whole.shape == preprocess.grid(mask.shape)  # 136 rows: three bands
    edges = np.minimum(
        np.arange(whole.shape[0] + 1) * 7 / preprocess.scaled(mask.shape)[0] * len(mask), len(mask)
    )
    rows = np.interp(edges, np.arange(len(mask) + 1), np.concatenate([[0], np.cumsum(mask.sum(axis=1))]))
    columns = np.diff(
        np.minimum(np.arange(whole.shape[1] + 1) * 7 / preprocess.scaled(mask.shape)[1] * 40, 40)
    )
    np.testing.assert_allclose((whole * columns).sum(axis=1) * np.diff(edges), np.diff(rows), rtol=1e-5)
