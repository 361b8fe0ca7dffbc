"""Zarr and N5 folders: their metadata, read here and checked, and their arrays, opened by the libraries.

The metadata decide what the libraries do: which codec runs, how much is allocated. So they are read first,
and only numbers in bounded chunks through known codecs get further.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from emvfm.datasets.scales import UNKNOWN, Spacing, ome_scale, spacing_of_attributes
from emvfm.datasets.volume_layout import MAX_CHUNK, Volume, check_declared, choose, make_volume, need
from emvfm.datasets.zarr_store import encoding, guarded_store
from emvfm.errors import CorruptError, MissingError

__all__ = ["n5_volume", "zarr_volume"]

#: Largest metadata file in bytes, deepest group and most folders that are looked at.
_MAX_METADATA, _MAX_DEPTH, _MAX_FOLDERS = 2**26, 6, 2000

#: Codecs of numbers. Others exist that run code from the file (numcodecs' pickle) or make objects.
_CODECS = {
    *("blosc", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset", "fletcher32", "gzip", "lz4", "lzma"),
    *("adler32", "bytes", "packbits", "quantize", "bitround", "shuffle", "transpose", "zlib", "zstd", "zfpy"),
    *("sharding_indexed", "astype"),
}
_N5_TYPES = {f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)} | {"float32", "float64"}


def _metadata(path: Path) -> dict[str, Any]:
    """Read a metadata file; empty where there is none."""
    if not path.is_file():
        return {}
    size = path.stat().st_size
    if size > _MAX_METADATA:
        raise CorruptError("metadata too large", where=path, got=f"{size} bytes")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptError("damaged metadata", where=path, got=error) from None
    if not isinstance(found, dict):
        raise CorruptError("damaged metadata", where=path, got=type(found).__name__, expected="an object")
    return found


def _node(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the array metadata (empty for a group) and the attributes of a Zarr folder."""
    if (folder / "zarr.json").is_file():
        node = _metadata(folder / "zarr.json")
        attributes = node.get("attributes", {})
        return (node if node.get("node_type") == "array" else {}), (
            attributes if isinstance(attributes, dict) else {}
        )
    return _metadata(folder / ".zarray"), _metadata(folder / ".zattrs")


def _n5_node(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    attributes = _metadata(folder / "attributes.json")
    return (attributes if "dimensions" in attributes else {}), attributes


def _inside(root: Path, inner: str) -> Path:
    """Return the folder of a name, which must lie in the root even where a symbolic link says otherwise."""
    folder = root / inner.strip("/")
    if not folder.is_dir():
        raise MissingError("no such array", where=f"{root}:{inner}")
    if not folder.resolve().is_relative_to(root.resolve()):
        raise CorruptError("a link out of the volume", where=f"{root}:{inner}", got=folder.resolve())
    return folder


def _multiscales(attributes: Mapping[str, Any], where: object) -> dict[str, Any] | None:
    """Return the OME-Zarr multiscales of a group (0.4, or 0.5 under ``ome``), None without."""
    ome = attributes.get("ome")
    listed = (ome if isinstance(ome, dict) else attributes).get("multiscales")
    if listed is None:
        return None
    if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], dict):
        raise CorruptError("unusable multiscales", where=where, expected="one image with its levels")
    return listed[0]


def _level_0(scales: Mapping[str, Any], where: object) -> str:
    """Return the name of the array in full resolution."""
    levels = scales.get("datasets")
    first = levels[0] if isinstance(levels, list) and levels else None
    name = first.get("path") if isinstance(first, dict) else None
    parts = str(name).split("/")
    if not isinstance(name, str) or not all(parts) or {".", ".."} & set(parts) or "\\" in name:
        raise CorruptError("unusable multiscales", where=where, got=f"level 0 at {name!r}")
    return name


def _ome_axes(scales: Mapping[str, Any], where: object) -> tuple[list[tuple[str, object]], list[Any]]:
    """Return the axes (name, unit) of an OME-Zarr image and the transformations of its level 0."""
    axes = scales.get("axes", [])
    named = [
        (str(axis.get("name")), axis.get("unit")) if isinstance(axis, dict) else (str(axis), None)
        for axis in (axes if isinstance(axes, list) else [])
    ]
    if not named:
        raise CorruptError("multiscales without axes", where=where, expected="OME-Zarr 0.4 or 0.5")
    level = scales["datasets"][0]
    return named, [level.get("coordinateTransformations"), scales.get("coordinateTransformations")]


def _found(root: Path, start: Path, node: Any) -> Iterator[str]:
    """Yield the names of arrays below `start`; of images in levels only the first level."""
    waiting = [(start, 0)]
    for seen, (folder, depth) in enumerate(waiting):
        if seen >= _MAX_FOLDERS:
            break
        array, attributes = node(folder)
        name = "/" + "/".join(folder.relative_to(root).parts)
        if array:
            shape = array.get("shape", array.get("dimensions"))
            if isinstance(shape, list) and len(shape) in (2, 3):
                yield name
            continue
        if (scales := _multiscales(attributes, folder)) is not None:
            yield f"{name.rstrip('/')}/{_level_0(scales, folder)}"
            continue
        children = sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())
        if any(p.name == "s0" for p in children):  # N5 levels by name
            children = [p for p in children if p.name == "s0"]
        if depth < _MAX_DEPTH:
            waiting += [(child, depth + 1) for child in children]


def _place(root: Path, inner: str | None, node: Any) -> tuple[str, Path, dict[str, Any], dict[str, Any]]:
    """Return name, folder, metadata and attributes of the array that is meant."""
    name = inner or "/"
    folder = _inside(root, name)
    array, attributes = node(folder)
    if not array:
        name = choose(root if inner is None else Path(f"{root}:{inner}"), _found(root, folder, node))
        folder = _inside(root, name)
        array, attributes = node(folder)
        if not array:
            raise CorruptError("level 0 is no array", where=f"{root}:{name}")
    return name, folder, array, attributes


def _image_of(root: Path, name: str, folder: Path, node: Any) -> dict[str, Any] | None:
    """Return the multiscales an array is level 0 of, looked for in the groups above it."""
    group, path = folder.parent, folder.name
    for _ in range(3):
        attributes = node(group)[1]
        scales = _multiscales(attributes, group)
        if scales is not None:
            return scales if _level_0(scales, group) == path else None
        if group.resolve() == root.resolve():
            break
        group, path = group.parent, f"{group.name}/{path}"
    return None


def _check_codecs(listed: object, where: str) -> list[Any]:
    """Refuse codecs that are not known to be of numbers; return the shapes that shards are cut into."""
    inner: list[Any] = []
    for codec in listed if isinstance(listed, list) else [listed]:
        if codec is None:
            continue
        given = codec if isinstance(codec, dict) else {"name": codec}
        name = given.get("name", given.get("id"))
        if str(name).removeprefix("numcodecs.") not in _CODECS:
            raise CorruptError("unknown codec", where=where, got=name, expected="one of numbers")
        settings = given.get("configuration")
        if name == "sharding_indexed" and isinstance(settings, dict):
            below = _check_codecs(settings.get("codecs"), where)
            _check_codecs(settings.get("index_codecs"), where)
            inner = below or [settings.get("chunk_shape")]
    return inner


def _zarr_chunks(array: Mapping[str, Any], where: str) -> object:
    """Return the shape of what is decoded at once, after a look at the codecs."""
    if array.get("zarr_format") == 2:
        _check_codecs([array.get("compressor"), *(array.get("filters") or [])], where)
        return array.get("chunks")
    if array.get("storage_transformers"):
        raise CorruptError("storage transformers are not read", where=where)
    inner = _check_codecs(array.get("codecs"), where)
    grid = array.get("chunk_grid")
    if not isinstance(grid, dict) or grid.get("name") != "regular":
        raise CorruptError("unusable chunk grid", where=where, got=grid, expected="regular")
    settings = grid.get("configuration")
    return inner[0] if inner else settings.get("chunk_shape") if isinstance(settings, dict) else None


def _parts(array: Mapping[str, Any], chunk: Any) -> int:
    """Return how many chunks a shard holds, 1 without shards."""
    grid = array.get("chunk_grid")
    shard = grid["configuration"]["chunk_shape"] if grid else chunk
    return math.prod(whole // part for whole, part in zip(shard, chunk, strict=True))


def _zarr_type(array: Mapping[str, Any], where: str) -> Any:
    import numpy as np

    given = array.get("dtype", array.get("data_type"))
    try:
        if not isinstance(given, str):
            raise TypeError
        return np.dtype(given)
    except (TypeError, ValueError):
        raise CorruptError("unusable type", where=where, got=given, expected="integers or floats") from None


def _named_axes(array: Mapping[str, Any], attributes: Mapping[str, Any]) -> str | None:
    """Return the axes by the names a plain Zarr array gives (v3, or xarray's), None if it gives no such."""
    names = array.get("dimension_names") or attributes.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list) or not all(
        isinstance(n, str) and n in ("t", "c", "z", "y", "x") for n in names
    ):
        return None
    return "".join(names)


def zarr_volume(root: Path, inner: str | None) -> Volume:
    """Return the volume of an array in a local Zarr folder, v2 or v3, of OME-Zarr in full resolution.

    Raises
    ------
    CorruptError
        The metadata are damaged, or declare what is not read here.
    MissingError
        There is no such array.
    """
    name, folder, array, attributes = _place(root, inner, _node)
    where = f"{root}:{name}"
    scales = _image_of(root, name, folder, _node)
    axes, spacing = _named_axes(array, attributes), UNKNOWN
    if scales is not None:
        named, transformations = _ome_axes(scales, where)
        if any(len(axis) != 1 for axis, _ in named):
            raise CorruptError("unusable axes", where=where, got=", ".join(axis for axis, _ in named))
        axes = "".join(axis for axis, _ in named)
        sizes = ome_scale(named, transformations)
        spacing = (sizes.get("z"), sizes.get("y"), sizes.get("x"))
    dtype = _zarr_type(array, where)
    chunk = _zarr_chunks(array, where)
    declared = check_declared(where, array.get("shape"), dtype, chunk, axes)
    if scales is None:
        spacing = spacing_of_attributes(attributes, declared[1], bare="nm")

    import zarr

    store = guarded_store(folder, encoding(array, _parts(array, chunk), where), MAX_CHUNK)
    opened = zarr.open_array(store=store, mode="r", zarr_format=array.get("zarr_format"))
    if tuple(opened.shape) != declared[0]:
        raise CorruptError("contradictory metadata", where=where, got=opened.shape, expected=declared[0])
    return make_volume(root, name, declared, dtype, spacing, opened.__getitem__)


def _n5_spacing(folder: Path, root: Path, attributes: Mapping[str, Any]) -> Spacing:
    """Return the spacing from the array's attributes, else those of its group if it is level 0 there."""
    spacing = spacing_of_attributes(attributes, "xyz", bare=None)
    if spacing == UNKNOWN and folder.name == "s0" and folder != root:
        return spacing_of_attributes(_n5_node(folder.parent)[1], "xyz", bare=None)
    return spacing


def n5_volume(root: Path, inner: str | None) -> Volume:
    """Return the volume of an array in a local N5 folder, whose axes are listed as (x, y, z).

    Raises
    ------
    CorruptError
        The metadata are damaged, or declare what is not read here.
    MissingError
        There is no such array, or TensorStore is not installed.
    """
    import numpy as np

    tensorstore = need("tensorstore", root)
    name, folder, array, attributes = _place(root, inner, _n5_node)
    where = f"{root}:{name}"
    if array.get("dataType") not in _N5_TYPES:
        raise CorruptError(
            "unusable type", where=where, got=array.get("dataType"), expected="integers or floats"
        )
    dtype = np.dtype(array["dataType"])
    shape = array.get("dimensions")
    axes = "xyz"[: len(shape)] if isinstance(shape, list) and len(shape) in (2, 3) else None
    declared = check_declared(where, shape, dtype, array.get("blockSize"), axes)
    spacing = _n5_spacing(folder, root, attributes)
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{folder.absolute()}/"}}
    opened = tensorstore.open(spec, read=True, open=True).result()
    if tuple(opened.shape) != declared[0]:
        raise CorruptError("contradictory metadata", where=where, got=opened.shape, expected=declared[0])
    return make_volume(root, name, declared, dtype, spacing, lambda index: opened[index].read().result())
