"""Intensities of one image and channel brought to a common scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["ScaledAs", "Scaling", "scale_of"]

#: ``window``: 8-bit over 0-255, others over their percentiles; ``percentile``, ``minmax``: what becomes 0 and 1;
#: ``self``: mean 0 and deviation 1.
ScaledAs = Literal["window", "self", "percentile", "minmax"]

_WINDOW = (0.1, 99.9)
_MOST_PIXELS = 2**24  # of a channel, for percentiles; more are taken at every k-th row and column
_EPSILON = 1e-7  # as DINO4Cells adds it to the deviation


@dataclass(frozen=True)
class Scaling:
    """``(x - low) / span`` of each channel, within [0, 1] if `bounded`.

    Attributes
    ----------
    low, span
        ``(C,)`` float64; a channel with the span 0 becomes 0.
    """

    low: NDArray[np.float64]
    span: NDArray[np.float64]
    bounded: bool

    def __call__(self, image: np.ndarray) -> NDArray[np.float32]:
        """Return ``(C, H, W)`` float32 of ``(H, W)`` or ``(H, W, C)``."""
        planes = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
        target = np.zeros(planes.shape, np.float32)
        for plane, into, low, span in zip(planes, target, self.low, self.span, strict=True):
            if span > 0:
                into[:] = (plane.astype(np.float32) - np.float32(low)) / np.float32(span)
        return np.clip(target, 0, 1, out=target) if self.bounded else target


def scale_of(image: np.ndarray, scaled_as: ScaledAs) -> Scaling:
    """Return what brings each channel of an image to its scale.

    Parameters
    ----------
    image
        ``(H, W)`` or ``(H, W, C)``, finite.
    scaled_as
        ``self`` takes mean and biased deviation, and adds 1e-7 to the latter, as DINO4Cells does
        (doi:10.1101/2023.06.16.545359): what lies outside is not cut off.
    """
    channels = [image] if image.ndim == 2 else list(np.moveaxis(image, -1, 0))
    pairs = [_low_and_span(channel, scaled_as) for channel in channels]
    low, span = (np.asarray(values, np.float64) for values in zip(*pairs, strict=True))
    return Scaling(low, span, bounded=scaled_as != "self")


def _low_and_span(channel: np.ndarray, scaled_as: ScaledAs) -> tuple[float, float]:
    if scaled_as == "self":
        values = channel.astype(np.float64)
        return float(values.mean()), float(values.std()) + _EPSILON
    if scaled_as == "minmax":
        low, high = float(channel.min()), float(channel.max())
    elif scaled_as == "window" and channel.dtype in (np.dtype(np.uint8), np.dtype(np.bool_)):
        low, high = 0.0, 255.0 if channel.dtype == np.uint8 else 1.0
    else:
        step = math.ceil(math.sqrt(channel.size / _MOST_PIXELS))
        low, high = map(float, np.percentile(channel[::step, ::step], _WINDOW))
    return low, high - low
