"""Views: what is done to an image is done to its mask, and the store keeps each view apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.views import MOST_VIEWS, PLAIN, View, training_views
from emvfm.errors import UsageError
from emvfm.extraction.foreground import patch_foreground

GREY = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
views = st.builds(View, st.integers(0, 3), st.booleans(), st.tuples(st.integers(0, 7), st.integers(0, 7)))


@given(views, st.integers(17, 60), st.integers(17, 60))
def test_the_size_is_that_of_the_viewed_pixels(view: View, height: int, width: int) -> None:
    assert view(np.zeros((height, width))).shape == view.size((height, width))
    assert view(np.zeros((height, width, 3))).shape == (*view.size((height, width)), 3)


def test_mirroring_comes_first_then_turns_then_the_skipped_edge() -> None:
    image = np.arange(12).reshape(3, 4)
    expected = np.rot90(np.fliplr(image), 1)[1:, 2:]
    np.testing.assert_array_equal(View(1, True, (1, 2))(image), expected)
    np.testing.assert_array_equal(PLAIN(image), image)


def test_training_views_are_different_and_begin_with_the_plain_one() -> None:
    all_views = training_views(MOST_VIEWS, 14)
    assert all_views[0] == PLAIN
    assert len(set(all_views)) == MOST_VIEWS
    assert [v.skipped for v in all_views[:4]] == [(0, 0), (7, 7), (7, 0), (0, 7)]
    assert all((v.turns, v.mirrored) == (0, False) for v in all_views[:4])
    assert len({(v.turns, v.mirrored) for v in all_views}) == 5
    assert training_views(3, 14) == all_views[:3]
    for n in (0, MOST_VIEWS + 1):
        with pytest.raises(UsageError, match="number of views"):
            training_views(n, 14)


@given(views, st.integers(24, 50), st.integers(24, 50))
def test_pixels_grid_and_foreground_are_those_of_the_plain_preprocessing_of_the_viewed_image(
    view: View, height: int, width: int
) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width), dtype=np.uint8)
    mask = rng.random((height, width)) > 0.5
    plain, shown = Preprocess(8, **GREY), Preprocess(8, **GREY, view=view)
    np.testing.assert_array_equal(shown.prepare(image).pixels, plain.prepare(view(image).copy()).pixels)
    assert shown.grid((height, width)) == shown.prepare(image).grid
    np.testing.assert_allclose(patch_foreground(mask, shown), patch_foreground(view(mask).copy(), plain))


def test_only_the_plain_view_has_the_identity_it_always_had() -> None:
    plain = Preprocess(14, **GREY).identity()
    assert "view" not in plain
    others = [Preprocess(14, **GREY, view=view).identity() for view in training_views(8, 14)]
    assert others[0] == plain
    assert len({str(identity) for identity in others}) == 8
