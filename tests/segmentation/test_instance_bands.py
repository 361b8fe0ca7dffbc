"""Labels that were found band by band are those of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, label

from emvfm.segmentation.instance_bands import label_bands
from emvfm.segmentation.instances import label_instances


@st.composite
def _stacks(draw):
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    noise = np.random.default_rng(draw(st.integers(0, 2**31))).random(shape)
    smooth = draw(st.sampled_from([0, 0.7, 2]))
    return gaussian_filter(noise, smooth) > draw(st.floats(0.3, 0.7)), draw(st.integers(1, 45))


def _labels(mask: np.ndarray, path, band: int, **options) -> tuple[np.ndarray, int]:
    planes, *size = mask.shape
    found = label_bands(lambda z, a, b: mask[z, a:b], planes, tuple(size), path, band=band, **options)
    rows = [found.rows(z, a, min(a + 7, size[0])) for z in range(planes) for a in range(0, size[0], 7)]
    return np.concatenate(rows).reshape(mask.shape), found.count


@given(_stacks())
@settings(max_examples=60, deadline=None)
def test_they_equal_those_of_scipy(tmp_path_factory, given) -> None:
    mask, band = given
    found, count = _labels(mask, tmp_path_factory.getbasetemp() / "labels.raw", band)
    want, n = label(mask, np.ones((3, 3, 3)))
    assert count == n
    np.testing.assert_array_equal(found, want)


@given(_stacks(), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_small_parts_are_left_out_as_in_evaluation(tmp_path_factory, given, minimum: int) -> None:
    mask, band = given[0][:1], given[1]
    found, count = _labels(mask, tmp_path_factory.getbasetemp() / "labels.raw", band, minimum=minimum)
    want = label_instances(mask[0], minimum=minimum)
    assert count == want.max(initial=0)
    np.testing.assert_array_equal(found[0], want)


@pytest.mark.parametrize("band", [1, 2, 5, 64])
def test_a_spiral_across_all_seams_is_one_part(tmp_path, band: int) -> None:
    mask = np.zeros((1, 33, 33), bool)
    for ring in range(0, 16, 2):
        mask[0, ring, ring : 33 - ring] = mask[0, ring : 33 - ring, 32 - ring] = True
        mask[0, 32 - ring, ring : 33 - ring] = True
        mask[0, ring + 2 : 33 - ring, ring] = True
        mask[0, ring + 2, ring : ring + 2] = True
    want, n = label(mask[0], np.ones((3, 3)))
    assert n == 1
    np.testing.assert_array_equal(_labels(mask, tmp_path / "x", band)[0][0], want)
