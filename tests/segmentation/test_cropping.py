"""Crops lie in the image, keep their shape, and show mirrors beyond its edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emvfm.errors import UsageError
from emvfm.segmentation.cropping import Cropping, beyond
from emvfm.segmentation.losses import IGNORE


def test_crops_of_the_whole_keep_their_shape_however_they_turn() -> None:
    cropping, rng = Cropping(0), np.random.default_rng(0)
    assert cropping.size(16, [(5, 7), (6, 4)]) == (5, 4)
    for _ in range(20):
        assert cropping.turn(rng, (5, 4)).k in (0, 2)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_a_crop_around_the_foreground_holds_some_and_lies_in_the_image(h: int, w: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = np.zeros((7 * 4, 9 * 4), np.uint8)
    target[rng.integers(28), rng.integers(36)] = 1
    y, x = Cropping(0, foreground=1.0).corner(rng, target, (h, w), 4)
    assert 0 <= y <= 7 - h
    assert 0 <= x <= 9 - w
    assert target[y * 4 : (y + h) * 4, x * 4 : (x + w) * 4].sum() == 1


def test_a_crop_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(UsageError, match="smaller than a patch"):
        Cropping(15).size(16, [(5, 5)])


@given(st.integers(-3, 2), st.integers(3, 8), st.integers(-3, 2), st.integers(3, 8))
def test_beyond_the_edge_lies_the_mirror_or_what_is_filled_in(
    top: int, bottom: int, left: int, right: int
) -> None:
    image = np.arange(30, dtype=np.uint8).reshape(5, 6)
    mirrored = np.pad(image, 4, mode="symmetric")
    filled = np.pad(image, 4, constant_values=IGNORE)
    parts = [slice(top, bottom), slice(left, right)]
    window = np.s_[top + 4 : bottom + 4, left + 4 : right + 4]
    np.testing.assert_array_equal(beyond(image, parts), mirrored[window])
    np.testing.assert_array_equal(beyond(image, parts, IGNORE), filled[window])
