from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emvfm.datasets.layouts import detect_layout, layout_of_pair
from emvfm.errors import MissingError, RefusedError, UsageError


def _images(folder: Path, names=("0.png", "1.png")) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("place", "domain", "pixel_size"),
    [("Lucchi++", "lucchi", 5.0), ("data/em", "lucchi", 5.0), ("Kasthuri++", "kasthuri", 3.0)],
)
def test_plus_plus_layouts_in_the_folder_and_above_it(tmp_path, place, domain, pixel_size):
    for part in ("Train_In", "Train_Out", "Test_In", "Test_Out"):
        _images(tmp_path / place / part)
    for folder in (tmp_path / place, tmp_path):
        layout = detect_layout(folder)
        assert (layout.domain, layout.pixel_size_nm) == (domain, pixel_size)
        assert [(p.name, p.split, len(p.images), len(p.masks)) for p in layout.parts] == [
            ("train", "train", 2, 2),
            ("test", "test", 2, 2),
        ]


def test_training_folders_alone_give_no_test(tmp_path):
    _images(tmp_path / "train_in")
    _images(tmp_path / "train_out")
    assert [p.split for p in detect_layout(tmp_path).parts] == ["train"]


@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("imgs", "labels"), ("Raw", "Label")])
def test_plain_folders(tmp_path, images, masks):
    _images(tmp_path / "Stack 7" / images)
    _images(tmp_path / "Stack 7" / masks)
    layout = detect_layout(tmp_path / "Stack 7")
    assert (layout.kind, layout.domain, layout.pixel_size_nm) == ("folders", "stack-7", None)


def test_split_folders(tmp_path):
    for split in ("train", "val", "test"):
        _images(tmp_path / split / "images")
        _images(tmp_path / split / "masks")
    assert sorted(p.split for p in detect_layout(tmp_path).parts) == ["test", "train", "val"]


def test_two_candidates_for_masks_are_refused(tmp_path):
    for name in ("images", "masks", "labels"):
        _images(tmp_path / name)
    with pytest.raises(RefusedError, match="--masks"):
        detect_layout(tmp_path)


def test_nothing_known(tmp_path):
    with pytest.raises(MissingError, match="no such folder"):
        detect_layout(tmp_path / "absent")
    (tmp_path / "volumes").mkdir()
    with pytest.raises(MissingError, match=r"got volumes.*--images DIR --masks DIR"):
        detect_layout(tmp_path)


def test_stacks_expand_and_go_with_stacks(tmp_path):
    stack = np.zeros((6, 8, 8), np.uint8)
    for name in ("em.tif", "gt.tif"):
        tifffile.imwrite(tmp_path / name, stack)
    layout = layout_of_pair(tmp_path / "em.tif", tmp_path / "gt.tif")
    assert [e.name for e in layout.parts[0].images] == [f"em.tif#{n}" for n in range(6)]
    assert layout.parts[0].images[2].location == f"{tmp_path / 'em.tif'}#2"
    _images(tmp_path / "masks")
    with pytest.raises(UsageError, match="stack goes with a stack"):
        layout_of_pair(tmp_path / "em.tif", tmp_path / "masks")
