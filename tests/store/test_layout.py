"""The files on disk say what they are to a reader without emvfm, and leave gaps visible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from emvfm.errors import CorruptError
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.layout import (
    ARRAYS,
    Chunking,
    create_grid,
    create_group,
    grid_name,
    parse_grid,
)

IDENTITY = EmbeddingIdentity(
    backbone={"name": "made-up"},
    weights="ab" * 32,
    adapter=None,
    preprocess={"patch": 16},
    layers=(2, 5),
    dtype="float16",
    precision="float32",
)
DIMENSIONS = {
    "patches": ("row", "layer", "y", "x", "channel"),
    "cls": ("row", "layer", "channel"),
    "mean": ("row", "layer", "channel"),
    "valid": ("row", "y", "x"),
    "image": ("row",),
}


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_a_grid_is_told_from_its_name(rows: int, columns: int) -> None:
    assert parse_grid(grid_name((rows, columns))) == (rows, columns)


@pytest.mark.parametrize("name", ["", "3", "x", "3x", "x4", "3x4x5", "-3x4", "3.0x4", "axb", "3 x 4"])
def test_a_name_that_is_no_grid_is_damage(name: str) -> None:
    with pytest.raises(CorruptError, match="not a patch grid"):
        parse_grid(name)


@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 2000), st.sampled_from(["float16", "float32"])
)
def test_chunks_cover_the_grid_and_no_shard_file_is_much_larger_than_64_mib(
    rows: int, columns: int, width: int, dtype: str
) -> None:
    cut = Chunking.choose((rows, columns), width, dtype)
    image = rows * columns * width * np.dtype(dtype).itemsize
    assert 0 <= cut.bands * cut.rows - rows < cut.rows
    assert 0 <= cut.across * cut.columns - columns < cut.columns
    if image <= 64 * 2**20:
        assert (cut.rows, cut.columns) == (rows, columns)
        assert 1 <= cut.images <= 16
        assert cut.images * image <= 64 * 2**20
        assert cut.images == 16 or (cut.images + 1) * image > 64 * 2**20
    else:
        assert cut.images == 1
        assert cut.rows <= 32
        assert cut.columns <= 32


def test_the_group_explains_itself(tmp_path: Path) -> None:
    create_group(tmp_path / "store", IDENTITY, {"label": "made-up model", "width": 3})
    attributes = dict(zarr.open(tmp_path / "store", mode="r").attrs)
    assert attributes["layers"] == [2, 5]
    assert attributes["label"] == "made-up model"
    assert attributes["identity"] == IDENTITY.to_json()
    for word in ("SHA-256", "NaN", "final norm", "grids/<h>x<w>/patches"):
        assert word in attributes["about"]


def test_arrays_have_named_axes_checksums_and_no_zeros_where_nothing_is(tmp_path: Path) -> None:
    create_grid(tmp_path / "store" / "grids" / "4x6", (4, 6), 2, 3, "float16")
    group = zarr.open(tmp_path / "store" / "grids" / "4x6", mode="r+")
    shapes = {
        "patches": (0, 2, 4, 6, 3),
        "cls": (0, 2, 3),
        "mean": (0, 2, 3),
        "valid": (0, 4, 6),
        "image": (0,),
    }
    assert set(ARRAYS) == set(shapes) == set(DIMENSIONS)
    for name in ARRAYS:
        array = group[name]
        assert array.shape == shapes[name]
        assert array.metadata.dimension_names == DIMENSIONS[name]
        assert [c.to_dict()["name"] for c in array.compressors] == ["crc32c"]
        array.resize((16, *array.shape[1:]))
        empty = array[:]
        assert (empty == "").all() if name == "image" else np.isnan(empty).all()
    patches = group["patches"]
    assert patches.dtype == np.float16
    assert patches.chunks == (1, 1, 4, 6, 3)
    assert patches.shards == (16, 1, 4, 6, 3)
    assert dict(group.attrs) == {"shard_length": 16, "chunk": [4, 6]}
