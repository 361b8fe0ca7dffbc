"""Masks as objects: labels stay labels, everything else falls into its parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emvfm.datasets.label_masks import read_labels
from emvfm.errors import CorruptError, MissingError


def cells() -> np.ndarray:
    """Four touching cells with numbers that are not consecutive, on background."""
    labels = np.zeros((40, 40), np.uint16)
    labels[5:20, 5:20], labels[5:20, 20:35], labels[20:35, 5:20], labels[20:35, 20:35] = 3, 7, 500, 1300
    return labels


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.uint32, np.float32])
def test_labels_keep_objects_that_touch_apart(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, cells().astype(kind))
    found = read_labels(path)
    if kind is np.float32:  # real numbers are not taken for labels
        assert found.max() == 1
    else:
        np.testing.assert_array_equal(found, cells())


def test_labels_of_a_png_are_labels_too(tmp_path: Path) -> None:
    small = np.unique(cells(), return_inverse=True)[1].reshape(40, 40).astype(np.uint8)
    Image.fromarray(small).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "m.png"), small)


@pytest.mark.parametrize("full", [1, 255])
def test_a_binary_mask_falls_into_its_parts(tmp_path: Path, full: int) -> None:
    mask = np.zeros((30, 30), np.uint8)
    mask[2:8, 2:8] = mask[8:12, 8:12] = full  # they touch at a corner: one part
    mask[20:25, 20:28] = full
    Image.fromarray(mask).save(tmp_path / "m.png")
    found = read_labels(tmp_path / "m.png")
    assert found.max() == 2
    np.testing.assert_array_equal(found > 0, mask > 0)


def test_a_soft_border_makes_no_objects(tmp_path: Path) -> None:
    from scipy.ndimage import gaussian_filter

    mask = np.zeros((60, 60), np.float32)
    mask[10:25, 10:25] = mask[35:50, 35:50] = 255
    Image.fromarray(gaussian_filter(mask, 0.7).astype(np.uint8)).save(tmp_path / "m.png")
    assert read_labels(tmp_path / "m.png").max() == 2


def test_no_objects_and_no_mask(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "m.png")
    assert not read_labels(tmp_path / "m.png").any()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).save(
        tmp_path / "i.png"
    )
    with pytest.raises(CorruptError):
        read_labels(tmp_path / "i.png")
    with pytest.raises(MissingError):
        read_labels(tmp_path / "none.png")


def test_real_cells_are_as_many_as_their_numbers(shared_data: Path) -> None:
    for name, n in (("E34", 113), ("G01", 122)):
        found = read_labels(shared_data / "imc-pancreas" / f"{name}_mask.tiff")
        assert len(np.unique(found)) == n + 1
