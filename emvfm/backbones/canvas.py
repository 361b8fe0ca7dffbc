"""The model's input of an image that is too large to hold: the same pixels as `Preprocess.prepare`, in bands."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from emvfm.backbones.preprocess import (
    WINDOW,
    Floats,
    Preprocess,
    fixed_window,
    pad_to,
    resize_planes,
    unit_planes,
    window_step,
)
from emvfm.backbones.scaling import Scaling
from emvfm.errors import CorruptError

__all__ = ["Canvas", "Rows"]

_BAND_PIXELS = 2**25  # read at once to find the intensity window


class Rows(Protocol):
    """An image that gives some of its rows at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(H, W)`` or ``(H, W, 3)``."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels."""
        ...

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` of the image."""
        ...


class Canvas:
    """A large image as the model's input; what is in memory is the band asked for.

    Parameters
    ----------
    window
        Intensities that become 0 and 1, or what scales each channel; the image's own window without it.

    Attributes
    ----------
    grid
        Rows and columns of patches.
    scaled
        Height and width after resizing, before padding.

    Raises
    ------
    UsageError
        Other channels than the preprocessing knows.
    CorruptError
        Values that are not finite.
    """

    def __init__(
        self, image: Rows, preprocess: Preprocess, window: tuple[float, float] | Scaling | None = None
    ) -> None:
        preprocess.check_channels(image.shape)
        self._image, self._preprocess = image, preprocess
        self._size = (image.shape[0], image.shape[1])
        self.scaled, self.grid = preprocess.scaled(self._size), preprocess.grid(self._size)
        self._window = window or fixed_window(image.dtype) or self._percentiles()

    def _rows(self, start: int, stop: int) -> np.ndarray:
        rows = self._image.rows(start, stop)
        if rows.dtype.kind == "f" and not np.isfinite(rows).all():
            raise CorruptError("the image has values that are not finite", expected="finite intensities")
        return rows

    def _percentiles(self) -> tuple[float, float]:
        step, height = window_step(self._size), self._size[0]
        band = max(1, _BAND_PIXELS // (step * self._size[1])) * step
        kept = [self._rows(y, min(height, y + band))[::step, ::step] for y in range(0, height, band)]
        low, high = np.percentile(np.concatenate(kept), WINDOW)
        return float(low), float(high)

    def band(self, top: int, bottom: int) -> Floats:
        """Return rows `top` to `bottom` of patches, ``(C, H, W)`` float32 in [0, 1] (unless scaled), padded."""
        patch, (height, width) = self._preprocess.patch, self.scaled
        first, last = top * patch, min(bottom * patch, height)
        step = self._size[0] / height
        margin = 2 * max(1.0, step) + 1 if self.scaled != self._size else 0  # the reach of a bicubic filter
        start = max(0, math.floor(first * step - margin))
        stop = min(self._size[0], math.ceil(last * step + margin))
        rows, window = self._rows(start, stop), self._window
        bounded = not isinstance(window, Scaling) or window.bounded
        planes = window(rows) if isinstance(window, Scaling) else unit_planes(rows, window)
        if self.scaled != self._size:
            part = (first * step - start, last * step - start)
            planes = resize_planes(planes, (last - first, width), part, bounded=bounded)
        return pad_to(planes, ((bottom - top) * patch, self.grid[1] * patch))

    def standardise(self, planes: Floats) -> Floats:
        """Return a part of a band as the model takes it, see `Preprocess.standardise`."""
        return self._preprocess.standardise(planes)
