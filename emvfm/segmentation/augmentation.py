"""Augmentation by the eight symmetries of the square, by warps and by changes of grey level.

Flips and quarter turns act on token maps, images and masks alike, so tokens stored once serve every symmetry
a patch-wise equivariant model would see. Grey-level changes act on images in [0, 1] before normalisation,
where a gamma has its meaning. All randomness comes from the generator that is handed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emvfm.errors import UsageError
from emvfm.segmentation.augmentation_options import Augmentation
from emvfm.segmentation.warping import central, draw_warp, margin, resample

__all__ = [
    "Augmentation",
    "Dihedral",
    "all_dihedral",
    "augment",
    "margin_of",
    "photometric",
    "random_dihedral",
]

BLUR_SIGMA = (0.3, 1.2)


@dataclass(frozen=True)
class Dihedral:
    """A symmetry of the square: a flip of the columns, if any, then `k` quarter turns counter-clockwise.

    Parameters
    ----------
    k
        Quarter turns, 0 to 3.
    flip
        Whether the columns are reversed first.

    Raises
    ------
    UsageError
        When `k` is not 0, 1, 2 or 3.
    """

    k: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.k not in range(4):
            raise UsageError(
                "not a number of quarter turns", where="Dihedral", got=self.k, expected="0, 1, 2, 3"
            )

    def __call__(self, array: Tensor) -> Tensor:
        """Transform the last two axes of `(..., H, W)`; an odd `k` swaps H and W. Returns a contiguous copy."""
        flipped = array.flip(-1) if self.flip else array
        return torch.rot90(flipped, self.k, (-2, -1)).contiguous()

    def __matmul__(self, other: Dihedral) -> Dihedral:
        """Compose: ``(a @ b)(x)`` equals ``a(b(x))``."""
        turns = -other.k if self.flip else other.k
        return Dihedral((self.k + turns) % 4, self.flip != other.flip)

    def inverse(self) -> Dihedral:
        """Return the element that undoes this one; a reflection undoes itself."""
        return self if self.flip else Dihedral(-self.k % 4)


def all_dihedral() -> Iterator[Dihedral]:
    """Yield the eight elements, the identity first."""
    for flip in (False, True):
        for k in range(4):
            yield Dihedral(k, flip)


def random_dihedral(rng: np.random.Generator) -> Dihedral:
    """Draw one of the eight elements with equal probability."""
    draw = int(rng.integers(8))
    return Dihedral(draw % 4, draw >= 4)


def margin_of(size: tuple[int, int], strengths: Augmentation) -> tuple[int, int]:
    """Return the rows and columns to add on each side of a crop of `size`, so that a warp leaves no holes."""
    if not strengths.warp:
        return 0, 0
    return margin(size, rotation=strengths.rotation, zoom=strengths.zoom, elastic=strengths.elastic)


def augment(
    image: NDArray[np.floating[Any]],
    target: NDArray[np.uint8],
    strengths: Augmentation,
    rng: np.random.Generator,
    *,
    size: tuple[int, int] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Vary a crop and its mask together: warp, flip and turn, then change the grey levels of the image.

    Parameters
    ----------
    image
        `(H, W)` or `(H, W, 3)` floating, in [0, 1]; left unchanged.
    target
        `(H, W)` uint8 labels; left unchanged.
    strengths
        How much of what.
    rng
        The only source of randomness; how much is taken from it does not depend on the strengths.
    size
        `(h, w)` of the result, its middle that of the image; without it all of the image. Larger images by
        :func:`margin_of` on each side keep what a warp brings in real.

    Returns
    -------
    image, target
        `(h, w[, 3])` float32 in [0, 1] and `(h, w)` uint8, h and w swapped by an odd quarter turn. Where a
        warp reaches outside the image, its mirror is seen and the target is ignored; no label is new.

    Raises
    ------
    UsageError
        For a shape, type or value that does not fit, or a strength out of range.
    """
    size = (image.shape[0], image.shape[1]) if size is None else size
    _check_image(image)
    _check_target(target, image.shape[:2], size)
    if not 0 <= strengths.warp <= 1:
        raise UsageError("not a probability", where="augmentation warp", got=strengths.warp, expected="0..1")
    chance = rng.uniform()
    warp = draw_warp(rng, size, rotation=strengths.rotation, zoom=strengths.zoom, elastic=strengths.elastic)
    turn = random_dihedral(rng)
    grey, labels = central(image, size), central(target, size)
    if chance < strengths.warp and (strengths.rotation or strengths.zoom or strengths.elastic):
        grey, labels = resample(image.astype(np.float32, copy=False), target, warp, size)
        np.clip(grey, 0, 1, out=grey)
    if strengths.flips:
        grey, labels = _turned(grey, turn), _turned(labels, turn)
    varied = photometric(
        grey,
        rng,
        brightness=strengths.brightness,
        contrast=strengths.contrast,
        gamma=strengths.gamma,
        noise=strengths.noise,
        blur=strengths.blur,
    )
    return varied, np.ascontiguousarray(labels)


def _turned(array: np.ndarray[Any, Any], turn: Dihedral) -> np.ndarray[Any, Any]:
    """Transform the first two axes."""
    return np.ascontiguousarray(np.rot90(array[:, ::-1] if turn.flip else array, turn.k))


def photometric(
    image: np.ndarray[Any, Any],
    rng: np.random.Generator,
    *,
    brightness: float = 0.1,
    contrast: float = 0.2,
    gamma: float = 0.2,
    noise: float = 0.02,
    blur: float = 0.2,
) -> np.ndarray[Any, Any]:
    """Vary the grey levels of one image as dose, detector and focus vary between electron micrographs.

    Parameters
    ----------
    image
        `(H, W)` or `(H, W, 3)` floating, in [0, 1]; left unchanged.
    rng
        The only source of randomness.
    brightness
        Largest shift of the grey level, either way.
    contrast
        Largest relative change of the deviation from the mean, at most 1.
    gamma
        The exponent lies between 1 / (1 + gamma) and 1 + gamma, uniformly in its logarithm.
    noise
        Largest standard deviation of Gaussian noise; micrographs are grey, so all channels get the same.
    blur
        Probability of a Gaussian blur with a sigma of 0.3 to 1.2 pixels.

    Returns
    -------
    ndarray
        The shape of `image`, float32, clipped to [0, 1].

    Raises
    ------
    UsageError
        When the image is not floating in [0, 1] (for instance already normalised), or a strength is out of
        range.
    """
    _check_image(image)
    _check_strengths(brightness, contrast, gamma, noise, blur)
    # Every number is drawn whatever the strengths: turning one change off leaves the others as they were.
    shift, stretch, bend = rng.uniform(-1, 1, size=3)
    loudness, chance = rng.uniform(size=2)
    sigma = rng.uniform(*BLUR_SIGMA)
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32)

    # A change of strength 0 is left out, not computed: rounding would otherwise stir the image.
    result = image.astype(np.float32)
    if chance < blur:
        result = np.clip(_blurred(result, sigma), 0, 1)
    if gamma:
        result **= np.float32((1 + gamma) ** bend)
    if contrast or brightness:
        mean = result.mean(dtype=np.float64).astype(np.float32)
        result -= mean
        result *= np.float32(1 + contrast * stretch)
        result += mean + np.float32(brightness * shift)
    if noise:
        grain *= np.float32(noise * loudness)
        result += grain if result.ndim == 2 else grain[:, :, None]
    return np.clip(result, 0, 1, out=result)


def _blurred(image: np.ndarray[Any, Any], sigma: float) -> np.ndarray[Any, Any]:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, sigma, mode="reflect", axes=(0, 1))


def _check_image(image: np.ndarray[Any, Any]) -> None:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise UsageError("wrong shape", where="image", got=image.shape, expected="(H, W) or (H, W, 3)")
    if not np.issubdtype(image.dtype, np.floating):
        raise UsageError("wrong dtype", where="image", got=image.dtype, expected="floating in [0, 1]")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        found = f"[{low:.3g}, {high:.3g}]"
        todo = "change the grey levels before normalising"
        raise UsageError("values out of range", where="image", got=found, expected="[0, 1]", todo=todo)


def _check_target(target: np.ndarray[Any, Any], shape: tuple[int, ...], size: tuple[int, int]) -> None:
    if target.shape != shape:
        raise UsageError("not the size of the image", where="target", got=target.shape, expected=shape)
    if target.dtype != np.uint8:
        raise UsageError("wrong dtype", where="target", got=target.dtype, expected="uint8")
    if not (1 <= size[0] <= shape[0] and 1 <= size[1] <= shape[1]):
        raise UsageError("no such crop", where="augmented size", got=size, expected=f"within {shape}")


def _check_strengths(brightness: float, contrast: float, gamma: float, noise: float, blur: float) -> None:
    for name, value, most in (
        ("brightness", brightness, 1.0),
        ("contrast", contrast, 1.0),
        ("gamma", gamma, 10.0),
        ("noise", noise, 1.0),
        ("blur", blur, 1.0),
    ):
        if not 0 <= value <= most:
            raise UsageError("out of range", where=f"photometric {name}", got=value, expected=f"0..{most:g}")
