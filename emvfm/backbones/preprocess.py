"""From the pixels of one image to the array a backbone takes, the same way everywhere.

Grey becomes three equal channels, intensities become [0, 1], the size is chosen, mean and standard
deviation are the backbone's own, and the right and bottom are padded by reflection to whole patches.
Numpy in, numpy out: the store, the trainer and the predictor all go through this module.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.channels import ChannelInputs
from emvfm.backbones.scaling import ScaledAs, Scaling, scale_of
from emvfm.backbones.views import PLAIN, View
from emvfm.errors import CorruptError, UsageError

if TYPE_CHECKING:
    from emvfm.backbones.options import BackboneOptions

__all__ = [
    "Floats",
    "InputSpec",
    "Prepared",
    "Preprocess",
    "at_pixel_size",
    "intensity_window",
    "scaled_size",
    "token_centres",
    "valid_fraction",
]

#: Percentiles of an image that become black and white, where its type does not say what they are.
WINDOW = (0.1, 99.9)
WINDOW_PIXELS = 2**24

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prepared:
    """One image, ready for a backbone.

    Attributes
    ----------
    pixels
        ``(K, H, W)`` float32 of a backbone with K slots, three of colour, normalised; of several passes
        ``(P, K, H, W)``. H and W are multiples of the patch.
    valid
        ``(h, w)`` float32 in [0, 1]: the fraction of each patch that is image, not padding.
    size
        Height and width of the image as it came.
    scaled
        Height and width after resizing, before padding.
    window
        The intensities that became 0 and 1; (0, 1) where each channel has its own.
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
        ``"native"``, the long edge in pixels (``"518"``), or a factor (``"x0.5"``). A physical size
        (``"5nm"``) must have become a factor (`at_pixel_size`).

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


def window_step(size: tuple[int, int]) -> int:
    """Return every how many rows and columns of an image of `size` count for its intensity window."""
    return math.ceil(math.sqrt(size[0] * size[1] / WINDOW_PIXELS))


def fixed_window(dtype: np.dtype) -> tuple[float, float] | None:
    """Return the intensities that become 0 and 1 for 8-bit and boolean images, None for others."""
    return {np.dtype(np.uint8): (0.0, 255.0), np.dtype(np.bool_): (0.0, 1.0)}.get(dtype)


def intensity_window(image: np.ndarray) -> tuple[float, float]:
    """Return the intensities that become 0 and 1.

    8-bit and boolean images have a fixed range. In others (16-bit, float) the range in use says more
    than the type: the 0.1 and 99.9 percentiles over all channels and pixels, or, of an image of more
    than 16 million pixels, over every k-th row and column.
    """
    if (fixed := fixed_window(image.dtype)) is not None:
        return fixed
    step = window_step((image.shape[0], image.shape[1]))
    low, high = np.percentile(image[::step, ::step], WINDOW)
    return float(low), float(high)


def physical_size(text: str) -> float:
    """Return the side of a pixel in nm that ``"5nm"``, ``"0.01um"`` or ``"8"`` (nm) stands for.

    Raises
    ------
    UsageError
        It stands for none.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+) ?(nm|um|µm)?", text)
    value = float(match.group(1)) * (1 if match.group(2) in (None, "nm") else 1000) if match else 0.0
    if not 0 < value < 1e9:
        raise UsageError("not a pixel size", where="pixel_size", got=repr(text), expected="such as 5nm")
    return value


def at_pixel_size(input_size: str, pixel_size_nm: float | None) -> str:
    """Return `input_size`, a physical one (``"5nm"``) as the factor for an image of pixels of this size.

    Raises
    ------
    UsageError
        The pixel size of the image matters and is not known.
    """
    if not input_size.endswith("nm"):
        return input_size
    if pixel_size_nm is None:
        raise UsageError(
            "the pixel size of an image is not known",
            todo="compose the dataset with --pixel-size NM, or leave out --pixel-size here",
        )
    return f"x{pixel_size_nm / float(input_size[:-2])!r}"


def _check(image: np.ndarray, *, named: bool = False) -> None:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3 and not named) or image.size == 0:
        several = image.ndim == 3 and image.size and not named
        todo = "name its channels and choose how they go in (--channels)" if several else None
        got, expected = f"array of shape {image.shape}", "(H, W) or (H, W, 3)"
        raise UsageError("not an image", got=got, expected=expected, todo=todo)
    if image.dtype.kind not in "buif":
        raise UsageError(
            "not an image", got=f"values of type {image.dtype}", expected="whole or real numbers"
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise CorruptError("the image has values that are not finite", expected="finite intensities")


def unit_planes(image: np.ndarray, window: tuple[float, float]) -> Floats:
    """Return ``(1 or 3, H, W)`` float32 in [0, 1], where `window` became 0 and 1; an empty window gives 0."""
    low, high = window
    planes = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    if high <= low:
        return np.zeros(planes.shape, np.float32)
    scaled = (planes.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def resize_planes(
    planes: Floats,
    size: tuple[int, int],
    rows: tuple[float, float] | None = None,
    *,
    bounded: bool = True,
) -> Floats:
    """Resize ``(C, H, W)`` by antialiased bicubic interpolation to `size`, kept in [0, 1].

    Parameters
    ----------
    rows
        Resize only what lies between these rows; those outside still count for interpolation.
    bounded
        Whether values lie in [0, 1].
    """
    from PIL import Image

    if planes.shape[1:] == size:
        return planes
    height, width = size
    box = None if rows is None else (0, rows[0], planes.shape[2], rows[1])
    resized = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC, box))
        for plane in np.ascontiguousarray(planes)
    ]
    return np.clip(np.stack(resized), 0, 1) if bounded else np.stack(resized)


def pad_to(planes: Floats, size: tuple[int, ...]) -> Floats:
    """Pad ``(C, H, W)`` at the bottom and right by reflection; what is missing is less than what is there."""
    missing = [new - old for new, old in zip(size, planes.shape[1:], strict=True)]
    return (
        np.pad(planes, [(0, 0), (0, missing[0]), (0, missing[1])], mode="reflect") if any(missing) else planes
    )


class InputSpec(Protocol):
    """What a network asks of its input: whole patches, and channels of this mean and deviation."""

    @property
    def patch(self) -> int: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Preprocess:
    """How images become input of one backbone; equal values, equal pixels."""

    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: str = "native"
    view: View = PLAIN
    tile: int = 0
    overlap: int = 0
    scaling: ScaledAs = "window"
    channels: ChannelInputs | None = None

    @classmethod
    def for_backbone(cls, spec: InputSpec, options: BackboneOptions, view: View = PLAIN) -> Preprocess:
        """Return the preprocessing of `spec` with the input size and tiles of `options`.

        Raises
        ------
        UsageError
            An option is none; both an input size and a pixel size are given.
        """
        if (own := getattr(spec, "preprocess", None)) is not None:  # a baseline sees intensities as they are
            return own(options, view)  # type: ignore[no-any-return]
        input_size = options.input_size
        if options.pixel_size is not None:
            if input_size != "native":
                raise UsageError("give an input size or a pixel size, not both", got=input_size)
            input_size = f"{physical_size(options.pixel_size):g}nm"
        else:
            scaled_size((512, 512), input_size)  # a bad value fails here, not at the first image
        tile, overlap = (-(-side // spec.patch) for side in (options.tile, options.tile_overlap))
        if tile and overlap >= tile:
            raise UsageError(
                "tiles overlap as much as they are wide",
                where="tile_overlap",
                got=f"{options.tile_overlap} px",
                expected=f"less than {options.tile} px",
            )
        scaling: ScaledAs = getattr(spec, "scaling", "window")
        overlap = overlap if tile else 0
        return cls(spec.patch, spec.mean, spec.std, input_size, view, tile, overlap, scaling)

    @property
    def plain(self) -> bool:
        """Whether grey and colour go in as they are, by one window of intensities for all channels."""
        return self.channels is None and self.scaling == "window"

    @property
    def factor(self) -> int:
        """How many times as long as the backbone's own an embedding is."""
        return 1 if self.channels is None else self.channels.factor

    def at(self, pixel_size_nm: float | None) -> Preprocess:
        """Return the preprocessing of an image whose pixels have this size; see `at_pixel_size`."""
        return replace(self, input_size=at_pixel_size(self.input_size, pixel_size_nm))

    def tiled(self, size: tuple[int, int]) -> bool:
        """Return whether an image of native `size` is too large for one pass."""
        return bool(self.tile) and max(self.grid(size)) > self.tile

    def scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width in the model's input, before padding, of an image of native `size`."""
        return scaled_size(self.view.size(size), self.input_size)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of patches of an image of native `size`."""
        height, width = self.scaled(size)
        return -(-height // self.patch), -(-width // self.patch)

    def identity(self) -> dict[str, Any]:
        """Return all that decides the pixels, as plain JSON values.

        What is new since stores were first written is there only where it is used, so that they keep their names.
        """
        own: dict[str, Any] = {} if self.view == PLAIN else {"view": self.view.identity()}
        if not self.plain:
            own["intensity"] = {"scaling": self.scaling, "of": "each image and channel"}
        if self.channels is not None:
            own["channels"] = self.channels.identity()
        elif len(self.mean) != 3:
            own["channels"] = f"grey x{len(self.mean)}"
        return {
            "version": 2,
            "intensity": {
                "uint8": "/255",
                "other": f"percentiles {WINDOW[0]}-{WINDOW[1]} of about {WINDOW_PIXELS} pixels at the most",
            },
            "channels": "grey x3",
            "input_size": self.input_size,
            "resize": "bicubic antialiased",
            "mean": list(self.mean),
            "std": list(self.std),
            "patch": self.patch,
            "pad": "reflect right bottom",
            "tile": {"patches": self.tile, "overlap": self.overlap, "blend": "linear"} if self.tile else None,
            **own,
        }

    def standardise(self, planes: Floats) -> Floats:
        """Return ``(K, H, W)`` float32: planes in [0, 1], less the mean, over the deviation.

        Channels with a plan are put into their slots before: ``(P, K, H, W)`` if it has several passes.
        """
        if self.channels is not None:
            planes = self.channels.gather(planes)
            planes = planes[0] if len(planes) == 1 else planes
        mean = np.asarray(self.mean, np.float32)[:, None, None]
        std = np.asarray(self.std, np.float32)[:, None, None]
        return (planes - mean) / std  # one grey plane becomes three here, by broadcasting

    def scale_of(self, image: np.ndarray) -> Scaling:
        """Return what brings the intensities of each channel of ``(H, W)`` or ``(H, W, C)`` to their scale.

        Raises
        ------
        UsageError
            Not an image, or its channels are not those of the plan or of the backbone.
        CorruptError
            Values that are not finite.
        """
        _check(image, named=True)
        self.check_channels(image.shape)
        return scale_of(image, self.scaling)

    def check_channels(self, shape: tuple[int, ...]) -> None:
        """Go on only with as many channels as the plan or the backbone has.

        Parameters
        ----------
        shape
            ``(H, W)`` or ``(H, W, C)``.

        Raises
        ------
        UsageError
            There are others.
        """
        count = 1 if len(shape) == 2 else shape[2]
        slots = len(self.mean)
        if self.channels is not None and count != self.channels.count:
            raise UsageError("not the channels of the plan", got=count, expected=self.channels.count)
        if self.channels is None and count not in (1, slots):
            raise UsageError(
                "the backbone has not as many slots as the image has channels",
                got=f"{count} channels",
                expected=f"1 or {slots}",
                todo="name them (`emvfm data compose --channels`) and choose how they go in (--channels)",
            )

    def normalise(self, image: np.ndarray) -> Floats:
        """Return ``(3, H, W)`` float32, normalised, at the size it came: no resizing, no padding.

        Raises
        ------
        UsageError
            Not ``(H, W)`` or ``(H, W, 3)``, or not numbers.
        CorruptError
            Values that are not finite.
        """
        if not self.plain:
            return self.standardise(self.scale_of(image)(image))
        _check(image)
        return self.standardise(unit_planes(image, intensity_window(image)))

    def prepare(self, image: np.ndarray) -> Prepared:
        """Return the normalised, resized and padded image with its validity.

        Parameters
        ----------
        image
            ``(H, W)``, ``(H, W, 3)`` or, with a plan, ``(H, W, C)``; uint8 over 0-255, any other type over its
            own percentiles, unless `scaling` says otherwise.

        Raises
        ------
        UsageError
            The image, after resizing, is smaller than one patch; or it is no image.
        CorruptError
            Values that are not finite.
        """
        if self.plain:
            _check(image)
            self.check_channels(image.shape)
            window = intensity_window(image)
            planes = unit_planes(self.view(image), window)
        else:
            window = (0.0, 1.0)
            planes = self.scale_of(image)(self.view(image))
        size = (image.shape[0], image.shape[1])
        scaled = self.scaled(size)
        if min(scaled) < self.patch:
            raise UsageError(
                "the image is smaller than one patch",
                got=f"{scaled[0]} x {scaled[1]} px",
                expected=f"at least {self.patch} px a side",
                todo="enlarge it with --input-size or leave it out",
            )
        resized = resize_planes(planes, scaled, bounded=self.scaling != "self")
        padded = pad_to(resized, tuple(-(-side // self.patch) * self.patch for side in scaled))
        return Prepared(self.standardise(padded), valid_fraction(scaled, self.patch), size, scaled, window)
