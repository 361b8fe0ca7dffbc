"""What analyses read: the embeddings of a dataset's samples, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from emvfm.datasets.manifest import Dataset, Sample
from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.provenance import digest
from emvfm.store.layout import Grid, grid_name
from emvfm.store.reading import Window
from emvfm.store.records import REMEDY, checksums, write_record
from emvfm.store.store import EmbeddingStore, Row
from emvfm.workspace import atomic_folder

__all__ = ["Embeddings", "Pool", "image_key", "table_record", "write_table"]

_CHECKED = (Crc32cCodec(),)

Pool = Literal["mean", "cls", "mean+cls"]


def table_record(store: EmbeddingStore, name: str) -> Path:
    """Return where the checksums of a sample table's files are."""
    return store.folder / "manifest" / ".tables" / f"{name}.checksums"


def image_key(sample: Sample, input_size: str, source: Mapping[str, Any] | None = None) -> str:
    """Return the name of a sample's image in a store: its SHA-256, and its pixel size where that decides.

    Parameters
    ----------
    input_size
        Of the store's preprocessing; a physical one ends with ``nm``.
    source
        Of the store's preprocessing, where the numbers follow from something else than the image: ``reads`` is
        ``mask``, ``facts`` (and ``columns`` which) or ``cells``, of which the store names the table.
    """
    reads = "image" if source is None else source["reads"]
    if reads == "mask":
        return f"mask {sample.mask_sha256}@{sample.pixel_size_nm!r}nm"
    if reads == "cells":
        return f"cells {digest([sample.id, sample.height, sample.width, sample.pixel_size_nm])}"
    if reads == "facts":
        known = {"split": sample.split, "domain": sample.domain, "volume": sample.volume, **sample.facts}
        return f"facts {digest([known.get(column, '') for column in source['columns']])}"  # type: ignore[index]
    if input_size.endswith("nm"):
        return f"{sample.image_sha256}@{sample.pixel_size_nm!r}nm"
    return sample.image_sha256


def _table_path(store: EmbeddingStore, dataset: Dataset) -> Path:
    """Return where the table of `dataset` is: named by its rows in their order, which its columns follow.

    The dataset's own digest says nothing of names and order, so two datasets may share one.
    """
    rows = [
        (s.id, s.image_sha256, s.mask_sha256, s.split, s.domain, s.volume, s.z, s.pixel_size_nm)
        for s in dataset.samples
    ]
    return store.folder / "datasets" / digest(rows)[:16]


def write_table(store: EmbeddingStore, dataset: Dataset, foreground: Callable[[Sample], np.ndarray]) -> None:
    """Write the sample table of `dataset` into the store: rows, splits, and foreground per patch.

    Parameters
    ----------
    foreground
        Gives ``(h, w)`` float32 in [0, 1] for a sample with a mask.
    """
    path = _table_path(store, dataset)
    if (path / "zarr.json").is_file():
        return
    try:
        with atomic_folder(path, replace=path.exists(), scratch=store.scratch) as folder:
            facts, found = store.identity.preprocess, store.rows()
            input_size, source = str(facts["input_size"]), facts.get("source")
            rows = [found[image_key(sample, input_size, source)] for sample in dataset.samples]
            _fill_table(folder, rows, dataset, foreground)
            files = [file for file in folder.rglob("*") if file.is_file()]
            write_record(table_record(store, path.name), {"files": checksums(folder, files)})
    except UsageError:
        if not (path / "zarr.json").is_file():  # else another process wrote the same table meanwhile
            raise


def _fill_table(
    folder: Path, rows: Sequence[Row], dataset: Dataset, foreground: Callable[[Sample], np.ndarray]
) -> None:
    group = zarr.create_group(folder, attributes={"name": dataset.name, "digest": dataset.digest})
    columns: dict[str, list[str] | list[int]] = {
        "id": [s.id for s in dataset.samples],
        "split": [s.split for s in dataset.samples],
        "domain": [s.domain for s in dataset.samples],
        "volume": [s.volume for s in dataset.samples],
        "image": [s.image_sha256 for s in dataset.samples],
        "grid": [grid_name(row.grid) for row in rows],
        "z": [-1 if s.z is None else s.z for s in dataset.samples],
        "row": [row.row for row in rows],
    }
    for name, values in columns.items():
        text = isinstance(values[0], str)
        column = group.create_array(
            name, shape=(len(values),), dtype=str if text else "int64", dimension_names=("sample",),
            compressors=_CHECKED,
        )  # fmt: skip
        column[:] = np.array(values, dtype=object if text else np.int64)
    for grid in sorted({row.grid for row in rows}):
        members = [i for i, s in enumerate(dataset.samples) if rows[i].grid == grid and s.mask is not None]
        if not members:
            continue
        inner = group.create_group(f"foreground/{grid_name(grid)}")
        fractions = np.stack([foreground(dataset.samples[i]) for i in members]).astype(np.float32)
        array = inner.create_array(
            "fraction", shape=fractions.shape, chunks=fractions.shape, dtype="float32", fill_value=np.nan,
            dimension_names=("sample", "y", "x"), compressors=_CHECKED,
        )  # fmt: skip
        array[:] = fractions
        index = inner.create_array(
            "sample", shape=(len(members),), dtype="int64", dimension_names=("sample",), compressors=_CHECKED
        )
        index[:] = np.array(members)


class Embeddings:
    """The embeddings of some samples of a dataset; reads lazily, never computes.

    Attributes
    ----------
    samples
        Rows of the dataset's manifest, in its order.
    layers
        Block indices that are stored, in their order.
    width, patch
        Length D of a token, and side of a patch in pixels of the model's input.
    label, key
        Honest name of what made the embeddings, and the store's key.
    """

    def __init__(
        self, store: EmbeddingStore, dataset: Dataset, samples: Sequence[Sample] | None = None
    ) -> None:
        self.store, self.dataset = store, dataset
        self.samples: tuple[Sample, ...] = tuple(dataset.samples if samples is None else samples)
        self.layers = store.identity.layers
        self.width, self.label, self.key = store.width, store.label, store.identity.key
        self.patch = int(store.identity.preprocess["patch"])
        self.input_size = str(store.identity.preprocess["input_size"])
        rows = store.rows()
        source = store.identity.preprocess.get("source")
        keys = [image_key(s, self.input_size, source) for s in self.samples]
        absent = [s.id for s, key in zip(self.samples, keys, strict=True) if key not in rows]
        if absent:
            raise MissingError(
                f"{len(absent)} images of {dataset.name} are not in the store, the first is {absent[0]}",
                where=store.folder,
                todo="run `emvfm embed` for them",
            )
        self._rows: list[Row] = [rows[key] for key in keys]
        self._foreground: dict[str, np.ndarray] | None = None
        self._columns: dict[tuple[str, Grid], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def where(self, keep: Callable[[Sample], bool]) -> Embeddings:
        """Return the samples that `keep` accepts, in the same order."""
        return Embeddings(self.store, self.dataset, [s for s in self.samples if keep(s)])

    def split(self, *names: str) -> Embeddings:
        """Return the samples of the named splits."""
        return self.where(lambda sample: sample.split in names)

    def grid(self, i: int) -> Grid:
        """Return the rows and columns of patches of sample `i`."""
        return self._rows[i].grid

    def _positions(self, layers: Sequence[int] | None) -> tuple[int, ...]:
        if layers is None:
            return tuple(range(len(self.layers)))
        missing = [layer for layer in layers if layer not in self.layers]
        if missing:
            raise UsageError(
                "layer is not in the store", got=missing[0], expected=", ".join(map(str, self.layers))
            )
        return tuple(self.layers.index(layer) for layer in layers)

    def patches(
        self, i: int, layers: Sequence[int] | None = None, window: Window | None = None
    ) -> np.ndarray:
        """Return ``(L, h, w, D)`` patch tokens of sample `i` in the stored type.

        Parameters
        ----------
        layers
            Block indices; all that are stored without it.
        window
            Rows and columns of patches as slices; of a large image only these are read.
        """
        return self.store.read_patches(self._rows[i], self._positions(layers), window)

    def iter_patches(
        self, indices: Sequence[int] | None = None, layers: Sequence[int] | None = None
    ) -> Iterator[np.ndarray]:
        """Yield `patches` of each sample (or of `indices`), one in memory at a time."""
        rows = self._rows if indices is None else [self._rows[i] for i in indices]
        yield from self.store.iter_patches(rows, self._positions(layers))

    def _column(self, name: str, i: int) -> np.ndarray:
        row = self._rows[i]
        if (name, row.grid) not in self._columns:
            self._columns[name, row.grid] = self.store.read_column(name, row.grid)
        values = self._columns[name, row.grid][row.row]
        if np.isnan(values).any():
            where = self.store.folder / "grids" / grid_name(row.grid) / name
            raise CorruptError(
                f"damaged store: row {row.row} is not there",
                where=where,
                todo=REMEDY,
            )
        return values

    def valid(self, i: int) -> NDArray[np.float32]:
        """Return ``(h, w)`` float32 in [0, 1]: the fraction of each patch that is image, not padding."""
        return self._column("valid", i)

    def foreground(self, i: int) -> NDArray[np.float32]:
        """Return ``(h, w)`` float32 in [0, 1]: the foreground fraction of each patch of sample `i`.

        Raises
        ------
        MissingError
            The sample has no mask.
        """
        if self._foreground is None:
            self._foreground = self._read_foreground()
        if self.samples[i].id not in self._foreground:
            raise MissingError("no mask for this sample", where=self.samples[i].id)
        return self._foreground[self.samples[i].id]

    def _read_foreground(self) -> dict[str, np.ndarray]:
        path = _table_path(self.store, self.dataset)
        try:
            found = self._foreground_of(zarr.open_group(path, mode="r"))
        except FileNotFoundError:
            raise MissingError("no sample table", where=path, todo="run `emvfm embed` again") from None
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise CorruptError("damaged sample table", where=path, got=error, todo=REMEDY) from None
        if any(np.isnan(values).any() for values in found.values()):
            raise CorruptError("damaged sample table: a part is not there", where=path, todo=REMEDY)
        return found

    def _foreground_of(self, group: Any) -> dict[str, np.ndarray]:
        found = {}
        ids = [s.id for s in self.dataset.samples]
        for grid in sorted({grid_name(row.grid) for row in self._rows}):
            if f"foreground/{grid}" not in group:
                continue
            fractions = np.asarray(group[f"foreground/{grid}/fraction"][:])
            for i, values in zip(group[f"foreground/{grid}/sample"][:], fractions, strict=True):
                found[ids[int(i)]] = values
        return found

    def image_embeddings(self, pool: Pool = "mean", layer: int = -1) -> NDArray[np.float32]:
        """Return ``(N, D)`` float32, or ``(N, 2 D)`` for ``mean+cls``: one vector an image.

        Parameters
        ----------
        pool
            ``mean`` of the patches without padding, the ``cls`` token, or both side by side.
        layer
            Position in `layers`; -1 is the last.
        """
        names = {"mean": ("mean",), "cls": ("cls",), "mean+cls": ("mean", "cls")}
        if pool not in names:
            raise UsageError("not a way of pooling", got=pool, expected="mean, cls or mean+cls")
        if not -len(self.layers) <= layer < len(self.layers):
            raise UsageError("no such layer position", got=layer, expected=f"below {len(self.layers)}")
        vectors = np.empty((len(self), len(names[pool]) * self.width), np.float32)
        for i, vector in enumerate(vectors):
            np.concatenate([self._column(name, i)[layer] for name in names[pool]], out=vector)
        return vectors
