"""Averaging over turns undoes each turn, and what comes out turns with the image."""

from __future__ import annotations

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.segmentation.turns import TURNS, mean_over_turns

IMAGE = np.random.default_rng(0).random((11, 17, 3))


def _lopsided(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return image.mean(axis=2) * np.linspace(0, 1, width) * np.linspace(0.5, 1, height)[:, None] ** 2


@pytest.mark.parametrize("turns", TURNS)
def test_a_model_that_turns_with_its_image_is_left_as_it_is(turns: str) -> None:
    got = mean_over_turns(lambda image: image.mean(axis=2), IMAGE, turns)
    np.testing.assert_allclose(got, IMAGE.mean(axis=2), rtol=1e-6)
    assert got.dtype == np.float32


def test_the_mean_turns_with_the_image() -> None:
    want = mean_over_turns(_lopsided, IMAGE, "turns")
    assert not np.allclose(want, _lopsided(IMAGE))
    for change in (np.rot90, np.flipud, lambda a: a.swapaxes(0, 1)):
        got = mean_over_turns(_lopsided, change(IMAGE), "turns")
        np.testing.assert_allclose(got, change(want), rtol=1e-6)
    flipped = mean_over_turns(_lopsided, IMAGE[::-1], "flips")
    np.testing.assert_allclose(flipped, mean_over_turns(_lopsided, IMAGE, "flips")[::-1], rtol=1e-6)


def test_views_are_all_different() -> None:
    seen: list[bytes] = []
    mean_over_turns(lambda image: (seen.append(image.tobytes()), image.mean(axis=2))[1], IMAGE, "turns")
    assert len(set(seen)) == 8
    with pytest.raises(UsageError, match="unknown views"):
        mean_over_turns(_lopsided, IMAGE, "spins")
