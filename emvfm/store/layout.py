"""How a store looks on disk: a Zarr v3 group that a stranger can read without emvfm.

::

    <key>/                         group; its attributes tell what is in it and how it was made
      grids/<h>x<w>/               one group a patch grid
        patches  (row, layer, y, x, channel)   chunk = one image and layer; shard = many images, one layer
        cls      (row, layer, channel)
        mean     (row, layer, channel)         mean of the patches, weighted by their validity
        valid    (row, y, x)                   fraction of each patch that is image, not padding
        image    (row,)                        SHA-256 of the image's bytes; "" where a row is unused
      datasets/<digest>/           sample table of a dataset, its rows, and foreground per patch
      manifest/<h>x<w>/<n>.json    finished shards, written last: only rows named there exist

Unwritten values are NaN, never zero. Every chunk carries a CRC32C.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from emvfm.errors import CorruptError
from emvfm.store.identity import EmbeddingIdentity

__all__ = ["ARRAYS", "Grid", "create_grid", "create_group", "grid_name", "parse_grid", "shard_length"]

Grid = tuple[int, int]
ARRAYS = ("patches", "cls", "mean", "valid", "image")

_SHARD_BYTES = 64 * 2**20
_MOST_IMAGES = 16  # what a killed process can lose, and what a writer holds in memory
_ABOUT = (
    "Patch embeddings of images, made by emvfm. grids/<h>x<w>/patches holds (row, layer, y, x, channel); "
    "row r belongs to the image whose file has the SHA-256 in grids/<h>x<w>/image[r]; layer names the "
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


def shard_length(grid: Grid, width: int, dtype: str) -> int:
    """Return how many images share a shard: about 64 MiB a layer, at most 16."""
    image = grid[0] * grid[1] * width * np.dtype(dtype).itemsize
    return int(np.clip(_SHARD_BYTES // image, 1, _MOST_IMAGES))


def create_group(path: Path, identity: EmbeddingIdentity, facts: dict[str, Any]) -> None:
    """Make the (empty) group of a store; `facts` are attributes for people, such as the label."""
    zarr.create_group(
        path,
        attributes={
            "about": _ABOUT,
            "layers": list(identity.layers),
            "identity": identity.to_json(),
            **facts,
        },
    )


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


def create_grid(group: zarr.Group, grid: Grid, n_layers: int, width: int, dtype: str) -> None:
    """Make the arrays of one patch grid, without rows; their lengths grow by whole shards."""
    h, w = grid
    length = shard_length(grid, width, dtype)
    inner = group.create_group(f"grids/{grid_name(grid)}", attributes={"shard_length": length})
    fill: dict[str, Any] = {"fill_value": np.nan}
    _create(
        inner, "patches", (0, n_layers, h, w, width), dtype=dtype, chunks=(1, 1, h, w, width),
        shards=(length, 1, h, w, width), dimension_names=("row", "layer", "y", "x", "channel"), **fill,
    )  # fmt: skip
    for name in ("cls", "mean"):
        _create(
            inner, name, (0, n_layers, width), dtype="float32", chunks=(length, n_layers, width),
            dimension_names=("row", "layer", "channel"), **fill,
        )  # fmt: skip
    _create(
        inner, "valid", (0, h, w), dtype="float32", chunks=(length, h, w),
        dimension_names=("row", "y", "x"), **fill,
    )  # fmt: skip
    _create(
        inner, "image", (0,), dtype=str, chunks=(length,), dimension_names=("row",), fill_value="",
    )  # fmt: skip
