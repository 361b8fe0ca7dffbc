"""What is written is read back by others, whatever its size, with its pixel size, and twice the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from emvfm.datasets.images import pixel_size_nm
from emvfm.datasets.volumes import open_volume
from emvfm.segmentation.prediction_files import FORMATS, Picture

DTYPES = {"probability": np.float32, "mask": np.uint8, "instances": np.uint32}


def _picture(shape: tuple[int, ...], kind: str = "probability", spacing=(None, None, None)):
    rng = np.random.default_rng(0)
    values = rng.random(shape) if kind == "probability" else rng.integers(0, 200, shape)
    values = values.astype(DTYPES[kind])
    whole = values if values.ndim == 3 else values[None]
    labels = kind != "probability"
    picture = Picture(
        "it", len(whole), shape[-2:], values.ndim == 3, values.dtype, spacing, labels, lambda z, a, b: whole[z, a:b], "0"
    )  # fmt: skip
    return picture, values


def _write(path: Path, name: str, picture: Picture) -> Path:
    ending, write = FORMATS[name]
    write(path / f"it{ending}", picture)
    return path / f"it{ending}"


def _bytes(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (257, 511), (1100, 1300), (3, 40, 70), (1, 30, 20)])
def test_both_formats_give_the_pixels_back(tmp_path, shape, kind) -> None:
    picture, values = _picture(shape, kind)
    tiff, store = (_write(tmp_path, name, picture) for name in FORMATS)
    read = tifffile.imread(tiff)
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read.reshape(shape), values)
    level = zarr.open_group(store, mode="r")["0"]
    assert (level.shape, level.dtype) == (shape, values.dtype)
    np.testing.assert_array_equal(level[:], values)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(600, 700), (4, 60, 50)])
def test_the_pixel_size_is_the_inputs(tmp_path, name, shape) -> None:
    spacing = (30.0 if len(shape) == 3 else None, 5.5, 5.5)
    path = _write(tmp_path, name, _picture(shape, spacing=spacing)[0])
    assert pixel_size_nm(path) == pytest.approx(5.5, rel=1e-6)
    if name == "ome-zarr":
        assert open_volume(path, lambda v: v.spacing) == pytest.approx(spacing)


@pytest.mark.parametrize("name", FORMATS)
def test_an_unknown_pixel_size_stays_unknown(tmp_path, name) -> None:
    assert pixel_size_nm(_write(tmp_path, name, _picture((60, 50))[0])) is None


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(700, 300), (2, 70, 50)])
def test_the_same_picture_gives_the_same_bytes(tmp_path, name, shape) -> None:
    first, second = (tmp_path / n for n in ("first", "second"))
    files = []
    for folder in (first, second):
        folder.mkdir()
        files.append(_bytes(_write(folder, name, _picture(shape, "mask", (None, 4.0, 4.0))[0])))
    assert files[0] == files[1]


@pytest.mark.parametrize("kind", ["probability", "instances"])
def test_the_pyramid_halves_until_it_fits_a_chunk(tmp_path, kind) -> None:
    picture, values = _picture((1301, 2101), kind, (None, 4.0, 4.0))
    path = _write(tmp_path, "ome-zarr", picture)
    group = zarr.open_group(path, mode="r")
    assert sorted(group.array_keys()) == ["0", "1", "2", "3"]
    previous = values
    for level in "123":
        found = group[level][:]
        assert found.shape == tuple(-(-side // 2) for side in previous.shape)
        if kind == "instances":
            np.testing.assert_array_equal(found, previous[::2, ::2])
        else:
            even = np.pad(previous, [(0, side % 2) for side in previous.shape], mode="edge")
            want = even.reshape(found.shape[0], 2, found.shape[1], 2).mean((1, 3))
            np.testing.assert_allclose(found, want, atol=1e-6)
        previous = found
    scales = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    assert scales["version"] == "0.5"
    transformations = scales["multiscales"][0]["datasets"][2]["coordinateTransformations"]
    assert transformations[0]["scale"] == [16, 16]
    assert ("image-label" in scales) == (kind == "instances")
    # The centre of the first pixel of a mean of 4 x 4 pixels of 4 nm lies 6 nm from that of the first of them.
    assert len(transformations) == 1 if kind == "instances" else transformations[1]["translation"] == [6, 6]
