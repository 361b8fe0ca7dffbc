"""What is predicted on: images, folders, stacks and volumes as planes that give some of their rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emvfm.backbones.preprocess import physical_size
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.images import (
    is_volume,
    list_images,
    native_pixels,
    open_raster,
    read_page,
    sniff_format,
)
from emvfm.datasets.rows import ArrayRows, ImageRows, open_rows
from emvfm.datasets.scales import UNKNOWN, Spacing, side_of_pixel, tiff_spacing
from emvfm.datasets.tiff import open_tiff
from emvfm.datasets.volumes import Volume, open_volume, split_inner
from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.provenance import sha256_file
from emvfm.workspace import Workspace

__all__ = ["Item", "Source", "find_source", "input_identity", "open_plane"]

#: Files up to this many bytes are known by their content, larger ones and folders by sizes and times.
_HASHED = 2**30


@dataclass(frozen=True)
class Item:
    """One image or stack.

    Attributes
    ----------
    name
        What its output is called.
    path
        File, folder, or array in one (after a colon).
    planes, height, width
        Slices, and their size in px.
    stack
        Whether its output has an axis z, be it of length 1.
    spacing
        Distances of pixels along (z, y, x) in nm, None where unknown.
    """

    name: str
    path: Path
    planes: int
    height: int
    width: int
    stack: bool
    spacing: Spacing

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def pixel_size_nm(self) -> float | None:
        """Side of a pixel in nm, None where unknown; pixels that are not square are a `RefusedError`."""
        return side_of_pixel(self.spacing, self.path)


@dataclass(frozen=True)
class Source:
    """The images to predict on; `folder` where several are meant, even if there is one."""

    items: tuple[Item, ...]
    folder: bool


def _volume_item(path: Path) -> Item:
    def item(volume: Volume) -> Item:
        outer, inner = split_inner(path)
        stem = outer.stem.removesuffix(".ome")
        name = stem if inner is None else f"{stem}-{inner.strip('/').replace('/', '-')}"
        stack = "z" in volume.axes
        return Item(name, path, volume.count, volume.height, volume.width, stack, volume.spacing)

    return open_volume(path, item)


def _item(path: Path) -> Item:
    """Return an image or stack from its headers; nothing is decoded."""
    if is_volume(path):
        return _volume_item(path)
    name = path.stem.removesuffix(".ome")
    if sniff_format(path) == "TIFF":
        found = open_tiff(path, lambda p: (p.count, p.height, p.width, tiff_spacing(p.keyframe.parent)))
        count, height, width, spacing = found
        return Item(name, path, count, height, width, count > 1, spacing)
    height, width = open_raster(path, lambda image: (image.height, image.width))
    return Item(name, path, 1, height, width, False, UNKNOWN)


def _items(source: str, workspace: Workspace) -> tuple[list[Item], bool]:
    path = Path(source).expanduser()
    outer, inner = split_inner(path)
    # name:split is no array in a folder that happens to have the dataset's name.
    split = inner is not None and outer.is_dir() and not is_volume(path)
    if split or not outer.exists() or (path / "dataset.json").is_file():
        try:
            dataset = open_dataset(workspace, source)
        except MissingError as error:
            raise MissingError("no such image, folder, volume or dataset", where=source) from error
        items = [
            replace(_item(dataset.image_path(s)), name=s.id, spacing=(None, s.pixel_size_nm, s.pixel_size_nm))
            for s in dataset.samples
        ]
        return items, True
    if outer.is_dir() and not is_volume(path):
        files = list_images(outer)
        if not files:
            raise MissingError("no images here", where=outer, expected="PNG, JPEG or TIFF, or a volume")
        return [_item(file) for file in files], True
    return [_item(path)], False


def find_source(source: str, workspace: Workspace, pixel_size: str | None = None) -> Source:
    """Return what an input means: a path (``file.h5:/raw`` names an array), or a dataset of the workspace.

    Parameters
    ----------
    pixel_size
        Side of a pixel such as ``5nm``, in the place of what the files state.

    Raises
    ------
    MissingError
        There is no such input, or no image in it.
    CorruptError
        A file is damaged or not what its name says.
    UsageError
        Two images would have one output.
    """
    items, folder = _items(source, workspace)
    if not items:
        raise MissingError("no images here", where=source)
    if pixel_size is not None:
        side = physical_size(pixel_size)
        items = [replace(item, spacing=(item.spacing[0], side, side)) for item in items]
    seen: dict[str, Path] = {}
    for item in items:
        key = item.name.casefold()  # file systems that do not tell case would write one over the other
        if key in seen:
            raise UsageError(
                "two images of one name", where=item.path, got=seen[key].name, todo="predict them one by one"
            )
        seen[key] = item.path
    return Source(tuple(items), folder)


class _VolumeRows:
    """A slice of a volume, of which only the rows asked for are fetched."""

    def __init__(self, path: Path, plane: int, volume: Volume) -> None:
        self._path, self._plane = path, plane
        self.shape: tuple[int, ...] = (volume.height, volume.width)
        self.dtype = np.dtype(np.uint8 if volume.dtype in ("uint8", "bool") else volume.dtype)

    def rows(self, start: int, stop: int) -> np.ndarray:
        def fetch(volume: Volume) -> np.ndarray:
            places: dict[str, Any] = {"z": self._plane, "y": slice(start, stop), "x": slice(None)}
            values = np.asarray(volume.fetch(tuple(places.get(axis, 0) for axis in volume.axes)))
            if volume.axes.index("x") < volume.axes.index("y"):
                values = values.T
            if values.shape != (stop - start, self.shape[1]):
                raise CorruptError(
                    "rows are not what the volume declares", where=self._path, got=values.shape
                )
            return native_pixels(self._path, values.astype(values.dtype.newbyteorder("="), copy=False))

        # Opened anew each time: what fails inside is then told as damage of this file.
        return open_volume(self._path, fetch)


@contextmanager
def open_plane(item: Item, plane: int) -> Iterator[ImageRows]:
    """Open a plane to read its rows; of large single TIFFs and of volumes only what is asked for is decoded.

    Raises
    ------
    CorruptError
        The file is damaged, or its image is not of the size that its header states.
    """
    if is_volume(item.path):
        rows: ImageRows = open_volume(item.path, lambda v: _VolumeRows(item.path, plane, v))
        yield rows
        return
    if item.planes > 1:
        yield _checked(item, ArrayRows(read_page(item.path, plane)))
        return
    with open_rows(item.path) as opened:
        yield _checked(item, opened)


def _checked(item: Item, rows: ImageRows) -> ImageRows:
    if tuple(rows.shape[:2]) != item.size:
        raise CorruptError(
            "the image is not of the size its header states",
            where=item.path,
            got=rows.shape[:2],
            expected=item.size,
        )
    return rows


def _known_by(path: Path) -> list[object]:
    if path.is_file():
        facts = path.stat()
        if facts.st_size <= _HASHED:
            return [sha256_file(path)]
        return [facts.st_size, facts.st_mtime_ns]
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return [[str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


def input_identity(source: Source) -> list[object]:
    """Return plain values that change when the input does.

    Files up to 1 GiB are known by their SHA-256; larger files, and folders of chunks, by names, sizes and
    times of change, which cost no reading.
    """
    known: dict[Path, list[object]] = {}
    rows: list[object] = []
    for item in source.items:
        outer, inner = split_inner(item.path)
        facts = known.setdefault(outer, [] if outer in known else _known_by(outer))
        rows.append([item.name, inner, item.planes, *item.size, list(item.spacing), facts])
    return rows
