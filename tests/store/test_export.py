"""An exported file holds the numbers of the store, read back by those who will read it, or is not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emvfm.datasets.manifest import Dataset, Sample
from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.store import export as export_module
from emvfm.store.export import choose_format, export
from emvfm.store.finding import find_embeddings
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.store import EmbeddingStore
from emvfm.store.view import Embeddings, write_table

WIDTH, LAYERS = 5, (4, 1)
GRIDS = ((2, 3), (3, 2), (70, 2))  # the last has more rows than a chunk of a large image
IDENTITY = EmbeddingIdentity(
    backbone={"name": "made-up"},
    weights="ab" * 32,
    adapter=None,
    preprocess={"patch": 16, "input_size": "native"},
    layers=LAYERS,
    dtype="float16",
    precision="float32",
)
SUFFIXES = (".npz", ".parquet", ".h5ad")


def _sample(n: int, grids: tuple[tuple[int, int], ...] = GRIDS) -> Sample:
    h, w = grids[n % len(grids)]
    masked = n % 3 != 2
    return Sample(
        id=f"s{n:02d}",
        image=f"images/{n}.png",
        mask=f"masks/{n}.png" if masked else None,
        split=("train", "val", "test")[n % 3],
        domain="ab"[n % 2],
        volume="v",
        z=None if n == 4 else n,
        height=16 * h,
        width=16 * w,
        pixel_size_nm=None if n == 1 else 4.5,
        image_sha256=hashlib.sha256(str(n).encode()).hexdigest(),
        mask_sha256="ef" * 32 if masked else None,
    )


DATASET = Dataset("made-up", Path("nowhere"), tuple(_sample(n) for n in range(7)))


def _foreground(sample: Sample) -> np.ndarray:
    grid = (sample.height // 16, sample.width // 16)
    return np.random.default_rng(int(sample.id[1:])).random(grid).astype(np.float32)


def _fill(store: EmbeddingStore, dataset: Dataset, width: int = WIDTH) -> None:
    """Store numbers that follow from an image's digest; rows in another order than the samples."""
    for grid in sorted({(s.height // 16, s.width // 16) for s in dataset.samples}):
        wanted = [s for s in dataset.samples[::-1] if (s.height // 16, s.width // 16) == grid]
        for writer in filter(None, store.claim(store.allocate(grid, [s.image_sha256 for s in wanted]))):
            for image in writer.shard.images:
                draw = np.random.default_rng(int(image[:12], 16))
                patches = draw.normal(size=(2, *grid, width)).astype(np.float32)
                cls, mean = draw.normal(size=(2, 2, width)).astype(np.float32)
                writer.add(patches, cls, mean, draw.uniform(0.1, 1, grid).astype(np.float32))
            writer.publish()


def _make(root: Path, dataset: Dataset = DATASET, table: Dataset | None = None, **changes) -> EmbeddingStore:
    store = EmbeddingStore.ensure(root, replace(IDENTITY, **changes), label="made-up model", width=WIDTH)
    _fill(store, dataset)
    write_table(store, table or dataset, _foreground)
    return store


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> Embeddings:
    return Embeddings(_make(tmp_path_factory.mktemp("s")), DATASET)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a band of a large image be 32 rows, and a row group hold a few samples."""
    monkeypatch.setattr(export_module, "_BLOCK_BYTES", 70 * WIDTH * 4)


def _nothing_left(folder: Path) -> bool:
    return not list(folder.iterdir())


# ------------------------------------------------------------------ images


@pytest.mark.parametrize("layer", [-1, 0])
@pytest.mark.parametrize("pool", ["mean", "cls", "mean+cls"])
def test_npz_holds_the_embeddings_and_the_samples(view, tmp_path, pool, layer) -> None:
    made = export(view, tmp_path / "a.npz", layer=layer, pool=pool)
    with np.load(made.path, allow_pickle=False) as read:
        np.testing.assert_array_equal(read["embedding"], view.image_embeddings(pool, layer))
        assert read["embedding"].dtype == np.float32
        assert (made.rows, made.width) == read["embedding"].shape
        for name in ("id", "split", "domain", "volume", "height", "width", "image_sha256"):
            assert read[name].tolist() == [getattr(s, name) for s in DATASET.samples]
        assert read["mask_sha256"].tolist() == [s.mask_sha256 or "" for s in DATASET.samples]
        assert read["z"].tolist() == [0, 1, 2, 3, -1, 5, 6]
        np.testing.assert_array_equal(read["pixel_size_nm"], [4.5, np.nan, *[4.5] * 5])
        assert list(zip(read["grid_rows"], read["grid_columns"], strict=True)) == [
            GRIDS[n % 3] for n in range(7)
        ]
        told = json.loads(str(read["provenance"]))
    assert told["key"] == IDENTITY.key
    assert (told["layer"], told["layers"], told["pool"]) == (LAYERS[layer], [4, 1], pool)
    assert told["identity"] == IDENTITY.to_json()
    assert made.bytes == made.path.stat().st_size


@pytest.mark.parametrize("pool", ["cls", "mean+cls"])
def test_parquet_is_read_by_arrow_and_pandas(view, tmp_path, pool) -> None:
    pq, pd = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pandas")
    made = export(view, tmp_path / "a.parquet", pool=pool)
    expected = view.image_embeddings(pool)
    table = pq.read_table(made.path)
    assert (
        str(table.schema.field("embedding").type) == f"fixed_size_list<element: float>[{expected.shape[1]}]"
    )
    assert json.loads(table.schema.metadata[b"emvfm"])["key"] == IDENTITY.key
    assert table["z"].to_pylist() == [s.z for s in DATASET.samples]
    assert table["pixel_size_nm"].to_pylist() == [s.pixel_size_nm for s in DATASET.samples]
    assert table["mask_sha256"].to_pylist() == [s.mask_sha256 for s in DATASET.samples]
    frame = pd.read_parquet(made.path)
    np.testing.assert_array_equal(np.stack(frame["embedding"]), expected)
    assert frame["id"].tolist() == [s.id for s in DATASET.samples]


def test_anndata_holds_both_kinds_of_vector_and_where_they_come_from(view, tmp_path) -> None:
    anndata = pytest.importorskip("anndata")
    made = export(view, tmp_path / "a.h5ad", pool="mean+cls", layer=0)
    read = anndata.read_h5ad(made.path)
    np.testing.assert_array_equal(read.X, view.image_embeddings("mean+cls", 0))
    for name in ("mean", "cls"):
        np.testing.assert_array_equal(read.obsm[name], view.image_embeddings(name, 0))
    assert read.obs_names.tolist() == [s.id for s in DATASET.samples]
    assert read.var_names.tolist() == [f"{part}_{d}" for part in ("mean", "cls") for d in range(WIDTH)]
    assert read.obs["split"].tolist() == [s.split for s in DATASET.samples]
    assert read.obs["z"].isna().tolist() == [s.z is None for s in DATASET.samples]
    told = read.uns["emvfm"]
    assert (told["key"], told["label"], told["layer"]) == (IDENTITY.key, "made-up model", 4)
    assert told["layers"].tolist() == [4, 1]
    assert json.loads(told["identity"]) == IDENTITY.to_json()


def test_a_part_of_a_dataset_is_exported_in_its_order(view, tmp_path) -> None:
    part = view.split("test", "val")
    with np.load(export(part, tmp_path / "a.npz").path) as read:
        assert read["id"].tolist() == ["s01", "s02", "s04", "s05"]
        np.testing.assert_array_equal(read["embedding"], part.image_embeddings())


# ------------------------------------------------------------------ patches


def _expected(view: Embeddings, layer: int) -> dict[str, np.ndarray]:
    """Every patch, one at a time."""
    rows: list[tuple] = []
    for i, sample in enumerate(view.samples):
        tokens, valid = view.patches(i, [view.layers[layer]])[0], view.valid(i)
        foreground = _foreground(sample) if sample.mask else np.full(valid.shape, np.nan, np.float32)
        for y in range(valid.shape[0]):
            rows += [
                (sample.id, i, y, x, valid[y, x], foreground[y, x], tokens[y, x])
                for x in range(valid.shape[1])
            ]
    names = ("id", "sample", "y", "x", "valid", "foreground", "embedding")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


@pytest.mark.parametrize("layer", [-1, 0])
@pytest.mark.parametrize("blocks", ["one", "many"])
def test_npz_of_patches_keeps_the_stored_type(view, tmp_path, request, blocks, layer) -> None:
    if blocks == "many":
        request.getfixturevalue("small_blocks")
    made = export(view, tmp_path / "a.npz", patches=True, layer=layer)
    expected = _expected(view, layer)
    with np.load(made.path, allow_pickle=False) as read:
        for name in ("sample", "y", "x", "valid", "foreground", "embedding"):
            np.testing.assert_array_equal(read[name], expected[name])
        np.testing.assert_array_equal(read["id"][read["sample"]], expected["id"])
        assert read["embedding"].dtype == np.float16
        assert read["embedding"].shape == (made.rows, made.width)
        assert json.loads(str(read["provenance"]))["pool"] is None


@pytest.mark.parametrize("blocks", ["one", "many"])
def test_parquet_of_patches(view, tmp_path, request, blocks) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    if blocks == "many":
        request.getfixturevalue("small_blocks")
    made = export(view, tmp_path / "a.parquet", patches=True)
    expected = _expected(view, -1)
    assert (pq.ParquetFile(made.path).num_row_groups > 3) == (blocks == "many")
    frame = pq.read_table(made.path).to_pandas()
    for name in ("id", "y", "x", "valid"):
        np.testing.assert_array_equal(frame[name], expected[name])
    np.testing.assert_array_equal(np.stack(frame["embedding"]), expected["embedding"].astype(np.float32))
    np.testing.assert_array_equal(frame["foreground"], expected["foreground"])
    assert pq.read_table(made.path)["foreground"].null_count == int(np.isnan(expected["foreground"]).sum())


@pytest.mark.parametrize("blocks", ["one", "many"])
@pytest.mark.parametrize("backed", [None, "r"])
def test_anndata_of_patches_is_read_whole_or_from_the_disk(view, tmp_path, request, backed, blocks) -> None:
    anndata = pytest.importorskip("anndata")
    if blocks == "many":
        request.getfixturevalue("small_blocks")
    made = export(view, tmp_path / "a.h5ad", patches=True)
    expected, read = _expected(view, -1), anndata.read_h5ad(made.path, backed=backed)
    np.testing.assert_array_equal(read.X[:], expected["embedding"].astype(np.float32))
    for name in ("y", "x", "valid", "foreground"):
        np.testing.assert_array_equal(read.obs[name], expected[name])
    assert read.obs["id"].tolist() == expected["id"].tolist()
    assert read.obs["split"].tolist() == [DATASET.samples[i].split for i in expected["sample"]]
    assert read.obs_names[:4].tolist() == ["s00/0/0", "s00/0/1", "s00/0/2", "s00/1/0"]
    assert read.obs_names.is_unique
    assert (read.n_obs, read.n_vars) == (made.rows, made.width)
    assert read.uns["emvfm"]["key"] == IDENTITY.key
    if backed:
        read.file.close()
    else:
        read.write_h5ad(tmp_path / "again.h5ad")  # what it read, the library can write


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_patches_are_exported_in_little_memory(tmp_path, monkeypatch, suffix) -> None:
    grid, width = (32, 32), 96
    dataset = Dataset("d", Path("nowhere"), tuple(_sample(n, (grid,)) for n in range(40)))
    store = EmbeddingStore.ensure(tmp_path / "s", IDENTITY, label="made-up", width=width)
    _fill(store, dataset, width)
    write_table(store, dataset, _foreground)
    one = grid[0] * grid[1] * width * 4
    monkeypatch.setattr(export_module, "_BLOCK_BYTES", 2 * one)
    view = Embeddings(store, dataset)
    view.foreground(0)
    view.valid(0)
    export(view.where(lambda s: s.id == "s00"), tmp_path / f"warm{suffix}", patches=True)  # imports
    if suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        made = export(view, tmp_path / f"a{suffix}", patches=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made.rows == 40 * 32 * 32
    assert peak < 8 * one  # of 40 that there are
    if suffix == ".parquet":
        assert pa.total_allocated_bytes() - before < 4 * one


# ------------------------------------------------------------------ whole or not at all


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_nothing(view, tmp_path, monkeypatch, suffix, patches) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export(view, tmp_path / f"a{suffix}", patches=patches)
    assert _nothing_left(tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_met_on_the_way_leaves_nothing(tmp_path, suffix) -> None:
    store = _make(tmp_path / "s")
    broken = store.folder / "grids" / "70x2" / "patches" / "c" / "0" / "1" / "0" / "0" / "0"
    data = bytearray(broken.read_bytes())
    data[7] ^= 1
    broken.write_bytes(data)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CorruptError):
        export(Embeddings(store, DATASET), out / f"a{suffix}", patches=True)
    assert _nothing_left(out)


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import test_export as t
view = t.Embeddings(t._make(Path(sys.argv[1])), t.DATASET)
tokens = t.export_module._tokens
def slow(view, piece, layer):
    print(piece.i, flush=True)
    time.sleep(60 if piece.i == 3 else 0)
    return tokens(view, piece, layer)
t.export_module._tokens = slow
t.export(view, Path(sys.argv[2]), patches=True)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_on_the_way_the_target_is_not_there(tmp_path, suffix) -> None:
    out = tmp_path / "out"
    out.mkdir()
    arguments = [str(tmp_path / "s"), str(out / f"a{suffix}"), str(Path(__file__).parent)]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "3":
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [p.name for p in out.iterdir() if not p.name.startswith(".")] == []
    export(Embeddings(_make(tmp_path / "s"), DATASET), out / f"a{suffix}", patches=True)
    assert (out / f"a{suffix}").is_file()


def test_what_is_there_is_not_replaced(view, tmp_path) -> None:
    (tmp_path / "a.npz").write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        export(view, tmp_path / "a.npz")
    assert (tmp_path / "a.npz").read_text() == "mine"
    with pytest.raises(UsageError, match="no such folder"):
        export(view, tmp_path / "no" / "a.npz")
    with pytest.raises(UsageError, match="no such layer position"):
        export(view, tmp_path / "b.npz", patches=True, layer=2)


@pytest.mark.parametrize(("suffix", "package"), [(".parquet", "pyarrow"), (".h5ad", "anndata")])
def test_a_missing_package_is_named_in_one_line(view, tmp_path, monkeypatch, suffix, package) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingError, match=rf"{package} is not installed; pip install 'emvfm\[export\]'"):
        export(view, tmp_path / f"a{suffix}")
    assert _nothing_left(tmp_path)


def test_the_suffix_says_the_format_unless_one_is_named() -> None:
    assert [choose_format(Path(f"a{suffix}")) for suffix in SUFFIXES] == ["npz", "parquet", "anndata"]
    assert choose_format(Path("a.NPZ")) == "npz"
    assert choose_format(Path("a.bin"), "anndata") == "anndata"
    with pytest.raises(UsageError, match="suffix says no format"):
        choose_format(Path("a.csv"))
    with pytest.raises(UsageError, match="not a format"):
        choose_format(Path("a.npz"), "csv")


# ------------------------------------------------------------------ which store


def test_the_one_store_that_holds_a_dataset_is_found(tmp_path) -> None:
    with pytest.raises(MissingError, match=r"made-up: no store holds all its images.*emvfm embed"):
        find_embeddings(tmp_path, DATASET)
    store = _make(tmp_path)
    _make(tmp_path, DATASET.split("val"), weights="cd" * 32)  # has only a part
    turned = _make(tmp_path, preprocess={**IDENTITY.preprocess, "view": {"turn": 1}})
    assert find_embeddings(tmp_path, DATASET).key == store.identity.key
    assert find_embeddings(tmp_path, DATASET, key=turned.identity.key[:9]).key == turned.identity.key


def test_of_several_stores_one_is_chosen_by_key_or_backbone(tmp_path) -> None:
    stores = [_make(tmp_path), _make(tmp_path, backbone={"name": "other"}, weights="cd" * 32)]
    with pytest.raises(UsageError, match="several stores hold it") as error:
        find_embeddings(tmp_path, DATASET)
    for store in stores:
        key = store.identity.key
        assert f"{key[:12]} made-up model, input native, layers 4,1" in str(error.value)
        assert find_embeddings(tmp_path, DATASET, key=key[:12]).key == key
        assert find_embeddings(tmp_path, DATASET, backbone=store.identity.backbone).key == key
    with pytest.raises(MissingError, match="no store of this backbone"):
        find_embeddings(tmp_path, DATASET, backbone={"name": "third"})
    with pytest.raises(MissingError, match="no such store"):
        find_embeddings(tmp_path, DATASET, key="x")


@pytest.mark.parametrize("table", ["whole", "part"])
def test_the_foreground_of_a_part_is_found_whichever_was_embedded(tmp_path, table) -> None:
    part = DATASET.split("train")
    store = _make(tmp_path, DATASET, table=DATASET if table == "whole" else part)
    found = find_embeddings(tmp_path, part, DATASET)
    assert found.samples == part.samples
    for i, sample in enumerate(part.samples):
        np.testing.assert_array_equal(found.foreground(i), _foreground(sample))
    assert found.key == store.identity.key


def test_masks_without_their_foreground_are_an_error_not_nan(tmp_path) -> None:
    store = EmbeddingStore.ensure(tmp_path, IDENTITY, label="made-up", width=WIDTH)
    _fill(store, DATASET)
    (tmp_path / "out").mkdir()
    with pytest.raises(MissingError, match="no sample table"):
        export(find_embeddings(tmp_path, DATASET), tmp_path / "out" / "a.npz", patches=True)
    assert _nothing_left(tmp_path / "out")
    export(find_embeddings(tmp_path, DATASET), tmp_path / "out" / "a.npz")
