"""What nobody needs goes; what a process holds, a dataset uses or a link leads to stays."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from emvfm.datasets.manifest import Dataset, Sample, save_dataset
from emvfm.errors import CorruptError, EmvfmError, MissingError
from emvfm.store import pruning as pruning_module
from emvfm.store import removal as removal_module
from emvfm.store.care import verify
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.pruning import prune
from emvfm.store.records import read_record, write_record
from emvfm.store.store import EmbeddingStore
from emvfm.store.view import Embeddings, write_table
from emvfm.workspace import Workspace

GRID, WIDTH = (2, 3), 4
IDENTITY = EmbeddingIdentity(
    backbone={"name": "made-up"},
    weights="ab" * 32,
    adapter=None,
    preprocess={"patch": 16, "input_size": "native"},
    layers=(4, 1),
    dtype="float32",
    precision="float32",
)
OLD = 7200  # seconds; more than the hour that must have gone by


def _dataset(name: str, numbers: range, root: Path = Path("nowhere")) -> Dataset:
    def sample(n: int) -> Sample:
        sha = hashlib.sha256(str(n).encode()).hexdigest()
        return Sample(f"s{n}", "a.png", "m.png", "train", "d", "v", n, 32, 48, None, sha, "ef" * 32)

    return Dataset(name, root, tuple(sample(n) for n in numbers))


def _fill(store: EmbeddingStore, images: list[str]) -> None:
    for writer in filter(None, store.claim(store.allocate(GRID, images))):
        for image in writer.shard.images:
            draw = np.random.default_rng(int(image[:12], 16))
            vectors = draw.normal(size=(2, 2, WIDTH)).astype(np.float32)
            writer.add(draw.normal(size=(2, *GRID, WIDTH)).astype(np.float32), *vectors, np.ones(GRID))
        writer.publish()


def _embed(workspace: Workspace, dataset: Dataset, weights: str = "ab") -> EmbeddingStore:
    store = EmbeddingStore.ensure(
        workspace.store, replace(IDENTITY, weights=weights * 32), label="made-up model", width=WIDTH
    )
    _fill(store, [s.image_sha256 for s in dataset.samples])
    write_table(store, dataset, lambda sample: np.ones(GRID, np.float32))
    return store


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


@pytest.fixture
def compose(workspace: Workspace) -> Callable[[str, range], Dataset]:
    """Put a dataset of the given images into the workspace."""

    def make(name: str, numbers: range) -> Dataset:
        dataset = _dataset(name, numbers, workspace.datasets / name)
        dataset.root.mkdir(parents=True)
        save_dataset(dataset)
        return dataset

    return make


def _age(*paths: Path) -> None:
    for top in paths:
        for path in [top, *top.rglob("*")]:
            os.utime(path, (path.stat().st_mtime - OLD,) * 2, follow_symlinks=False)


def _dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def _state(folder: Path) -> dict[str, bytes]:
    """Return every file but the locks, which looking makes."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.suffix != ".lock"
    }


def _whole(store: EmbeddingStore, dataset: Dataset) -> bool:
    reopened = EmbeddingStore(store.folder)
    assert not verify(reopened)
    return len(list(Embeddings(reopened, dataset).iter_patches())) == len(dataset)


# ------------------------------------------------------------------ whole stores


def test_a_named_store_goes_and_only_with_remove(workspace, compose) -> None:
    dataset = compose("a", range(5))
    first, second = _embed(workspace, dataset), _embed(workspace, dataset, "cd")
    before, size = _state(workspace.store), sum(map(len, _state(first.folder).values()))
    found = prune(workspace, [first.folder.name[:8]])
    ((item),) = found.leftovers
    assert (item.kind, item.path, item.why) == ("store", first.folder, "named: made-up model, 5 images")
    assert item.bytes == size == found.bytes
    assert not found.removed
    assert _state(workspace.store) == before
    assert prune(workspace, [first.folder.name[:8]], remove=True).removed
    assert [p.name for p in workspace.store.iterdir() if p.is_dir()] == [second.folder.name]
    assert _whole(second, dataset)
    again = _embed(workspace, dataset)
    assert _whole(again, dataset)


def test_an_unknown_key_is_missing_and_an_empty_one_names_nothing(workspace, compose) -> None:
    _embed(workspace, compose("a", range(2)))
    for key in ("zzz", "", "../datasets"):
        with pytest.raises(MissingError, match="no such store"):
            prune(workspace, [key], remove=True)


def test_unused_means_that_no_dataset_has_an_image(workspace, compose) -> None:
    dataset = compose("a", range(5))
    used = _embed(workspace, dataset)
    partly = _embed(workspace, _dataset("gone", range(4, 9)), "cd")  # image 4 is in a
    unused = _embed(workspace, _dataset("gone", range(5, 9)), "ef")
    assert not prune(workspace).leftovers
    found = prune(workspace, unused=True, remove=True)
    assert [(item.kind, item.path) for item in found.leftovers] == [("store", unused.folder)]
    assert {Path(name).parent for name in found.skipped} == {partly.folder / "datasets"}  # a new table
    assert not unused.folder.exists()
    assert _whole(used, dataset)
    assert _whole(partly, _dataset("gone", range(4, 9)))


def test_keys_and_unused_together_take_only_what_is_both(workspace, compose) -> None:
    used = _embed(workspace, compose("a", range(5)))
    others = [_embed(workspace, _dataset("gone", range(5, 9)), weights) for weights in ("cd", "ef")]
    keys = [used.folder.name, others[0].folder.name]
    found = prune(workspace, keys, unused=True, remove=True)
    assert [item.path for item in found.leftovers] == [others[0].folder]
    assert found.skipped == {str(used.folder): "holds images of the dataset a"}
    assert used.folder.is_dir()
    assert others[1].folder.is_dir()


def test_at_a_physical_scale_the_pixel_size_is_no_part_of_the_image(workspace, compose) -> None:
    dataset = compose("a", range(2))
    store = EmbeddingStore.ensure(workspace.store, IDENTITY, label="x", width=WIDTH)
    _fill(store, [f"{dataset.samples[0].image_sha256}@4.5nm"])
    assert not prune(workspace, unused=True, remove=True).leftovers


def test_a_dataset_that_cannot_be_read_stops_everything(workspace, compose) -> None:
    store = _embed(workspace, compose("a", range(5)))
    (workspace.datasets / "a" / "manifest.csv").write_text("nonsense")
    with pytest.raises(CorruptError):
        prune(workspace, unused=True, remove=True)
    assert store.folder.is_dir()


def test_a_store_that_cannot_be_read_goes_only_by_name(workspace, compose) -> None:
    dataset = compose("a", range(2))
    good, broken = _embed(workspace, dataset), _embed(workspace, _dataset("gone", range(5, 9)), "cd")
    (broken.folder / "zarr.json").write_text("{")
    key = broken.folder.name
    for arguments in ({}, {"unused": True}, {"keys": [key], "unused": True}):
        found = prune(workspace, **arguments, remove=True)
        assert not found.leftovers
        assert "cannot be read; name it" in found.skipped[str(broken.folder)]
    with FileLock(broken.folder / "manifest" / ".leases" / "2x3-000000.lock"):
        assert prune(workspace, [key], remove=True).skipped == {
            str(broken.folder): "a shard is being written"
        }
    assert broken.folder.is_dir()
    assert prune(workspace, [key], remove=True).leftovers[0].why == "named: cannot be read"
    assert not broken.folder.exists()
    assert _whole(good, dataset)


def test_what_a_process_makes_that_had_opened_the_store_can_go_by_name(workspace, compose) -> None:
    dataset = compose("a", range(2))
    store = _embed(workspace, dataset)
    prune(workspace, [store.folder.name], remove=True)
    images = [sample.image_sha256 for sample in _dataset("b", range(5, 9)).samples]
    with contextlib.suppress(OSError, EmvfmError):  # a store may say that it is gone
        _fill(store, images)
    if store.folder.exists():
        assert prune(workspace, [store.folder.name], remove=True).leftovers
    assert _whole(_embed(workspace, dataset), dataset)


# ------------------------------------------------------------------ beside a writer


@pytest.mark.parametrize("arguments", [{"keys": ["all"]}, {"unused": True}])
def test_a_store_in_which_a_shard_is_being_written_stays(workspace, arguments) -> None:
    dataset = _dataset("elsewhere", range(40))
    store = _embed(workspace, _dataset("elsewhere", range(5)))
    if "keys" in arguments:
        arguments = {"keys": [store.folder.name]}
    claimed = store.claim(store.allocate(GRID, [s.image_sha256 for s in dataset.samples]))
    writer = next(claimed)
    assert writer is not None
    writer.add_rows(np.zeros((2, *GRID, WIDTH), np.float32))
    for remove in (False, True):
        found = prune(workspace, **arguments, remove=remove)
        assert not found.leftovers
        assert found.skipped == {str(store.folder): f"shard {writer.shard.name} is being written"}
    writer.abort()
    assert prune(workspace, **arguments, remove=True).leftovers
    assert not store.folder.exists()


def test_a_store_in_which_rows_are_being_allocated_stays(workspace) -> None:
    store = _embed(workspace, _dataset("elsewhere", range(5)))
    for lock in (store.lock, FileLock(workspace.store / f".{store.folder.name}.lock")):
        with lock:
            found = prune(workspace, unused=True, remove=True)
            assert not found.leftovers
            assert "place" in found.skipped[str(store.folder)]
    assert store.folder.is_dir()


def test_a_writer_in_another_process_is_seen(workspace) -> None:
    store = _embed(workspace, _dataset("elsewhere", range(5)))
    code = (
        "import sys\nfrom pathlib import Path\nfrom emvfm.store.store import EmbeddingStore\n"
        "store = EmbeddingStore(Path(sys.argv[1]))\nshards = store.allocate((2, 3), ['ab' * 32])\n"
        "writer = next(store.claim(shards))\nprint('ready', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"ready\n"
    assert "is being written" in prune(workspace, unused=True, remove=True).skipped[str(store.folder)]
    process.stdin.close()
    process.kill()
    process.wait()
    process.stdout.close()
    assert prune(workspace, unused=True, remove=True).leftovers


def test_too_many_unfinished_shards_to_lock_are_an_answer_not_a_crash(workspace, monkeypatch) -> None:
    store = _embed(workspace, _dataset("elsewhere", range(5)))
    store.allocate(GRID, [f"{n:064x}" for n in range(40)])

    def lease(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(EmbeddingStore, "lease", lease)
    assert "ulimit" in prune(workspace, unused=True, remove=True).skipped[str(store.folder)]
    assert store.folder.is_dir()


def test_killed_between_renaming_and_removing_the_next_one_finishes(workspace, monkeypatch) -> None:
    store = _embed(workspace, _dataset("elsewhere", range(5)))

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(removal_module.shutil, "rmtree", killed)
        name = f".{store.folder.name}.{_dead_process()}.0123abcd.partial"
        patch.setattr(pruning_module, "away_from", lambda path: path.with_name(name))
        with pytest.raises(KeyboardInterrupt):
            prune(workspace, unused=True, remove=True)
    assert not store.folder.exists()
    (away,) = (p for p in workspace.store.iterdir() if p.is_dir())
    assert "changed within" in prune(workspace, remove=True).skipped[str(away)]
    _age(away)
    (item,) = prune(workspace, remove=True).leftovers
    assert (item.kind, item.path) == ("temporary", away)
    assert not away.exists()


# ------------------------------------------------------------------ remains in a store that stays


def test_files_of_a_shard_that_no_manifest_names_go_and_nothing_else(workspace, compose) -> None:
    dataset = compose("a", range(40))
    store = _embed(workspace, dataset)
    store.forget("2x3/000001")
    manifest = store.finished()
    kept = {file for shard in manifest.values() for file in shard["files"]}
    extra = store.folder / "grids" / "2x3" / "patches" / "c" / "0" / "0" / ".0.tmp"
    extra.write_bytes(b"cut off")
    partial = store.folder / "grids" / "2x3" / "image" / "c" / f"0.{'ab' * 16}.partial"
    partial.write_bytes(b"cut")
    stranger = store.folder / "grids" / "2x3" / "patches" / "c" / "notes.txt"
    stranger.write_text("mine")
    before = _state(store.folder)
    gone = {
        name
        for name in before
        if name.startswith("grids/") and "/c/" in name and name not in kept and not name.endswith(".txt")
    }
    assert len(gone) == 2 + 3 + 1 + 2  # two layers, three columns, the names, and two temporary files
    found = prune(workspace)
    assert [(i.kind, Path(i.name).name) for i in found.leftovers] == [
        ("shard", "000000"),
        ("shard", "000001"),
    ]
    assert found.bytes == sum(len(before[name]) for name in gone)
    assert _state(store.folder) == before
    assert prune(workspace, remove=True).leftovers == found.leftovers
    after = _state(store.folder)
    assert after == {name: data for name, data in before.items() if name not in gone}
    assert not (store.folder / "grids" / "2x3" / "patches" / "c" / "1").exists()
    assert not prune(workspace, remove=True).leftovers
    _embed(workspace, dataset)
    assert _whole(store, dataset)


def test_files_of_a_shard_that_is_being_written_stay(workspace, compose) -> None:
    dataset = compose("a", range(40))
    store = _embed(workspace, _dataset("a", range(16)))
    shards = store.allocate(GRID, [s.image_sha256 for s in dataset.samples])
    writer = next(store.claim(shards))
    assert writer is not None
    patches = np.zeros((2, *GRID, WIDTH), np.float32)
    for _ in writer.shard.images:
        writer.add(patches, np.zeros((2, WIDTH)), np.zeros((2, WIDTH)), np.ones(GRID))
    before = _state(store.folder)
    found = prune(workspace, remove=True)
    assert found.skipped[str(store.folder / "grids" / "2x3" / "000001")] == "being written"
    assert not [item for item in found.leftovers if item.kind == "shard"]
    assert _state(store.folder) == before
    writer.publish()
    assert not prune(workspace, remove=True).skipped
    assert not verify(store)


def test_a_manifest_that_names_files_elsewhere_stops_the_search(workspace, compose) -> None:
    store = _embed(workspace, compose("a", range(40)))
    path = store.folder / "manifest" / "2x3" / "000001.json"
    facts = read_record(path)
    write_record(path, json.loads(json.dumps(facts).replace("/c/1/", "/c/0/")))
    before = _state(store.folder)
    found = prune(workspace, remove=True)
    assert "the manifest of 2x3/000001 names" in found.skipped[str(store.folder)]
    path.write_text("{")
    assert "manifest cannot be read" in prune(workspace, remove=True).skipped[str(store.folder)]
    path.write_bytes(before["manifest/2x3/000001.json"])
    assert _state(store.folder) == before


def test_temporary_names_go_when_they_are_old_and_their_process_is_dead(workspace, compose) -> None:
    store = _embed(workspace, compose("a", range(2)))
    dead, here = _dead_process(), os.getpid()
    old = [
        workspace.store / f".{store.folder.name}.{dead}.0123abcd.partial",
        store.folder / "datasets" / f".{'ab' * 8}.{dead}.0123abcd.partial",
        store.folder / "manifest" / f".2x3.json.{dead}.0123abcd.partial",
        store.folder / f"zarr.{'ab' * 16}.partial",
    ]
    living = store.folder / "manifest" / f".2x3.json.{here}.0123abcd.partial"
    young = store.folder / "manifest" / f".2x3.json.{dead}.4567abcd.partial"
    for path in old[:2]:
        path.mkdir()
        (path / "part").write_bytes(b"1234")
    for path in (*old[2:], living, young):
        path.write_bytes(b"12")
    _age(*old, living)
    (old[1] / "part").touch()
    found = prune(workspace)
    assert {i.path for i in found.leftovers} == {old[0], old[2], old[3]}
    assert found.bytes == 4 + 2 + 2
    assert set(found.skipped) == {str(old[1]), str(living), str(young)}
    assert f"process {here}" in found.skipped[str(living)]
    assert all(path.exists() for path in old)
    prune(workspace, remove=True)
    assert [path.exists() for path in (*old, living, young)] == [False, True, False, False, True, True]


def test_sample_tables_go_with_their_dataset(workspace, compose) -> None:
    dataset, gone = compose("a", range(5)), _dataset("gone", range(3, 9))
    store = _embed(workspace, dataset)
    part = dataset.where(lambda sample: sample.z < 2)
    write_table(store, part, lambda sample: np.ones(GRID, np.float32))
    tables = set((store.folder / "datasets").iterdir())
    _embed(workspace, gone)
    (left,) = set((store.folder / "datasets").iterdir()) - tables
    assert "changed within" in prune(workspace, remove=True).skipped[str(left)]
    _age(store.folder / "datasets")
    (item,) = prune(workspace).leftovers
    assert (item.kind, item.path) == ("table", left)
    assert left.is_dir()
    prune(workspace, remove=True)
    assert set((store.folder / "datasets").iterdir()) == tables
    for kept in (dataset, part):
        assert Embeddings(store, kept).foreground(1).tolist() == [[1.0] * 3] * 2
    assert _whole(store, gone)  # the images are there all the same


# ------------------------------------------------------------------ links


def test_no_link_is_followed(workspace, compose, tmp_path) -> None:
    dataset = compose("a", range(20))
    store = _embed(workspace, dataset)
    outside = tmp_path / "outside"
    (outside / "c" / "7").mkdir(parents=True)
    (outside / "c" / "7" / "mine").write_text("keep")
    old = outside / f".x.{_dead_process()}.0123abcd.partial"
    old.write_text("keep")
    grid = store.folder / "grids" / "2x3"
    (grid / "linked").symlink_to(outside)
    (store.folder / "manifest" / "linked").symlink_to(outside)
    (store.folder / "grids" / "9x9").symlink_to(outside)
    (workspace.store / f".{'cd' * 16}.{_dead_process()}.0123abcd.partial").symlink_to(outside)
    (workspace.store / ("ef" * 16)).symlink_to(store.folder)
    _age(outside)
    kept = _state(outside)
    for arguments in ({}, {"unused": True}, {"keys": ["ef" * 16]}):
        found = prune(workspace, **arguments, remove=True)
        assert not found.leftovers
        assert found.skipped[str(workspace.store / ("ef" * 16))] == "a symbolic link"
    assert _whole(store, dataset)
    prune(workspace, [store.folder.name], remove=True)  # links within it go, what they lead to does not
    assert not store.folder.exists()
    assert _state(outside) == kept


def test_a_workspace_without_stores_has_nothing_to_remove(workspace) -> None:
    assert prune(workspace, unused=True, remove=True).leftovers == ()
