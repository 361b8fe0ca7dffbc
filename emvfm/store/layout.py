"""How a store looks on disk: a Zarr v3 group that a stranger can read without emvfm.

::

    <key>/                         group; its attributes tell what is in it and how it was made
      grids/<h>x<w>/               one group a patch grid
        patches  (row, layer, y, x, channel)   chunk = one image and layer; shard = many images, one layer
                                               (of a large image: chunk = a square, shard = a band of them)
        cls      (row, layer, channel)
        mean     (row, layer, channel)         mean of the patches, weighted by their validity
        valid    (row, y, x)                   fraction of each patch that is image, not padding
        image    (row,)                        SHA-256 of the image's bytes; "" where a row is unused
      datasets/<digest>/           sample table of a dataset, its rows, and foreground per patch
      manifest/<h>x<w>/<n>.json    finished shards, written last: only rows named there exist

Unwritten values are NaN, never zero. Every chunk carries a CRC32C.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from emvfm.errors import CorruptError
from emvfm.store.identity import EmbeddingIdentity

__all__ = ["ARRAYS", "Chunking", "Grid", "create_grid", "create_group", "grid_name", "parse_grid"]

Grid = tuple[int, int]
ARRAYS = ("patches", "cls", "mean", "valid", "image")

_SHARD_BYTES = 64 * 2**20
_MOST_IMAGES = 16  # what a killed process can lose
_SQUARE = 32  # patches a side of a chunk of an image that is too large for one chunk
_ABOUT = (
    "Patch embeddings of images, made by emvfm. grids/<h>x<w>/patches holds (row, layer, y, x, channel); "
    "row r belongs to the image whose file has the SHA-256 in grids/<h>x<w>/image[r] (followed, in a store at a "
    "physical scale, by @ and the size of its pixels); layer names the "
    "transformer block in 'layers'; all layers went through the model's final norm. datasets/<digest> lists "
    "the samples of a dataset with their grid and row. A row whose image is '' is unused. NaN means not written."
)


def grid_name(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"


def parse_grid(name: str) -> Grid:
    """Return the grid called `name`; a name that is none is an error."""
    rows, _, columns = name.partition("x")
    if not (rows.isdigit() and columns.isdigit()):
        raise CorruptError("not a patch grid", where=name, expected="<rows>x<columns>")
    return int(rows), int(columns)


@dataclass(frozen=True)
class Chunking:
    """How the patches of one grid are cut into chunks and shard files; it never changes once the grid is made.

    Attributes
    ----------
    grid
        Rows and columns of patches of an image.
    images
        Images a shard.
    rows, columns
        Patches of a chunk: the whole grid, or a square of a large image.
    """

    grid: Grid
    images: int
    rows: int
    columns: int

    @classmethod
    def choose(cls, grid: Grid, width: int, dtype: str) -> Chunking:
        """Return whole images, at most 16 and about 64 MiB a layer, or squares of an image beyond that."""
        image = grid[0] * grid[1] * width * np.dtype(dtype).itemsize
        if image > _SHARD_BYTES:
            return cls(grid, 1, min(_SQUARE, grid[0]), min(_SQUARE, grid[1]))
        return cls(grid, int(np.clip(_SHARD_BYTES // image, 1, _MOST_IMAGES)), *grid)

    @property
    def bands(self) -> int:
        """Shard files one below the other that hold an image's layer."""
        return -(-self.grid[0] // self.rows)

    @property
    def across(self) -> int:
        """Chunks side by side in a shard file."""
        return -(-self.grid[1] // self.columns)

    @property
    def places(self) -> int:
        """Chunks of a shard file: by image, then from left to right."""
        return self.images * self.across

    @staticmethod
    def file(shard: int, layer: int, band: int) -> str:
        """Return the path of a shard file within the array's folder."""
        return f"c/{shard}/{layer}/{band}/0/0"


def create_group(path: Path, identity: EmbeddingIdentity, facts: dict[str, Any]) -> None:
    """Make the (empty) groups of a store; `facts` are attributes for people, such as the label."""
    group = zarr.create_group(
        path,
        attributes={
            "about": _ABOUT,
            "layers": list(identity.layers),
            "identity": identity.to_json(),
            **facts,
        },
    )
    for name in ("grids", "datasets"):  # made once, here: later several processes would want to
        group.create_group(name)


def _create(group: zarr.Group, name: str, shape: tuple[int, ...], **options: Any) -> None:
    """Make one uncompressed, checksummed array; float features hardly compress (1.1 times with zstd)."""
    if options["dtype"] is not str:
        options["serializer"] = BytesCodec()
    group.create_array(
        name,
        shape=shape,
        compressors=(Crc32cCodec(),),
        config={"write_empty_chunks": False},
        **options,
    )


def create_grid(path: Path, grid: Grid, n_layers: int, width: int, dtype: str, rows: int = 0) -> None:
    """Make the group of one patch grid and its arrays of `rows` rows; their lengths grow by whole shards."""
    (h, w), cut = grid, Chunking.choose(grid, width, dtype)
    length = cut.images
    inner = zarr.create_group(path, attributes={"shard_length": length, "chunk": [cut.rows, cut.columns]})
    fill: dict[str, Any] = {"fill_value": np.nan}
    _create(
        inner, "patches", (rows, n_layers, h, w, width), dtype=dtype, chunks=(1, 1, cut.rows, cut.columns, width),
        shards=(length, 1, cut.rows, cut.across * cut.columns, width),
        dimension_names=("row", "layer", "y", "x", "channel"), **fill,
    )  # fmt: skip
    for name in ("cls", "mean"):
        _create(
            inner, name, (rows, n_layers, width), dtype="float32", chunks=(length, n_layers, width),
            dimension_names=("row", "layer", "channel"), **fill,
        )  # fmt: skip
    _create(
        inner, "valid", (rows, h, w), dtype="float32", chunks=(length, h, w),
        dimension_names=("row", "y", "x"), **fill,
    )  # fmt: skip
    _create(
        inner, "image", (rows,), dtype=str, chunks=(length,), dimension_names=("row",), fill_value="",
    )  # fmt: skip
