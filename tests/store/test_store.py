"""Rows appear whole or not at all, whoever dies or races, and damage is named."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr

from emvfm.errors import CorruptError, EmvfmError, MissingError
from emvfm.store import layout
from emvfm.store import writing as writing_module
from emvfm.store.care import verify
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.layout import Chunking
from emvfm.store.store import EmbeddingStore
from emvfm.store.writing import ImageWriter

GRID = (3, 4)

IDENTITY = EmbeddingIdentity(
    backbone={"name": "fake", "width": 6},
    weights="0" * 64,
    adapter=None,
    preprocess={"patch": 8, "input_size": "native"},
    layers=(1, 3),
    dtype="float32",
    precision="float32",
)


class Content(NamedTuple):
    """What is stored of one image."""

    patches: np.ndarray
    cls: np.ndarray
    mean: np.ndarray
    valid: np.ndarray


def content(image: str, grid: tuple[int, int]) -> Content:
    """Return the embeddings that the fake backbone gives an image: a function of its digest alone."""
    rng = np.random.default_rng(int(image, 16))
    patches = rng.normal(size=(2, *grid, 6)).astype(np.float32)
    cls, mean = rng.normal(size=(2, 2, 6)).astype(np.float32)
    valid = np.ones(grid, np.float32)
    valid[-1] = 0.25
    return Content(patches, cls, mean, valid)


def fill(writer: ImageWriter) -> None:
    """Write the content of all images of a shard."""
    for image in writer.shard.images:
        writer.add(*content(image, writer.shard.grid))
    writer.publish()


def claimed(store: EmbeddingStore, images: list[str], grid: tuple[int, int]) -> Iterator[ImageWriter]:
    """Yield the writers of the shards of `images` that this process gets."""
    return (writer for writer in store.claim(store.allocate(grid, images)) if writer is not None)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., EmbeddingStore]:
    """Open (or make) the store of the fake identity, with changes."""

    def make(**changes: Any) -> EmbeddingStore:
        return EmbeddingStore.ensure(tmp_path / "store", replace(IDENTITY, **changes), label="fake", width=6)

    return make


@pytest.fixture
def digests() -> list[str]:
    """Forty image digests."""
    return [f"{i:064x}" for i in range(1, 41)]


def _fill_all(store: EmbeddingStore, images: list[str], grid: tuple[int, int] = GRID) -> int:
    written = 0
    for writer in claimed(store, images, grid):
        fill(writer)
        written += 1
    return written


def _check(store: EmbeddingStore, images: list[str], grid: tuple[int, int] = GRID) -> None:
    rows = store.rows()
    assert set(images) <= rows.keys()
    assert len({(rows[i].grid, rows[i].row) for i in images}) == len(images)
    for image in images:
        expected = content(image, grid)
        np.testing.assert_array_equal(store.read_patches(rows[image], (0, 1)), expected.patches)
        np.testing.assert_array_equal(store.read_column("cls", grid)[rows[image].row], expected.cls)
        np.testing.assert_array_equal(store.read_column("mean", grid)[rows[image].row], expected.mean)
        np.testing.assert_array_equal(store.read_column("valid", grid)[rows[image].row], expected.valid)


def test_what_is_written_is_read_back_layer_by_layer(make_store, digests) -> None:
    store = make_store()
    assert _fill_all(store, digests) == 3  # 16 + 16 + 8
    _check(make_store(), digests)
    row = store.rows()[digests[5]]
    np.testing.assert_array_equal(store.read_patches(row, (1,))[0], content(digests[5], GRID).patches[1])


def test_more_images_add_rows_and_nothing_is_written_again(make_store, digests) -> None:
    store = make_store()
    _fill_all(store, digests[:10])
    before = {p: p.stat().st_mtime_ns for p in store.folder.rglob("c/0/*") if p.is_file()}
    assert [s.images for s in store.allocate(GRID, digests[:13])] == [tuple(digests[10:13])]
    assert _fill_all(store, digests[:13]) == 1
    assert _fill_all(store, digests[:13]) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    _check(store, digests[:13])


def test_grids_live_side_by_side(make_store, digests) -> None:
    store = make_store()
    _fill_all(store, digests[:3])
    _fill_all(store, digests[3:6], (5, 2))
    _check(store, digests[:3])
    _check(store, digests[3:6], (5, 2))


def test_a_stranger_reads_it_with_zarr_alone(make_store, digests) -> None:
    store = make_store()
    _fill_all(store, digests[:4])
    group = zarr.open(store.folder, mode="r")
    assert group.attrs["layers"] == [1, 3]
    assert "transformer block" in group.attrs["about"]
    patches = group["grids/3x4/patches"]
    assert patches.metadata.dimension_names == ("row", "layer", "y", "x", "channel")
    images = list(group["grids/3x4/image"][:])
    for image in digests[:4]:
        np.testing.assert_array_equal(patches[images.index(image)], content(image, GRID).patches)
    assert images[4:] == [""] * (len(images) - 4)
    assert np.isnan(patches[4:]).all()


def test_xarray_reads_it(make_store, digests) -> None:
    xarray = pytest.importorskip("xarray")
    store = make_store()
    _fill_all(store, digests[:2])
    data = xarray.open_zarr(store.folder, group="grids/3x4", consolidated=False)
    assert data.patches.dims == ("row", "layer", "y", "x", "channel")
    np.testing.assert_array_equal(data.patches[1].values, content(digests[1], GRID).patches)


def test_the_documented_way_opens_it_lazily(make_store, digests) -> None:
    dask = pytest.importorskip("dask.array")
    store, page = make_store(), Path(__file__).parents[2] / "docs" / "embeddings.md"
    _fill_all(store, digests[:2])
    (snippet,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    names: dict[str, Any] = {}
    exec(snippet, names)
    data = names["open_store"](store.folder, "3x4")
    assert isinstance(data.patches.data, dask.Array)
    np.testing.assert_array_equal(data.patches[0].compute(), content(digests[0], GRID).patches)


def test_an_overflow_is_an_error_and_nothing_of_it_is_kept(make_store, digests) -> None:
    store = make_store(dtype="float16")
    (shard,) = store.allocate(GRID, digests[:2])
    good, bad = content(digests[0], GRID), content(digests[1], GRID)
    for value, said in ((7e4, r"7e\+04"), (np.nan, "nan"), (-np.inf, "inf")):
        bad.patches[1, 1, 0, 0] = value
        writer = store.writer(shard, lambda: None)
        writer.add(*good)
        with pytest.raises(EmvfmError, match=rf"layer 3 do not fit float16.*{said}.*float32"):
            writer.add(*bad)
        writer.abort()
        assert not list(store.folder.rglob("*.tmp"))
    assert store.rows() == {}


def test_float16_keeps_half_precision(make_store, digests) -> None:
    store = make_store(dtype="float16")
    _fill_all(store, digests[:1])
    found = store.read_patches(store.rows()[digests[0]], (0, 1))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, content(digests[0], GRID).patches.astype(np.float16))


def test_a_shard_holds_about_64_mib_and_at_most_16_images() -> None:
    for grid, width, dtype, images in (
        ((2, 2), 64, "float16", 16),
        ((37, 37), 1024, "float16", 16),
        ((73, 73), 1536, "float32", 2),
        ((512, 512), 1536, "float32", 1),
    ):
        assert Chunking.choose(grid, width, dtype).images == images


# ---------------------------------------------------------------------- large images

LARGE = (70, 45)


@pytest.fixture
def large(make_store, digests, monkeypatch) -> tuple[EmbeddingStore, Content]:
    """A store in which an image of 70 x 45 patches is too large for one chunk; it came in uneven bands."""
    monkeypatch.setattr(layout, "_SHARD_BYTES", 2**14)
    store, made = make_store(), content(digests[0], LARGE)
    for writer in claimed(store, digests[:1], LARGE):
        for start, stop in ((0, 1), (1, 40), (40, 66), (66, 70)):
            writer.add_rows(made.patches[:, start:stop])
        writer.end_image(made.cls, made.mean, made.valid)
        writer.publish()
    return store, made


def test_a_large_image_is_cut_into_squares_that_zarr_puts_together(large, digests) -> None:
    store, made = large
    assert store.chunking(LARGE) == Chunking(LARGE, 1, 32, 32)
    np.testing.assert_array_equal(store.read_patches(store.rows()[digests[0]], (1, 0)), made.patches[::-1])
    array = zarr.open(store.folder, mode="r")["grids/70x45/patches"]
    assert array.chunks == (1, 1, 32, 32, 6)
    assert array.shards == (1, 1, 32, 64, 6)
    np.testing.assert_array_equal(array[0], made.patches)
    assert verify(store) == {}
    assert len(store.finished()["70x45/000000"]["files"]) == 2 * 3 + 4


def test_any_window_is_the_part_of_the_whole(large, digests) -> None:
    store, made = large
    row, draw = store.rows()[digests[0]], np.random.default_rng(0)
    for _ in range(60):
        (top, bottom), (left, right) = (np.sort(draw.integers(0, side + 1, 2)) for side in LARGE)
        window = slice(int(top), int(bottom)), slice(int(left), int(right))
        np.testing.assert_array_equal(store.read_patches(row, (0, 1), window), made.patches[:, *window])
    beyond = slice(60, 99), slice(-3, None)
    np.testing.assert_array_equal(store.read_patches(row, (1,), beyond), made.patches[1:, *beyond])


def test_a_window_reads_no_other_square(large, digests) -> None:
    store, made = large
    shutil.rmtree(store.folder / "grids/70x45/patches/c/0/1")  # the other layer
    shutil.rmtree(store.folder / "grids/70x45/patches/c/0/0/2")  # the last band
    row = store.rows()[digests[0]]
    window = slice(3, 60), slice(40, 45)
    np.testing.assert_array_equal(store.read_patches(row, (0,), window), made.patches[:1, *window])
    with pytest.raises(CorruptError, match="missing"):
        store.read_patches(row, (0,), (slice(60, 65), slice(0, 2)))


def test_a_window_of_a_small_image_is_cut_from_it(make_store, digests) -> None:
    store = make_store()
    _fill_all(store, digests[:3])
    window, made = (slice(1, 3), slice(0, 2)), content(digests[2], GRID)
    found = store.read_patches(store.rows()[digests[2]], (1,), window)
    np.testing.assert_array_equal(found, made.patches[1:, *window])


# ---------------------------------------------------------------------- crash, race, damage


def test_a_full_disk_loses_only_the_shard_in_hand(make_store, digests, monkeypatch) -> None:
    store, write, seen = make_store(), writing_module.write_record, []

    def until_full(path: Path, value: Any) -> None:
        if path.parent.name == "3x4":
            seen.append(path)
            if len(seen) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, value)

    monkeypatch.setattr(writing_module, "write_record", until_full)
    with pytest.raises(OSError, match="No space"):
        _fill_all(store, digests)
    monkeypatch.undo()
    assert len(store.rows()) == 16
    again = make_store()
    assert _fill_all(again, digests) == 2
    _check(again, digests)


_WRITER = """
import os, signal, sys
from pathlib import Path
import importlib.util
spec = importlib.util.spec_from_file_location("helpers", sys.argv[1])
helpers = importlib.util.module_from_spec(spec); spec.loader.exec_module(helpers)
from emvfm.store import writing as module
from emvfm.store.store import EmbeddingStore
store = EmbeddingStore.ensure(Path(sys.argv[2]), helpers.IDENTITY, label="fake", width=6)
images, fatal, steps = sys.argv[4].split(","), int(sys.argv[3]), 0
def step(function):
    def counted(*arguments):
        global steps
        steps += 1
        if steps == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return counted
module._sync, module.write_record = step(module._sync), step(module.write_record)
module.ShardWriter.close = step(module.ShardWriter.close)
for writer in helpers.claimed(store, images, (3, 4)):
    helpers.fill(writer)
    print(writer.shard.number, flush=True)
print("steps", steps)
"""


def _writer(root: Path, fatal: int, images: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, __file__, str(root), str(fatal), ",".join(images)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_at_any_step_the_next_run_completes_it(tmp_path, make_store, digests) -> None:
    for fatal in (1, 2, 5, 9, 12, 14):
        root = tmp_path / str(fatal)
        killed = _writer(root, fatal, digests[:20])
        _, said = killed.communicate(timeout=120)
        assert killed.returncode == -9, said
        survivor = _writer(root, 0, digests[:20])
        _, said = survivor.communicate(timeout=120)
        assert survivor.returncode == 0, said
        (folder,) = (p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        store = EmbeddingStore(folder)
        _check(store, digests[:20])
        assert verify(store) == {}


@pytest.mark.slow
def test_processes_at_once_share_the_work_and_compute_nothing_twice(tmp_path, digests) -> None:
    writers = [_writer(tmp_path / "shared", 0, digests) for _ in range(4)]
    done = [writer.communicate(timeout=120) for writer in writers]
    assert [w.returncode for w in writers] == [0] * 4, done
    written = [line for out, _ in done for line in out.split("\n") if line.isdigit()]
    assert sorted(written) == ["0", "1", "2"]
    (folder,) = (p for p in (tmp_path / "shared").iterdir() if p.is_dir())
    _check(EmbeddingStore(folder), digests)


def test_a_shard_that_another_holds_is_waited_for(make_store, digests) -> None:
    first, second = make_store(), make_store()
    (shard,) = first.allocate(GRID, digests[:2])
    computed = []
    with first.lease(shard) as mine:
        assert mine
        waiting = threading.Thread(
            target=lambda: computed.extend(
                filter(None, second.claim(second.allocate(GRID, digests[:2]), 0.01))
            )
        )
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        fill(first.writer(shard, lambda: None))
    waiting.join(30)
    assert not waiting.is_alive()
    assert computed == []


def test_an_unfinished_shard_with_images_of_another_job_gives_them_up(make_store, digests) -> None:
    make_store().allocate(GRID, digests[:6])  # a process that died here
    store = make_store()
    _fill_all(store, digests[2:4])
    _check(store, digests[2:4])
    assert set(store.rows()) == set(digests[2:4])
    _fill_all(store, digests[:6])
    _check(store, digests[:6])


def _shards(store: EmbeddingStore, name: str = "patches") -> list[Path]:
    return sorted(p for p in (store.folder / "grids/3x4" / name / "c").rglob("*") if p.is_file())


@pytest.mark.parametrize("harm", ["flip", "cut", "delete", "zero"])
@pytest.mark.parametrize("name", ["patches", "cls", "valid", "mean"])
def test_damage_is_named_and_never_read_as_numbers(make_store, digests, harm: str, name: str) -> None:
    store = make_store()
    _fill_all(store, digests[:20])
    path = _shards(store, name)[0]
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[3] ^= 16
    elif harm == "zero":
        data[:] = bytes(len(data))
    if harm == "delete":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if harm == "cut" else data)
    problems = verify(make_store())
    assert list(problems) == ["3x4/000000"]
    assert path.relative_to(store.folder).as_posix() in problems["3x4/000000"]
    fresh, row = make_store(), store.rows()[digests[0]]
    if name == "patches":
        with pytest.raises(CorruptError, match="damaged"):
            fresh.read_patches(row, (0, 1))
    elif harm == "delete":  # a missing chunk is NaN, which readers refuse
        assert np.isnan(fresh.read_column(name, GRID)[row.row]).all()
    else:
        with pytest.raises(CorruptError, match="damaged store"):
            fresh.read_column(name, GRID)
    fresh.forget("3x4/000000")
    assert not set(digests[:16]) & fresh.rows().keys()
    assert _fill_all(fresh, digests[:20]) == 1
    assert verify(make_store()) == {}
    _check(make_store(), digests[:20])


def test_a_folder_that_is_no_store_is_said_to_be_none(make_store, tmp_path, digests) -> None:
    with pytest.raises(MissingError, match="no embedding store"):
        EmbeddingStore(tmp_path / "nothing")
    store = make_store()
    moved = Path(shutil.copytree(store.folder, tmp_path / ("0" * 32)))
    with pytest.raises(CorruptError, match="not what its name says"):
        EmbeddingStore(moved)
    (store.folder / "manifest/3x4").mkdir(parents=True)
    (store.folder / "manifest/3x4/000000.json").write_text("{")
    with pytest.raises(CorruptError, match=r"000000\.json.*--repair"):
        store.rows()


def test_a_store_that_was_removed_is_not_written_to(make_store, digests) -> None:
    store = make_store()
    shutil.rmtree(store.folder)
    (store.folder / "manifest").mkdir(parents=True)  # where a lock file lies
    with pytest.raises(MissingError, match="removed meanwhile"):
        store.allocate(GRID, digests[:1])
    assert not (store.folder / "zarr.json").exists()


def test_a_read_only_folder_is_an_error_of_the_system(make_store, digests) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    store = make_store()
    (store.folder / "manifest").chmod(0o500)
    with pytest.raises(OSError, match="Permission"):
        store.allocate(GRID, digests[:1])
