"""Direct reads of a shard equal Zarr's own, and no damaged byte is ever taken for a number."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from emvfm.errors import CorruptError
from emvfm.store.layout import Chunking, create_grid
from emvfm.store.shard_file import ShardReader, ShardWriter, crc32c_of_file

GRID, WIDTH, ROWS = (2, 3), 4, 5
SHAPE = (*GRID, WIDTH)
CHUNKS = Chunking.choose(GRID, WIDTH, "float32").images


def _write(folder: Path, dtype: str = "float32") -> tuple[Path, np.ndarray]:
    """Write the first rows of the only shard of one layer; return its file and ``(ROWS, h, w, D)``."""
    create_grid(folder / "grids/2x3", GRID, 1, WIDTH, dtype, CHUNKS)
    array = zarr.open(folder / "grids/2x3", mode="r+")["patches"]
    values = np.random.default_rng(0).normal(size=(ROWS, 1, *SHAPE)).astype(dtype)
    whole = np.full((CHUNKS, 1, *SHAPE), np.nan, dtype)
    whole[:ROWS] = values
    array[:] = whole
    return folder / "grids/2x3/patches/c/0/0/0/0/0", values[:, 0]


def _read(path: Path, position: int, dtype: str = "float32") -> np.ndarray:
    out = np.empty(SHAPE, dtype)
    with ShardReader(str(path), CHUNKS) as reader:
        reader.read(position, out)
    return out


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    return _write(tmp_path_factory.mktemp("shard") / "group")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_each_chunk_is_what_zarr_reads(tmp_path: Path, dtype: str) -> None:
    path, values = _write(tmp_path / "group", dtype)
    array = zarr.open(tmp_path / "group/grids/2x3", mode="r")["patches"]
    for i in (3, 0, 4, 1, 2):
        found = _read(path, i, dtype)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, values[i])
        np.testing.assert_array_equal(found, array[i, 0])


def test_a_row_that_was_never_written_is_not_zeros(shard: tuple[Path, np.ndarray]) -> None:
    with pytest.raises(CorruptError, match="chunk 5 is not there"):
        _read(shard[0], ROWS)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_a_flipped_bit_is_found_wherever_it_is(
    shard: tuple[Path, np.ndarray], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(shard[0].read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / "0"  # a name of its own: an index is cached by file and time
    path.write_bytes(content)
    refusals = []
    for i in range(ROWS):
        try:
            found = _read(path, i)
        except CorruptError as error:
            refusals.append(str(error))
        else:
            np.testing.assert_array_equal(found, shard[1][i])
    index = len(content) - CHUNKS * 16 - 4
    assert len(refusals) == (1 if place < index else ROWS)
    assert all(str(path) in line for line in refusals)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_shard_cut_anywhere_or_with_more_at_its_end_is_refused(
    shard: tuple[Path, np.ndarray], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = shard[0].read_bytes()
    path = tmp_path_factory.mktemp("cut") / "0"
    length = data.draw(st.integers(0, len(content) - 1))
    path.write_bytes(data.draw(st.sampled_from([content[:length], content + content[:1]])))
    for i in range(ROWS):
        with pytest.raises(CorruptError, match="damaged shard"):
            _read(path, i)


def test_a_shard_that_is_not_there_is_damage(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="missing"):
        _read(tmp_path / "0", 0)


def test_a_shard_of_another_shape_or_type_is_refused(shard: tuple[Path, np.ndarray]) -> None:
    with pytest.raises(CorruptError, match="chunk 0"):
        _read(shard[0], 0, "float16")
    with ShardReader(str(shard[0]), CHUNKS) as reader, pytest.raises(CorruptError, match="chunk 0"):
        reader.read(0, np.empty((*GRID, WIDTH + 1), np.float32))


def test_a_replaced_shard_is_read_anew(tmp_path: Path) -> None:
    path, values = _write(tmp_path / "group")
    np.testing.assert_array_equal(_read(path, 1), values[1])
    shutil.copyfile(path, tmp_path / "kept")
    path.write_bytes(b"")
    with pytest.raises(CorruptError):
        _read(path, 1)
    shutil.copyfile(tmp_path / "kept", path)
    np.testing.assert_array_equal(_read(path, 1), values[1])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_byte_for_byte_what_zarr_writes(tmp_path: Path, dtype: str) -> None:
    path, values = _write(tmp_path / "group", dtype)
    writer = ShardWriter(tmp_path / "own" / "0", CHUNKS)
    for i, chunk in enumerate(values):
        writer.write(i, chunk)
    facts = writer.close()
    assert (tmp_path / "own" / "0").read_bytes() == path.read_bytes()
    assert facts == {"bytes": path.stat().st_size, "crc32c": crc32c_of_file(path)}


def test_a_shard_has_no_name_before_it_is_whole(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "0", CHUNKS)
    writer.write(2, np.ones(SHAPE, np.float32))
    assert not (tmp_path / "0").exists()
    writer.abort()
    assert list(tmp_path.iterdir()) == []
