"""HDF5 arrays as volumes; nothing outside the file is followed, by no kind of link or storage."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emvfm.datasets.scales import spacing_of_attributes
from emvfm.datasets.volume_layout import Volume, check_declared, choose, make_volume
from emvfm.errors import CorruptError, MissingError

__all__ = ["hdf5_volume"]

_SPACING_KEYS = ("element_size_um", "resolution", "voxel_size", "unit", "units")


def _object(file: Any, path: Path, inner: str) -> Any:
    """Walk to a name by hard links only: others lead elsewhere, in this file or out of it."""
    import h5py

    found = file
    for part in inner.strip("/").split("/"):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            raise MissingError("no such array", where=f"{path}:{inner}")
        if not isinstance(link, h5py.HardLink):
            raise CorruptError(
                "a link that is not followed",
                where=f"{path}:{inner}",
                got=f"{type(link).__name__} to {getattr(link, 'filename', '')}{link.path}",
                todo="name the array itself",
            )
        found = found[part]
    return found


def _arrays(group: Any, prefix: str) -> list[str]:
    """Return the names of arrays below a group that could be images; links are left out."""
    import h5py

    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "buif" and item.ndim >= 2:
            names.append(f"{prefix}/{name}")

    group.visititems(visit)  # visits hard links only, and each object once
    images = [name for name in names if group[name[len(prefix) + 1 :]].ndim in (2, 3)]
    return images or names


def _axes(attributes: Mapping[str, Any]) -> str | None:
    """Return the axes ilastik wrote with an array (``axistags``), None without them."""
    tags = attributes.get("axistags")
    if tags is None:
        return None
    try:
        return "".join(axis["key"] for axis in json.loads(tags)["axes"])
    except (KeyError, TypeError, ValueError):
        return None


def hdf5_volume(file: Any, path: Path, inner: str | None) -> Volume:
    """Return the volume of an array in an open file, the only one of 2 or 3 axes if none is named.

    Raises
    ------
    CorruptError
        What is named leads to other files, or is no image.
    MissingError
        There is no such array.
    UsageError
        There are several arrays and none is named.
    """
    import h5py

    found = file if inner in (None, "/") else _object(file, path, str(inner))
    name = "/" if inner is None else inner
    if isinstance(found, h5py.Group):
        prefix = name.rstrip("/")
        name = choose(path, _arrays(found, prefix))
        found = _object(file, path, name)
    where = f"{path}:{name}"
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise CorruptError("not an array", where=where, got=type(found).__name__)
    if found.is_virtual or found.external:
        raise CorruptError(
            "an array whose data lie in other files", where=where, todo="copy it into this file"
        )
    attributes = found.attrs
    declared = check_declared(
        where, tuple(map(int, found.shape)), found.dtype, found.chunks, _axes(attributes)
    )
    if found.chunks is None:
        stored = found.id.get_storage_size()
        if 0 < stored < math.prod(found.shape) * found.dtype.itemsize:
            raise CorruptError("an array that is cut off", where=where, got=f"{stored} bytes")
    known = {key: attributes[key] for key in _SPACING_KEYS if key in attributes}
    spacing = spacing_of_attributes(known, declared[1], bare="nm")
    return make_volume(path, name, declared, found.dtype, spacing, found.__getitem__)
