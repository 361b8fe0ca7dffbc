"""Whatever byte of a store changes, it is named, and after a repair the store holds what it held."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from emvfm.datasets.manifest import Dataset, Sample
from emvfm.errors import CorruptError, EmvfmError
from emvfm.store import store as store_module
from emvfm.store.care import verify
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.layout import ARRAYS
from emvfm.store.store import EmbeddingStore
from emvfm.store.view import Embeddings, write_table

GRID, WIDTH = (2, 3), 4
IDENTITY = EmbeddingIdentity(
    backbone={"name": "made-up"}, weights="ab" * 32, adapter=None, preprocess={"patch": 8, "input_size": "native"},
    layers=(1, 3), dtype="float32", precision="float32",
)  # fmt: skip
IMAGES = [f"{i:064x}" for i in range(1, 21)]
DATASET = Dataset("made-up", Path("nowhere"), tuple(
    Sample(id=f"s{i}", image=f"{i}.png", mask=f"m{i}.png", split="train", domain="d", volume="v", z=i, height=16, width=24,
           pixel_size_nm=None, image_sha256=sha, mask_sha256="ef" * 32)
    for i, sha in enumerate(IMAGES)
))  # fmt: skip


def _patches(image: str) -> np.ndarray:
    return np.random.default_rng(int(image, 16)).normal(size=(2, *GRID, WIDTH)).astype(np.float32)


def _foreground(sample: Sample) -> np.ndarray:
    return np.random.default_rng(len(sample.id)).random(GRID).astype(np.float32)


def _fill(store: EmbeddingStore, images: list[str]) -> list[str]:
    """Write what is missing of `images`; return what was written."""
    written: list[str] = []
    for writer in filter(None, store.claim(store.allocate(GRID, images))):
        for image in writer.shard.images:
            values = _patches(image)
            writer.add(values, values.mean((1, 2)), values.max((1, 2)), np.ones(GRID, np.float32))
        writer.publish()
        written += writer.shard.images
    return written


def _open(root: Path, **changes: Any) -> EmbeddingStore:
    return EmbeddingStore.ensure(root, replace(IDENTITY, **changes), label="made up", width=WIDTH)


def _check(root: Path) -> None:
    """The store has all images, for emvfm and for Zarr alone, and verify finds nothing."""
    store = _open(root)
    view = Embeddings(store, DATASET)
    for i, sample in enumerate(DATASET.samples):
        np.testing.assert_array_equal(view.patches(i), _patches(sample.image_sha256))
        np.testing.assert_array_equal(view.foreground(i), _foreground(sample))
    group = zarr.open(store.folder, mode="r")
    names = [str(name) for name in group["grids/2x3/image"][:]]
    for image in IMAGES:
        np.testing.assert_array_equal(group["grids/2x3/patches"][names.index(image)], _patches(image))
    assert [name for name in names if name] == list(dict.fromkeys(name for name in names if name))
    assert verify(store) == {}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A finished store of two shards with a sample table."""
    store = _open(tmp_path / "store")
    assert _fill(store, IMAGES) == IMAGES
    write_table(store, DATASET, _foreground)
    _check(tmp_path / "store")
    return tmp_path / "store"


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


HARM: dict[str, Callable[[Path], None]] = {
    "flip": _flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "delete": lambda path: path.unlink(),
}
FILES = [
    *(f"grids/2x3/{name}/c/0" + {"patches": "/1/0/0/0", "image": ""}.get(name, "/0/0") for name in ARRAYS),
    *(f"grids/2x3/{name}/zarr.json" for name in ARRAYS),
    "grids/2x3/zarr.json", "grids/zarr.json", "datasets/zarr.json", "zarr.json",
    "manifest/2x3/000000.json", "manifest/2x3.json",
]  # fmt: skip


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", FILES)
def test_any_harm_is_named_and_mended(root: Path, name: str, harm: str) -> None:
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    path = folder / (name if (folder / name).is_file() else name.replace("/c/0/0/0", "/c/0/0"))
    if name == "manifest/2x3/000000.json" and harm == "delete":
        pytest.skip("a shard without manifest is one that was never written")
    HARM[harm](path)
    if name == "zarr.json":  # the identity itself: the one who embeds knows it
        with pytest.raises(EmvfmError, match=folder.name):
            EmbeddingStore(folder)
    else:
        problems = verify(EmbeddingStore(folder))
        assert problems
        assert all(":" not in problem for problem in problems)
        verify(EmbeddingStore(folder), repair=True)
    store = _open(root)
    written = _fill(store, IMAGES)
    shard = "/c/" in name or name == "manifest/2x3/000000.json"
    assert written == (IMAGES[:16] if shard else [])
    write_table(store, DATASET, _foreground)
    _check(root)


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize(
    "name", ["foreground/2x3/fraction/c/0/0/0", "foreground/2x3/fraction/zarr.json", "z/c/0", "zarr.json"]
)
def test_harm_to_a_sample_table_is_named_and_the_table_is_written_again(
    root: Path, name: str, harm: str
) -> None:
    store = _open(root)
    (table,) = (path for path in (store.folder / "datasets").iterdir() if path.is_dir())
    HARM[harm](table / name)
    if name.startswith("foreground"):
        with pytest.raises(EmvfmError, match="sample table"):
            Embeddings(_open(root), DATASET).foreground(0)
    assert list(verify(store)) == [f"datasets/{table.name}"]
    verify(store, repair=True)
    assert _fill(_open(root), IMAGES) == []
    write_table(_open(root), DATASET, _foreground)
    _check(root)


def test_a_manifest_with_one_other_number_is_not_believed(root: Path) -> None:
    path = next(root.glob("*/manifest/2x3/000000.json"))
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "start": 1}))
    with pytest.raises(CorruptError, match=r"000000\.json.*--repair"):
        _open(root).rows()


def test_a_store_without_its_metadata_keeps_its_shards(root: Path) -> None:
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    (folder / "zarr.json").unlink()
    assert _fill(_open(root), IMAGES) == []
    _check(root)


# ---------------------------------------------------------------------- deaths and races


def test_a_death_while_the_grid_is_made_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, create = _open(tmp_path), store_module.create_grid

    def dies(path: Path, *arguments: Any) -> None:
        create(path, *arguments)
        shutil.rmtree(path / "cls")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "create_grid", dies)
        with pytest.raises(KeyboardInterrupt):
            store.allocate(GRID, IMAGES)
    assert list((store.folder / "grids").glob("*x*")) == []
    assert _fill(_open(tmp_path), IMAGES) == IMAGES


def test_a_death_while_a_table_is_written_shows_zarr_no_group(root: Path) -> None:
    store = _open(root)
    left = store.scratch / ".abcdef.1.12345678.partial"
    zarr.create_group(left)
    tables = dict(zarr.open(store.folder, mode="r")["datasets"].groups())
    assert len(tables) == 1
    assert set(dict(zarr.open(store.folder, mode="r").groups())) == {"grids", "datasets"}
    assert store.rows().keys() == set(IMAGES)


def test_a_shard_published_while_another_job_allocates_is_not_trimmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first job publishes its shard just after the second one has looked at what is finished."""
    first, second = _open(tmp_path), _open(tmp_path)
    (writer,) = first.claim(first.allocate(GRID, IMAGES[:4]))
    assert writer is not None
    finished = second.finished

    def late() -> dict[str, Any]:
        before = dict(finished())
        if not before:
            for image in writer.shard.images:
                values = _patches(image)
                writer.add(values, values.mean((1, 2)), values.max((1, 2)), np.ones(GRID, np.float32))
            writer.publish()
        return before

    monkeypatch.setattr(second, "finished", late)
    second.allocate(GRID, IMAGES[2:6])
    third = _open(tmp_path)
    assert set(third.rows()) == set(IMAGES[:4])
    assert _fill(third, IMAGES[:6]) == IMAGES[4:6]
    assert verify(third) == {}


def test_tables_of_several_jobs_at_once(tmp_path: Path) -> None:
    store = _open(tmp_path)
    _fill(store, IMAGES)
    problems: list[BaseException] = []

    def job(n: int) -> None:
        try:
            part = replace(DATASET, samples=DATASET.samples[n % 4 :])
            write_table(_open(tmp_path), part, _foreground)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=job, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len([p for p in (store.folder / "datasets").iterdir() if p.is_dir()]) == 4
    assert verify(store) == {}
