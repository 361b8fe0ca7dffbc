"""The channels of an image as numbers in physical order of size, cut into cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import CorruptError, UsageError

__all__ = ["Plane", "cells_of", "in_cells", "padded", "planes_of", "resized"]

Floats = NDArray[np.float32]

#: Percentiles that become 0 and 1 on the relative scale, of types whose range says nothing about the camera.
_WINDOW = (0.1, 99.9)
_SAMPLE = 2**24  # pixels that percentiles are taken of at the most
_FULL = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0, "uint32": 2.0**32 - 1}


@dataclass(frozen=True)
class Plane:
    """One channel.

    Attributes
    ----------
    raw
        ``(H, W)`` float32, the intensities as they were measured: over the full scale of an unsigned type, as
        they are for others. Two images of one camera keep their difference in brightness.
    unit
        ``(H, W)`` float32 in [0, 1], for what needs bins: of 8-bit images the same as `raw`, of others the range
        between the 0.1 and 99.9 percentiles; 0 where that range is empty.
    """

    raw: Floats
    unit: Floats


def _unit(raw: Floats, dtype: np.dtype) -> Floats:
    if dtype in (np.uint8, np.bool_):
        return raw
    step = max(1, int(np.ceil(np.sqrt(raw.size / _SAMPLE))))
    low, high = np.percentile(raw[::step, ::step], _WINDOW)
    if not high > low:
        return np.zeros_like(raw)
    return np.clip((raw - np.float32(low)) / np.float32(high - low), 0, 1)


def planes_of(image: np.ndarray) -> list[Plane]:
    """Return the channels of ``(H, W)`` or ``(H, W, C)``, in their order.

    Raises
    ------
    UsageError
        Another shape, or no numbers.
    CorruptError
        Values that are not finite.
    """
    if image.ndim not in (2, 3) or image.size == 0 or image.dtype.kind not in "buif":
        raise UsageError(
            "not an image",
            got=f"array of shape {image.shape}, {image.dtype}",
            expected="(H, W) or (H, W, C) numbers",
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise CorruptError("the image has values that are not finite", expected="finite intensities")
    full = np.float32(_FULL.get(image.dtype.name, 1.0))
    stack = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    raws = [np.ascontiguousarray(channel, np.float32) / full for channel in stack]
    return [Plane(raw, _unit(raw, image.dtype)) for raw in raws]


def resized(plane: Plane, size: tuple[int, int]) -> Plane:
    """Return the plane at another size by antialiased bicubic interpolation, within the range it had."""
    from PIL import Image

    def resize(values: Floats) -> Floats:
        if values.shape == size:
            return values
        picture = Image.fromarray(np.ascontiguousarray(values))
        large = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC))
        return np.clip(large, values.min(), values.max())

    return Plane(resize(plane.raw), resize(plane.unit))


def padded(values: np.ndarray, cell: int) -> np.ndarray:
    """Return ``(H, W)`` reflected at the bottom and the right to whole cells, as backbones see it."""
    missing = [-side % cell for side in values.shape]
    if not any(missing):
        return values
    # An image much smaller than a cell is reflected again and again: what "reflect" does.
    return np.pad(values, [(0, missing[0]), (0, missing[1])], mode="reflect")


def cells_of(values: np.ndarray, cell: int) -> np.ndarray:
    """Return ``(h w, cell²)``: the pixels of each cell, row by row, of an image of whole cells."""
    h, w = values.shape[0] // cell, values.shape[1] // cell
    return values.reshape(h, cell, w, cell).swapaxes(1, 2).reshape(h * w, cell * cell)


def in_cells(values: np.ndarray, cell: int | None) -> np.ndarray:
    """Return `cells_of` the padded image, or all pixels as one cell, ``(1, H W)``, where `cell` is None."""
    return values.reshape(1, -1) if cell is None else cells_of(padded(values, cell), cell)
