"""A view gives each sample of a dataset its own numbers, in the order of the samples asked for."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import zarr

from emvfm.datasets.manifest import Dataset, Sample
from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.layout import Grid
from emvfm.store.store import EmbeddingStore
from emvfm.store.view import Embeddings, write_table

WIDTH, LAYERS = 3, (4, 1)
GRIDS: tuple[Grid, ...] = ((2, 3), (3, 2), (2, 3), (1, 1))
IDENTITY = EmbeddingIdentity(
    backbone={"name": "made-up"},
    weights="ab" * 32,
    adapter=None,
    preprocess={"patch": 16, "input_size": "native"},
    layers=LAYERS,
    dtype="float32",
    precision="float32",
)


def _grid(sample: Sample) -> Grid:
    return sample.height // 16, sample.width // 16


class Content(NamedTuple):
    """What is stored of one image."""

    patches: np.ndarray
    cls: np.ndarray
    mean: np.ndarray
    valid: np.ndarray


def _content(sample: Sample) -> Content:
    """The numbers of one image, which follow from its digest alone."""
    draw, (h, w) = np.random.default_rng(int(sample.image_sha256[:12], 16)), _grid(sample)
    valid = draw.uniform(0.1, 1, (h, w)).astype(np.float32)
    patches = draw.normal(size=(2, h, w, WIDTH)).astype(np.float32)
    mean = (patches * valid[None, :, :, None]).sum((1, 2)) / valid.sum()
    return Content(patches, draw.normal(size=(2, WIDTH)).astype(np.float32), mean, valid)


def _foreground(sample: Sample) -> np.ndarray:
    seed = int(hashlib.sha256(sample.id.encode()).hexdigest()[:8], 16)
    return np.random.default_rng(seed).random(_grid(sample)).astype(np.float32)


def _sample(n: int) -> Sample:
    h, w = GRIDS[n % len(GRIDS)]
    return Sample(
        id=f"s{n:02d}",
        image=f"images/{n}.png",
        mask=None if n % 5 == 4 else f"masks/{n}.png",
        split=("train", "val", "test")[n % 3],
        domain="ab"[n % 2],
        volume="v",
        z=None if n == 7 else n,
        height=16 * h,
        width=16 * w,
        pixel_size_nm=None,
        image_sha256=hashlib.sha256(str(n).encode()).hexdigest(),
        mask_sha256=None if n % 5 == 4 else "ef" * 32,
    )


DATASET = Dataset("made-up", Path("nowhere"), tuple(_sample(n) for n in range(22)))


def _fill(store: EmbeddingStore, samples: tuple[Sample, ...]) -> None:
    known = {s.image_sha256: s for s in samples}
    for grid in sorted({_grid(s) for s in samples}):
        images = [s.image_sha256 for s in samples if _grid(s) == grid]
        for writer in filter(None, store.claim(store.allocate(grid, images))):
            for image in writer.shard.images:
                writer.add(*_content(known[image]))
            writer.publish()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """A store whose rows are in another order than the dataset's samples."""
    store = EmbeddingStore.ensure(tmp_path_factory.mktemp("s"), IDENTITY, label="made-up model", width=WIDTH)
    _fill(store, DATASET.samples[10:])
    _fill(store, DATASET.samples[::-1])
    write_table(store, DATASET, _foreground)
    return store


@pytest.fixture
def view(filled: EmbeddingStore) -> Embeddings:
    return Embeddings(filled, DATASET)


def _pooled(sample: Sample, pool: str, layer: int) -> list[float]:
    """Pool one image, patch by patch and channel by channel."""
    content, (h, w) = _content(sample), _grid(sample)
    mean = [0.0] * WIDTH
    for y in range(h):
        for x in range(w):
            for d in range(WIDTH):
                mean[d] += float(content.patches[layer, y, x, d]) * float(content.valid[y, x])
    mean = [value / float(content.valid.sum()) for value in mean]
    cls = [float(value) for value in content.cls[layer]]
    return {"mean": mean, "cls": cls, "mean+cls": mean + cls}[pool]


def test_rows_follow_the_samples_not_the_store(view: Embeddings) -> None:
    rows = [view.store.rows()[s.image_sha256] for s in DATASET.samples]
    assert [r.row for r in rows if r.grid == (2, 3)] != sorted(r.row for r in rows if r.grid == (2, 3))
    assert view.samples == DATASET.samples
    assert len(view) == len(DATASET)
    for i, sample in enumerate(DATASET.samples):
        content = _content(sample)
        assert view.grid(i) == _grid(sample)
        np.testing.assert_array_equal(view.patches(i), content.patches)
        np.testing.assert_array_equal(view.valid(i), content.valid)


def test_facts_of_the_model_are_at_hand(view: Embeddings) -> None:
    assert (view.layers, view.width, view.patch, view.input_size) == (LAYERS, WIDTH, 16, "native")
    assert (view.label, view.key) == ("made-up model", IDENTITY.key)


@pytest.mark.parametrize("names", [("train",), ("test",), ("test", "train"), ("gap",)])
def test_a_split_is_its_samples_in_their_order(view: Embeddings, names: tuple[str, ...]) -> None:
    part = view.split(*names)
    expected = [s for s in DATASET.samples if s.split in names]
    assert list(part.samples) == expected
    for found, sample in zip(part.iter_patches(), expected, strict=True):
        np.testing.assert_array_equal(found, _content(sample).patches)


def test_conditions_combine(view: Embeddings) -> None:
    part = view.split("train", "val").where(lambda s: s.domain == "b").where(lambda s: s.mask is not None)
    expected = [n for n in range(22) if n % 3 != 2 and n % 2 == 1 and n % 5 != 4]
    assert [s.id for s in part.samples] == [f"s{n:02d}" for n in expected]
    for i, n in enumerate(expected):
        np.testing.assert_array_equal(part.foreground(i), _foreground(_sample(n)))
        np.testing.assert_array_equal(part.valid(i), _content(_sample(n)).valid)


@pytest.mark.parametrize("layers", [None, (4,), (1,), (1, 4), (4, 1)])
def test_layers_come_as_asked(view: Embeddings, layers: tuple[int, ...] | None) -> None:
    positions = [LAYERS.index(layer) for layer in layers or LAYERS]
    indices = [9, 0, 21, 0]
    found = list(view.iter_patches(indices, layers))
    assert len(found) == len(indices)
    for i, patches in zip(indices, found, strict=True):
        np.testing.assert_array_equal(patches, _content(DATASET.samples[i]).patches[positions])
        np.testing.assert_array_equal(patches, view.patches(i, layers))


def test_a_layer_that_is_not_stored_is_named(view: Embeddings) -> None:
    with pytest.raises(UsageError, match=r"got 0.*4, 1"):
        view.patches(0, [4, 0])
    with pytest.raises(UsageError, match="got 9"):
        list(view.iter_patches(layers=[9]))


@pytest.mark.parametrize("pool", ["mean", "cls", "mean+cls"])
@pytest.mark.parametrize("layer", [0, 1, -1, -2])
def test_image_embeddings_are_pooled_one_by_one(view: Embeddings, pool: str, layer: int) -> None:
    found = view.image_embeddings(pool, layer)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [_pooled(s, pool, layer) for s in DATASET.samples], atol=1e-5)
    part = view.split("test").image_embeddings(pool, layer)
    np.testing.assert_array_equal(part, found[[s.split == "test" for s in DATASET.samples]])


def test_the_mean_of_the_last_layer_is_the_default(view: Embeddings) -> None:
    np.testing.assert_array_equal(view.image_embeddings(), view.image_embeddings("mean", 1))


def test_pooling_that_does_not_exist_is_refused(view: Embeddings) -> None:
    with pytest.raises(UsageError, match="max"):
        view.image_embeddings("max")
    for layer in (2, -3):
        with pytest.raises(UsageError, match=f"got {layer}"):
            view.image_embeddings("mean", layer)


def test_foreground_is_of_the_sample_and_absent_without_a_mask(view: Embeddings) -> None:
    for i, sample in enumerate(DATASET.samples):
        if sample.mask is None:
            with pytest.raises(MissingError, match=sample.id):
                view.foreground(i)
        else:
            np.testing.assert_array_equal(view.foreground(i), _foreground(sample))


def test_datasets_of_equal_content_have_a_foreground_of_their_own_order(filled: EmbeddingStore) -> None:
    turned = replace(DATASET, samples=DATASET.samples[::-1])
    assert turned.digest == DATASET.digest
    write_table(filled, turned, _foreground)
    view = Embeddings(filled, turned)
    assert view.samples[0].mask is not None
    np.testing.assert_array_equal(view.foreground(0), _foreground(DATASET.samples[-1]))


def test_a_stranger_finds_each_sample_through_the_table(filled: EmbeddingStore) -> None:
    group = zarr.open(filled.folder, mode="r")
    tables = [t for _, t in group["datasets"].groups() if t["id"][0] == "s00"]
    (table,) = tables
    assert table.attrs["digest"] == DATASET.digest
    assert list(table["id"][:]) == [s.id for s in DATASET.samples]
    assert list(table["split"][:]) == [s.split for s in DATASET.samples]
    assert list(table["z"][:]) == [-1 if s.z is None else s.z for s in DATASET.samples]
    for sample, grid, row in zip(DATASET.samples, table["grid"][:], table["row"][:], strict=True):
        arrays = group[f"grids/{grid}"]
        assert arrays["image"][int(row)] == sample.image_sha256
        np.testing.assert_array_equal(arrays["patches"][int(row)], _content(sample).patches)
    for grid, foreground in table["foreground"].groups():
        for n, fraction in zip(foreground["sample"][:], foreground["fraction"][:], strict=True):
            assert "{}x{}".format(*_grid(DATASET.samples[int(n)])) == grid
            np.testing.assert_array_equal(fraction, _foreground(DATASET.samples[int(n)]))


def test_a_table_is_written_once(filled: EmbeddingStore) -> None:
    def never(_: Sample) -> np.ndarray:
        raise AssertionError

    write_table(filled, DATASET, never)


def test_a_failing_foreground_leaves_no_table(tmp_path: Path) -> None:
    store = EmbeddingStore.ensure(tmp_path, IDENTITY, label="made-up model", width=WIDTH)
    _fill(store, DATASET.samples)

    def full(sample: Sample) -> np.ndarray:
        if sample.id == "s05":
            raise UsageError("something is wrong with this mask")
        return _foreground(sample)

    with pytest.raises(UsageError, match="this mask"):
        write_table(store, DATASET, full)
    with pytest.raises(MissingError, match="no sample table"):
        Embeddings(store, DATASET).foreground(0)
    assert [p.name for p in (store.folder / "datasets").iterdir()] == ["zarr.json"]
    write_table(store, DATASET, _foreground)
    np.testing.assert_array_equal(Embeddings(store, DATASET).foreground(0), _foreground(_sample(0)))


def test_a_sample_that_is_not_in_the_store_is_named(filled: EmbeddingStore) -> None:
    more = replace(DATASET, samples=(*DATASET.samples, _sample(22), _sample(23)))
    with pytest.raises(MissingError, match=r"2 images of made-up .* the first is s22"):
        Embeddings(filled, more)


@pytest.mark.parametrize("name", ["cls", "mean", "valid"])
def test_a_column_that_is_gone_is_damage_not_nan(tmp_path: Path, name: str) -> None:
    store = EmbeddingStore.ensure(tmp_path, IDENTITY, label="made-up model", width=WIDTH)
    _fill(store, DATASET.samples)
    for path in (store.folder / "grids/3x2" / name / "c").rglob("*"):
        if path.is_file():
            path.unlink()
    view = Embeddings(store, DATASET)
    with pytest.raises(CorruptError, match="not there"):
        view.valid(1) if name == "valid" else view.image_embeddings(name)
