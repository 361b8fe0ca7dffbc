"""Embeddings as one file for other tools: NumPy (``.npz``), Parquet (``.parquet``) or AnnData (``.h5ad``).

One row an image, or with ``patches`` one row a patch; every row carries what the dataset says of its sample.
Patches are read and written sample by sample, large images band by band, so a file may be far larger than
memory. Values are those of the store: image embeddings float32, patches in the stored type in ``.npz`` and
widened to float32 (which changes no value) in the other two, because few readers of those know float16.

- ``npz``: `embedding` ``(n, D)`` and one array a column, text as fixed-width Unicode, so that nothing needs
  pickling; for patches `sample` ``(n,)`` is the position of a patch's sample in the columns of the samples.
- ``parquet``: `embedding` is one column of fixed-size lists, which a reader takes as a whole
  (``np.stack(frame["embedding"])`` in pandas, an ``Array`` in polars) where a column a dimension would make
  hundreds; provenance is JSON under ``emvfm`` in the schema's metadata.
- ``anndata``: `X`, with the sample's columns in `obs`, `mean` and `cls` of the same layer in `obsm`
  (images only), and provenance in ``uns["emvfm"]``.

pyarrow and anndata come with ``pip install 'emvfm[export]'``.
"""

from __future__ import annotations

import json
import os
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from emvfm import __version__
from emvfm.errors import MissingError, UsageError
from emvfm.store.view import Embeddings, Pool

__all__ = ["Exported", "Format", "choose_format", "export"]

Format = Literal["npz", "parquet", "anndata"]

_SUFFIXES: dict[str, Format] = {".npz": "npz", ".parquet": "parquet", ".h5ad": "anndata"}
_BLOCK_BYTES = 32 * 2**20  # patches in memory at a time, as float32; also a row group of Parquet
_CHUNK_ROWS = (
    32  # a band of a large image ends where a chunk of the store may end, so that none is read twice
)


@dataclass(frozen=True)
class Exported:
    """What was written: `rows` are images or patches, `width` is the length of a row's embedding."""

    path: Path
    format: Format
    rows: int
    width: int
    bytes: int


def choose_format(target: Path, wanted: str | None = None) -> Format:
    """Return the format asked for, or the one that the target's suffix means.

    Raises
    ------
    UsageError
        Not a format, or no format asked for and none meant by the suffix.
    """
    known = get_args(Format)
    if wanted is not None:
        if wanted not in known:
            raise UsageError("not a format", got=wanted, expected=", ".join(known))
        return wanted  # type: ignore[return-value]
    if target.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            "the file's suffix says no format",
            where=target,
            expected=", ".join(_SUFFIXES),
            todo="or name one with --format",
        )
    return _SUFFIXES[target.suffix.lower()]


# ------------------------------------------------------------------ what is written


def _provenance(view: Embeddings, layer: int, pool: str | None) -> dict[str, Any]:
    return {
        "emvfm": __version__,
        "key": view.key,
        "label": view.label,
        "layers": list(view.layers),
        "layer": view.layers[layer],
        "pool": pool,
        "dataset": view.dataset.name,
        "dataset_digest": view.dataset.digest,
        "identity": view.store.identity.to_json(),
    }


def _sample_columns(view: Embeddings) -> dict[str, list[Any]]:
    """Return what the dataset says of each sample, None where it says nothing."""
    columns: dict[str, list[Any]] = {
        name: [getattr(sample, name) for sample in view.samples]
        for name in ("id", "split", "domain", "volume", "z", "height", "width", "pixel_size_nm")
    }
    grids = [view.grid(i) for i in range(len(view))]
    columns["grid_rows"], columns["grid_columns"] = [g[0] for g in grids], [g[1] for g in grids]
    columns["image_sha256"] = [sample.image_sha256 for sample in view.samples]
    columns["mask_sha256"] = [sample.mask_sha256 for sample in view.samples]
    return columns


_TEXT = ("id", "split", "domain", "volume", "image_sha256", "mask_sha256")


def _as_array(name: str, values: list[Any]) -> np.ndarray:
    """Return a column as an array without objects: nothing known is "", NaN, or -1 for `z`."""
    if name in _TEXT:
        return np.array([value or "" for value in values], dtype=np.str_)
    if name == "pixel_size_nm":
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array([-1 if value is None else value for value in values], np.int64)


@dataclass(frozen=True)
class _Piece:
    """Rows `top` to `bottom` of the patch grid of sample `i`: what is in memory at a time."""

    i: int
    top: int
    bottom: int
    columns: int

    def __len__(self) -> int:
        return (self.bottom - self.top) * self.columns


def _pieces(view: Embeddings) -> list[_Piece]:
    """Cut the samples into bands of at most 32 MiB in float32, on the edges of the store's chunks."""
    found = []
    for i in range(len(view)):
        h, w = view.grid(i)
        rows = max(1, _BLOCK_BYTES // (w * view.width * 4) // _CHUNK_ROWS) * _CHUNK_ROWS
        found += [_Piece(i, top, min(top + rows, h), w) for top in range(0, h, rows)]
    return found


def _tokens(view: Embeddings, piece: _Piece, layer: int) -> np.ndarray:
    """Return ``(n, D)`` in the stored type."""
    wanted = [view.layers[layer]]
    if (piece.top, piece.bottom) == (0, view.grid(piece.i)[0]):
        tokens = view.patches(piece.i, wanted)
    else:
        window = (slice(piece.top, piece.bottom), slice(0, piece.columns))
        tokens = view.patches(piece.i, wanted, window)
    return tokens[0].reshape(-1, view.width)


def _places(piece: _Piece) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.indices((piece.bottom - piece.top, piece.columns), dtype=np.int32)
    return y.ravel() + np.int32(piece.top), x.ravel()


def _facts(view: Embeddings, piece: _Piece) -> dict[str, np.ndarray]:
    """Return four columns ``(n,)`` of the patches: y and x int32, valid and foreground float32 in [0, 1].

    `foreground` is NaN where the sample has no mask.
    """
    y, x = _places(piece)
    valid = view.valid(piece.i)[piece.top : piece.bottom].ravel()
    if view.samples[piece.i].mask is None:
        foreground = np.full(len(piece), np.nan, np.float32)
    else:
        foreground = np.asarray(view.foreground(piece.i)[piece.top : piece.bottom], np.float32).ravel()
    return {"y": y, "x": x, "valid": valid, "foreground": foreground}


@contextmanager
def _new_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `target`, flushed to disk, if the block ends without an error."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _needs(name: str) -> Any:
    """Import and return an optional package, or say in one line how to get it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingError(f"{name} is not installed", todo="pip install 'emvfm[export]'") from None


# ------------------------------------------------------------------ NumPy


def _write_npz(path: Path, view: Embeddings, layer: int, pool: Pool | None) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:

        def stream(
            name: str, shape: tuple[int, ...], dtype: np.dtype | type, parts: Iterable[np.ndarray]
        ) -> None:
            """Write one member of a known shape, part after part along its first axis."""
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
                "fortran_order": False,
                "shape": shape,
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for part in parts:
                    assert part.dtype == dtype
                    member.write(np.ascontiguousarray(part).data.cast("B"))

        def whole(name: str, values: np.ndarray) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values, allow_pickle=False)

        if pool is None:
            pieces = _pieces(view)
            n = sum(map(len, pieces))
            stored = np.dtype(view.store.identity.dtype)
            stream("embedding", (n, view.width), stored, (_tokens(view, p, layer) for p in pieces))
            stream("sample", (n,), np.int64, (np.full(len(p), p.i, np.int64) for p in pieces))
            for name in ("y", "x", "valid", "foreground"):
                dtype = np.int32 if name in "yx" else np.float32
                stream(name, (n,), dtype, (_facts(view, p)[name] for p in pieces))
        else:
            whole("embedding", view.image_embeddings(pool, layer))
        for name, values in _sample_columns(view).items():
            whole(name, _as_array(name, values))
        whole("provenance", np.array(json.dumps(_provenance(view, layer, pool))))


# ------------------------------------------------------------------ Parquet


def _write_parquet(path: Path, view: Embeddings, layer: int, pool: Pool | None) -> None:
    pa, pq = _needs("pyarrow"), _needs("pyarrow.parquet")
    columns = _sample_columns(view)
    types = {name: pa.string() if name in _TEXT else pa.int64() for name in columns}
    types["pixel_size_nm"] = pa.float64()

    def vectors(values: np.ndarray) -> Any:
        flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])

    def schema(fields: dict[str, Any], width: int) -> Any:
        listed = [*fields.items(), ("embedding", pa.list_(pa.float32(), width))]
        return pa.schema(listed, metadata={"emvfm": json.dumps(_provenance(view, layer, pool))})

    if pool is not None:
        embedding = view.image_embeddings(pool, layer)
        arrays = [pa.array(values, types[name]) for name, values in columns.items()]
        wanted = schema(types, embedding.shape[1])
        pq.write_table(pa.Table.from_arrays([*arrays, vectors(embedding)], schema=wanted), path)
        return

    kept = ("id", "split", "domain", "volume", "z")
    fields = {name: types[name] for name in kept}
    fields |= {"y": pa.int32(), "x": pa.int32(), "valid": pa.float32(), "foreground": pa.float32()}
    wanted = schema(fields, view.width)
    with pq.ParquetWriter(path, wanted) as writer:
        waiting: list[Any] = []

        def flush() -> None:
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting), row_group_size=most)
                waiting.clear()

        most = max(1, _BLOCK_BYTES // (view.width * 4))  # rows of a row group
        for piece in _pieces(view):
            if sum(map(len, waiting)) + len(piece) > most:
                flush()
            facts = _facts(view, piece)
            told = [pa.repeat(pa.scalar(columns[name][piece.i], types[name]), len(piece)) for name in kept]
            # Parquet knows "not there", which NaN is not.
            foreground = pa.array(facts["foreground"], mask=np.isnan(facts["foreground"]))
            places = [pa.array(facts["y"]), pa.array(facts["x"]), pa.array(facts["valid"]), foreground]
            vector = vectors(_tokens(view, piece, layer))
            waiting.append(pa.record_batch([*told, *places, vector], schema=wanted))
        flush()


# ------------------------------------------------------------------ AnnData


def _uns(view: Embeddings, layer: int, pool: str | None) -> dict[str, Any]:
    facts = _provenance(view, layer, pool)
    return {
        "emvfm": {
            **facts,
            "pool": pool or "none",
            "layers": np.array(facts["layers"]),
            "identity": json.dumps(facts["identity"]),
        }
    }


def _names(view: Embeddings, pool: str | None) -> list[str]:
    parts = ["patch"] if pool is None else pool.split("+")
    return [f"{part}_{d}" for part in parts for d in range(view.width)]


def _write_anndata(path: Path, view: Embeddings, layer: int, pool: Pool | None) -> None:
    anndata = _needs("anndata")
    import pandas as pd

    columns = _sample_columns(view)
    if pool is None:
        _write_anndata_patches(path, view, layer, columns)
        return
    ids = columns.pop("id")
    frame = {}
    for name, values in columns.items():
        frame[name] = pd.array(values, dtype="Int64") if name == "z" else _as_array(name, values)
        if name in ("split", "domain", "volume"):
            frame[name] = pd.Categorical(frame[name])
    anndata.AnnData(
        X=view.image_embeddings(pool, layer),
        obs=pd.DataFrame(frame, index=pd.Index(ids, dtype=object)),
        var=pd.DataFrame(index=pd.Index(_names(view, pool), dtype=object)),
        obsm={name: view.image_embeddings(name, layer) for name in ("mean", "cls")},  # type: ignore[arg-type]
        uns=_uns(view, layer, pool),
    ).write_h5ad(path)


def _write_anndata_patches(path: Path, view: Embeddings, layer: int, columns: dict[str, list[Any]]) -> None:
    """Write AnnData's file format (encoding 0.1.0) piece by piece: the library itself wants all in memory."""
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    pieces = _pieces(view)
    n, text = sum(map(len, pieces)), h5py.string_dtype()

    def marked(item: Any, kind: str, version: str) -> Any:
        item.attrs["encoding-type"], item.attrs["encoding-version"] = kind, version
        return item

    def column(group: Any, name: str, dtype: Any, *more: int) -> Any:
        rows = min(n, max(1, 2**18 // int(np.prod(more))))  # a chunk of about 1 MiB
        made = group.create_dataset(name, (n, *more), dtype, chunks=(rows, *more))
        return marked(made, "string-array" if dtype is text else "array", "0.2.0")

    with h5py.File(path, "w") as file:
        marked(file, "anndata", "0.1.0")
        write_elem(file, "var", pd.DataFrame(index=pd.Index(_names(view, None), dtype=object)))
        write_elem(file, "uns", _uns(view, layer, None))
        for name in ("obsm", "varm", "obsp", "varp", "layers"):
            write_elem(file, name, {})
        obs = marked(file.create_group("obs"), "dataframe", "0.2.0")
        of_sample: dict[str, tuple[Any, np.ndarray]] = {}
        for name in ("id", "split", "domain", "volume"):  # categories: each text occurs once a patch
            labels, codes = np.unique(_as_array(name, columns[name]), return_inverse=True)
            group = marked(obs.create_group(name), "categorical", "0.2.0")
            group.attrs["ordered"] = False
            write_elem(group, "categories", labels.astype(object))
            of_sample[name] = column(group, "codes", np.int32), codes
        of_sample["z"] = column(obs, "z", np.int64), _as_array("z", columns["z"])
        of_patch = {
            name: column(obs, name, np.int32 if name in "yx" else np.float32)
            for name in ("y", "x", "valid", "foreground")
        }
        index, vectors = column(obs, "_index", text), column(file, "X", np.float32, view.width)
        obs.attrs["_index"], obs.attrs["column-order"] = "_index", [*of_sample, *of_patch]
        start = 0
        for piece in pieces:
            rows, facts, name = slice(start, start + len(piece)), _facts(view, piece), columns["id"][piece.i]
            for array, values in of_sample.values():
                array[rows] = values[piece.i]
            for fact, array in of_patch.items():
                array[rows] = facts[fact]
            index[rows] = [f"{name}/{y}/{x}" for y, x in zip(facts["y"], facts["x"], strict=True)]
            vectors[rows] = _tokens(view, piece, layer).astype(np.float32)
            start = rows.stop


# ------------------------------------------------------------------ the whole


def export(
    embeddings: Embeddings,
    target: Path,
    format: Format | None = None,  # noqa: A002 - the word users know
    *,
    layer: int = -1,
    pool: Pool = "mean",
    patches: bool = False,
) -> Exported:
    """Write embeddings into one new file; see the module for what each format holds.

    Parameters
    ----------
    format
        Without it, what the suffix of `target` means.
    layer
        Position among the stored layers; -1 is the last.
    pool
        What makes a vector of an image; patches have no use for it.
    patches
        One row a patch, ``(sum of h w, D)``, instead of one row an image, ``(N, D)`` or ``(N, 2 D)``.

    Raises
    ------
    UsageError
        `target` exists, its folder does not, or no such format, layer or way of pooling.
    MissingError
        The package for the format is not installed, or masks were never embedded beside the patches.
    CorruptError
        The store is damaged; nothing is left at `target`.
    """
    kind = choose_format(target, format)
    if target.exists() or target.is_symlink():
        raise UsageError("already exists", where=target, todo="choose another name or remove it")
    if not target.parent.is_dir():
        raise UsageError("no such folder", where=target.parent)
    if not len(embeddings):
        raise UsageError("no images to export", where=embeddings.dataset.name)
    if not -len(embeddings.layers) <= layer < len(embeddings.layers):
        raise UsageError("no such layer position", got=layer, expected=f"below {len(embeddings.layers)}")
    write = {"npz": _write_npz, "parquet": _write_parquet, "anndata": _write_anndata}[kind]
    with _new_file(target) as temporary:
        write(temporary, embeddings, layer, None if patches else pool)
    count = sum(map(len, _pieces(embeddings))) if patches else len(embeddings)
    width = embeddings.width * (2 if pool == "mean+cls" and not patches else 1)
    return Exported(target, kind, count, width, target.stat().st_size)
