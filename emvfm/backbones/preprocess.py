"""From the pixels of one image to the array a backbone takes, the same way everywhere.

Grey becomes three equal channels, intensities become [0, 1], the size is chosen, mean and standard
deviation are the backbone's own, and the right and bottom are padded by reflection to whole patches.
Numpy in, numpy out: the store, the trainer and the predictor all go through this module.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.views import PLAIN, View
from emvfm.errors import CorruptError, UsageError

if TYPE_CHECKING:
    from emvfm.backbones.options import BackboneOptions
    from emvfm.backbones.registry import BackboneSpec

__all__ = ["Prepared", "Preprocess", "intensity_window", "scaled_size", "token_centres", "valid_fraction"]

#: Percentiles of an image that become black and white, where its type does not say what they are.
WINDOW = (0.1, 99.9)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prepared:
    """One image, ready for a backbone.

    Attributes
    ----------
    pixels
        ``(3, H, W)`` float32, normalised; H and W are multiples of the patch.
    valid
        ``(h, w)`` float32 in [0, 1]: the fraction of each patch that is image, not padding.
    size
        Height and width of the image as it came.
    scaled
        Height and width after resizing, before padding.
    window
        The intensities that became 0 and 1.
    """

    pixels: Floats
    valid: Floats
    size: tuple[int, int]
    scaled: tuple[int, int]
    window: tuple[float, float]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.valid.shape[0], self.valid.shape[1]


def scaled_size(size: tuple[int, int], input_size: str) -> tuple[int, int]:
    """Return the height and width an image of `size` is resized to.

    Parameters
    ----------
    size
        Height and width in pixels.
    input_size
        ``"native"``, the long edge in pixels (``"518"``), or a factor (``"x0.5"``).

    Raises
    ------
    UsageError
        `input_size` is none of these.
    """
    if input_size == "native":
        return size
    if match := re.fullmatch(r"[1-9][0-9]{0,5}", input_size):
        factor = int(match.group()) / max(size)
    elif match := re.fullmatch(r"x([0-9]*\.?[0-9]+)", input_size):
        factor = float(match.group(1))
    else:
        factor = 0.0
    if not 0 < factor < 1e4:
        raise UsageError(
            "not an input size",
            where="input_size",
            got=repr(input_size),
            expected="native, a long edge in pixels such as 518, or a factor such as x0.5",
        )
    height, width = (max(1, math.floor(side * factor + 0.5)) for side in size)
    return height, width


def valid_fraction(scaled: tuple[int, int], patch: int) -> Floats:
    """Return ``(h, w)`` float32: how much of each patch lies inside an image of `scaled` pixels."""
    rows, columns = (
        np.clip(side - patch * np.arange(-(-side // patch)), 0, patch).astype(np.float32) / patch
        for side in scaled
    )
    return np.outer(rows, columns).astype(np.float32)


def token_centres(
    grid: tuple[int, int], patch: int, size: tuple[int, int], scaled: tuple[int, int]
) -> NDArray[np.float64]:
    """Return ``(h, w, 2)``: row and column of each patch's centre, in pixels of the native image.

    Pixel centres are whole numbers, so that the first pixel is (0, 0). A centre in the padding lies
    outside the image.
    """
    rows, columns = (
        (np.arange(n) + 0.5) * patch * native / new - 0.5
        for n, native, new in zip(grid, size, scaled, strict=True)
    )
    return np.stack(np.broadcast_arrays(rows[:, None], columns[None, :]), axis=-1)


def intensity_window(image: np.ndarray) -> tuple[float, float]:
    """Return the intensities that become 0 and 1.

    8-bit and boolean images have a fixed range. In others (16-bit, float) the range in use says more
    than the type: the 0.1 and 99.9 percentiles over all pixels and channels.
    """
    if image.dtype == np.uint8:
        return 0.0, 255.0
    if image.dtype == np.bool_:
        return 0.0, 1.0
    low, high = np.percentile(image, WINDOW)
    return float(low), float(high)


def _check(image: np.ndarray) -> None:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
        raise UsageError("not an image", got=f"array of shape {image.shape}", expected="(H, W) or (H, W, 3)")
    if image.dtype.kind not in "buif":
        raise UsageError(
            "not an image", got=f"values of type {image.dtype}", expected="whole or real numbers"
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise CorruptError("the image has values that are not finite", expected="finite intensities")


def _channels(image: np.ndarray) -> tuple[Floats, tuple[float, float]]:
    """Return ``(1 or 3, H, W)`` float32 in [0, 1] and the intensity window; a constant image is 0."""
    _check(image)
    low, high = intensity_window(image)
    planes = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    if high <= low:
        return np.zeros(planes.shape, np.float32), (low, high)
    scaled = (planes.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled), (low, high)


def _resize(planes: Floats, size: tuple[int, int]) -> Floats:
    """Resize each plane by antialiased bicubic interpolation, kept in [0, 1]."""
    from PIL import Image

    if planes.shape[1:] == size:
        return planes
    height, width = size
    resized = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))
        for plane in np.ascontiguousarray(planes)
    ]
    return np.clip(np.stack(resized), 0, 1)


@dataclass(frozen=True)
class Preprocess:
    """How images become input of one backbone; equal values, equal pixels."""

    patch: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: str = "native"
    view: View = PLAIN

    @classmethod
    def for_backbone(cls, spec: BackboneSpec, options: BackboneOptions, view: View = PLAIN) -> Preprocess:
        """Return the preprocessing of `spec` with the input size of `options`."""
        scaled_size((512, 512), options.input_size)  # a bad value fails here, not at the first image
        return cls(spec.patch, spec.mean, spec.std, options.input_size, view)

    def scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width in the model's input, before padding, of an image of native `size`."""
        return scaled_size(self.view.size(size), self.input_size)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of patches of an image of native `size`."""
        height, width = self.scaled(size)
        return -(-height // self.patch), -(-width // self.patch)

    def identity(self) -> dict[str, Any]:
        """Return all that decides the pixels, as plain JSON values."""
        return {
            "version": 1,
            "intensity": {"uint8": "/255", "other": f"percentiles {WINDOW[0]}-{WINDOW[1]} of the image"},
            "channels": "grey x3",
            "input_size": self.input_size,
            "resize": "bicubic antialiased",
            "mean": list(self.mean),
            "std": list(self.std),
            "patch": self.patch,
            "pad": "reflect right bottom",
            **({} if self.view == PLAIN else {"view": self.view.identity()}),
        }

    def _normalised(self, planes: Floats) -> Floats:
        mean = np.asarray(self.mean, np.float32)[:, None, None]
        std = np.asarray(self.std, np.float32)[:, None, None]
        return (planes - mean) / std  # one grey plane becomes three here, by broadcasting

    def normalise(self, image: np.ndarray) -> Floats:
        """Return ``(3, H, W)`` float32, normalised, at the size it came: no resizing, no padding.

        Raises
        ------
        UsageError
            Not ``(H, W)`` or ``(H, W, 3)``, or not numbers.
        CorruptError
            Values that are not finite.
        """
        return self._normalised(_channels(image)[0])

    def prepare(self, image: np.ndarray) -> Prepared:
        """Return the normalised, resized and padded image with its validity.

        Parameters
        ----------
        image
            ``(H, W)`` or ``(H, W, 3)``; uint8 over 0-255, any other type over its own percentiles.

        Raises
        ------
        UsageError
            The image, after resizing, is smaller than one patch; or it is no image.
        CorruptError
            Values that are not finite.
        """
        _check(image)
        planes, window = _channels(self.view(image))
        size = (image.shape[0], image.shape[1])
        scaled = self.scaled(size)
        if min(scaled) < self.patch:
            raise UsageError(
                "the image is smaller than one patch",
                got=f"{scaled[0]} x {scaled[1]} px",
                expected=f"at least {self.patch} px a side",
                todo="enlarge it with --input-size or leave it out",
            )
        # A side holds at least one patch and lacks less than one, so a reflection always suffices.
        missing = [-side % self.patch for side in scaled]
        padded = np.pad(_resize(planes, scaled), [(0, 0), (0, missing[0]), (0, missing[1])], mode="reflect")
        return Prepared(self._normalised(padded), valid_fraction(scaled, self.patch), size, scaled, window)
