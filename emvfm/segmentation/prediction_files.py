"""Predictions as files: tiled TIFF and OME-Zarr 0.5, written by bands of rows, with the input's pixel size.

=============  ======================================================================================
probability    float32 in [0, 1], or uint8 where 255 is 1
mask           uint8, 0 and 255: what ImageJ takes for a binary image, and every viewer shows as one
instances      uint32, 0 outside
=============  ======================================================================================

The same prediction gives the same bytes: nothing is written that depends on the time or the machine.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emvfm.datasets.scales import Spacing
from emvfm.workspace import write_json

__all__ = ["FORMATS", "Picture", "write_ome_zarr", "write_tiff"]

_TILE = 256  # side of a TIFF tile
_CHUNK, _SHARD = 512, 1024  # sides of a chunk of OME-Zarr and of the file it is in
_CLASSIC = 2**32 - 2**25  # bytes from which a TIFF needs 64-bit offsets


@dataclass(frozen=True)
class Picture:
    """What is written.

    Attributes
    ----------
    name
        Of the image, for viewers.
    planes, size
        Number of slices and their ``(H, W)``.
    stack
        Whether there is an axis z, be it of length 1.
    dtype
        Of the pixels.
    spacing
        Distances of pixels along (z, y, x) in nm, None where unknown.
    labels
        Whether the values are names, which no mean can be taken of.
    read
        ``(plane, start, stop)`` → ``(stop - start, W)`` of `dtype`.
    identity
        Digest of what decides the pixels.
    """

    name: str
    planes: int
    size: tuple[int, int]
    stack: bool
    dtype: np.dtype
    spacing: Spacing
    labels: bool
    read: Callable[[int, int, int], np.ndarray]
    identity: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.planes, *self.size) if self.stack else self.size

    @property
    def axes(self) -> str:
        return "zyx" if self.stack else "yx"


def _tiles(picture: Picture) -> Iterator[np.ndarray]:
    height, width = picture.size
    for plane in range(picture.planes):
        for top in range(0, height, _TILE):
            band = picture.read(plane, top, min(height, top + _TILE))
            band = np.pad(band, ((0, _TILE - len(band)), (0, -width % _TILE)))
            for left in range(0, width, _TILE):
                yield np.ascontiguousarray(band[:, left : left + _TILE])


def write_tiff(path: Path, picture: Picture) -> None:
    """Write a tiled, compressed OME-TIFF; with 64-bit offsets (BigTIFF) where 32 bits might not do."""
    import tifffile

    metadata: dict[str, Any] = {
        "axes": picture.axes.upper(),
        "Name": picture.name,
        "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, picture.identity)}",
    }
    for axis, step in zip("ZYX", picture.spacing, strict=True):
        if step is not None and axis in metadata["axes"]:
            metadata |= {f"PhysicalSize{axis}": step, f"PhysicalSize{axis}Unit": "nm"}
    _, down, across = picture.spacing
    known = down is not None and across is not None
    resolution = {"resolution": (1e7 / across, 1e7 / down), "resolutionunit": "CENTIMETER"} if known else {}  # type: ignore[operator]
    size = math.prod(picture.shape) * picture.dtype.itemsize
    with tifffile.TiffWriter(path, bigtiff=size > _CLASSIC, ome=True) as file:
        file.write(
            _tiles(picture),
            shape=picture.shape,
            dtype=picture.dtype,
            tile=(_TILE, _TILE),
            photometric="minisblack",
            compression="zlib",
            software="emvfm",
            metadata=metadata,
            **resolution,
        )


def _halved(rows: np.ndarray, labels: bool) -> np.ndarray:
    """Return ``(⌈r/2⌉, ⌈W/2⌉)``: of labels every other pixel, else the mean of two by two."""
    if labels:
        return rows[::2, ::2]
    even = np.pad(rows, ((0, rows.shape[0] % 2), (0, rows.shape[1] % 2)), mode="edge").astype(np.float32)
    mean = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    return (mean if rows.dtype.kind == "f" else np.rint(mean)).astype(rows.dtype)


def _array(group: Any, name: str, picture: Picture, size: tuple[int, int]) -> Any:
    chunk = tuple(min(_CHUNK, side) for side in size)
    # A shard holds whole chunks; one chunk needs no shard around it.
    shard = tuple(min(_SHARD // c, -(-side // c)) * c for c, side in zip(chunk, size, strict=True))
    lead = (1,) if picture.stack else ()
    return group.create_array(
        name,
        shape=((picture.planes,) if picture.stack else ()) + size,
        chunks=lead + chunk,
        shards=lead + shard if shard != chunk else None,
        dtype=picture.dtype,
        dimension_names=list(picture.axes),
        fill_value=0,
    )


def _level(picture: Picture, level: int) -> dict[str, Any]:
    """Return the entry of a level of the pyramid: its path, scale and place."""
    steps = dict(zip("zyx", picture.spacing, strict=True))
    factor = {axis: 1.0 if axis == "z" else float(2**level) for axis in picture.axes}
    unit = {axis: steps[axis] or 1.0 for axis in picture.axes}
    scale = [unit[axis] * factor[axis] for axis in picture.axes]
    placed: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if level and not picture.labels:  # the mean of pixels lies between them
        moved = [unit[axis] * (factor[axis] - 1) / 2 for axis in picture.axes]
        placed.append({"type": "translation", "translation": moved})
    return {"path": str(level), "coordinateTransformations": placed}


def write_ome_zarr(path: Path, picture: Picture) -> None:
    """Write an OME-Zarr 0.5 image (Zarr 3, sharded) with a pyramid, halved until it fits a chunk."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=3)
    size, sizes = picture.size, [picture.size]
    while max(size) > _CHUNK:
        size = (-(-size[0] // 2), -(-size[1] // 2))
        sizes.append(size)
    read = picture.read
    for level, size in enumerate(sizes):
        array = _array(group, str(level), picture, size)
        step = _SHARD // min(_CHUNK, size[0]) * min(_CHUNK, size[0])
        for plane in range(picture.planes):
            for start in range(0, size[0], step):
                stop = min(size[0], start + step)
                if level == 0:
                    rows = read(plane, start, stop)
                else:
                    below = sizes[level - 1][0]
                    rows = _halved(read(plane, 2 * start, min(below, 2 * stop)), picture.labels)
                array[(plane, slice(start, stop)) if picture.stack else slice(start, stop)] = rows

        def read(plane: int, start: int, stop: int, array: Any = array) -> np.ndarray:
            return array[(plane, slice(start, stop)) if picture.stack else slice(start, stop)]

    known = dict(zip("zyx", picture.spacing, strict=True))
    axes = [
        {"name": axis, "type": "space", **({"unit": "nanometer"} if known[axis] else {})}
        for axis in picture.axes
    ]
    scales = {
        "name": picture.name,
        "axes": axes,
        "datasets": [_level(picture, level) for level in range(len(sizes))],
        "type": "nearest" if picture.labels else "mean",
    }
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [scales]}
    if picture.labels:
        ome["image-label"] = {"version": "0.5"}
    write_json(
        path / "zarr.json",
        {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, "emvfm": picture.identity}},
    )


#: Name → ending of a file's name, and what writes it.
FORMATS: dict[str, tuple[str, Callable[[Path, Picture], None]]] = {
    "tiff": (".tif", write_tiff),
    "ome-zarr": (".ome.zarr", write_ome_zarr),
}
