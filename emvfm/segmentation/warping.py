"""Rotation, zoom and elastic change of an image and its mask in one resampling.

Where each pixel of the result comes from is decided by pure functions of a few drawn numbers; image and mask
are then read at the very same places, the image bilinearly, the mask at the nearest pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from emvfm.errors import UsageError
from emvfm.segmentation.losses import IGNORE

__all__ = ["Warp", "central", "draw_warp", "margin", "resample", "resample_tokens"]

#: Pixels between the nodes of the elastic field, and the deviation of the Gaussian that smooths it.
SPACING = 8
SMOOTHNESS = 32.0


@dataclass(frozen=True)
class Warp:
    """Where the pixels of a result lie in the image.

    Attributes
    ----------
    angle
        Radians by which the content turns, counter-clockwise as seen.
    zoom
        How many times larger the content gets.
    shift
        ``(2, n, m)`` float32: displacement in rows and columns of the image at nodes spread evenly over the
        result, at least two along each axis.
    """

    angle: float
    zoom: float
    shift: NDArray[np.float32]

    def nodes(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return ``(2, n, m)``: where nodes spread evenly over a result of `size`, corners included, come from.

        Rows and columns of the image, in pixels from what lies under the middle of the result; linear between
        nodes, so that no displacement exceeds that of a node.
        """
        shift = self.shift
        rows = np.linspace(-(size[0] - 1) / 2, (size[0] - 1) / 2, shift.shape[1])[:, None] / self.zoom
        columns = np.linspace(-(size[1] - 1) / 2, (size[1] - 1) / 2, shift.shape[2])[None] / self.zoom
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return np.stack([cosine * rows + sine * columns, cosine * columns - sine * rows]) + shift


def margin(size: tuple[int, int], *, rotation: float, zoom: float, elastic: float) -> tuple[int, int]:
    """Return how many more rows and columns a warp may need on each side of a result of `size`.

    Parameters
    ----------
    size
        ``(h, w)`` of the result.
    rotation
        Largest angle in degrees, either way.
    zoom
        The content shrinks at most by 1 + zoom.
    elastic
        Largest displacement in pixels.
    """

    def reach(along: int, across: int) -> int:
        worst = min(math.radians(rotation), math.atan2(across, along))
        half = (along * math.cos(worst) + across * math.sin(worst)) / 2 * (1 + zoom)
        more = half - along / 2 + elastic
        return math.ceil(more + 1) if more > 1e-9 else 0  # bilinear reading takes one pixel more

    return reach(size[0], size[1]), reach(size[1], size[0])


def draw_warp(
    rng: np.random.Generator, size: tuple[int, int], *, rotation: float, zoom: float, elastic: float
) -> Warp:
    """Draw a warp for a result of `size`; what is drawn is uniform up to the bounds of :func:`margin`.

    The zoom is uniform in its logarithm. The elastic field is that of Simard et al. 2003
    (10.1109/ICDAR.2003.1227801): noise smoothed by a Gaussian of 32 pixels, here scaled by its largest
    displacement along an axis and a uniform number. The numbers taken from `rng` depend on `size` alone.

    Raises
    ------
    UsageError
        A strength is out of range.
    """
    for name, value, most in (("rotation", rotation, 180.0), ("zoom", zoom, 3.0), ("elastic", elastic, 16.0)):
        if not 0 <= value <= most:
            raise UsageError("out of range", where=f"warp {name}", got=value, expected=f"0..{most:g}")
    turn, grow = rng.uniform(-1, 1, size=2)
    strength = rng.uniform()
    nodes = (2, *(math.ceil(side / SPACING) + 1 for side in size))
    noise = rng.standard_normal(nodes, dtype=np.float32)
    shift = _smooth(noise) * np.float32(elastic * strength) if elastic else np.zeros((2, 2, 2), np.float32)
    return Warp(math.radians(rotation) * turn, (1 + zoom) ** grow, shift)


def _smooth(noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth a field along its last axes and scale each component to a largest magnitude of 1."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(noise, SMOOTHNESS / SPACING, axes=(1, 2), mode="reflect")
    return smooth / np.abs(smooth).max(axis=(1, 2), keepdims=True)


def central(array: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Return the middle of the first two axes, a view; of two middles the one nearer the beginning."""
    top, left = (array.shape[0] - size[0]) // 2, (array.shape[1] - size[1]) // 2
    return array[top : top + size[0], left : left + size[1]]


def resample(
    image: NDArray[np.float32], target: NDArray[np.uint8], warp: Warp, size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Read an image and its mask where a warp says, about the centre of :func:`central`.

    Parameters
    ----------
    image
        ``(H, W)`` or ``(H, W, 3)``.
    target
        ``(H, W)``.
    size
        ``(h, w)`` of the result, at most that of the image.

    Returns
    -------
    image, target
        ``(h, w[, 3])`` and ``(h, w)``. Outside the image its mirror is seen, and the mask is ignored.
    """
    grid = _between(_relative(warp.nodes(size), target.shape, size), size)
    # A single channel gets its axis in front: behind, its strides would choose grid_sample's slow path.
    planes = torch.from_numpy(
        np.ascontiguousarray(np.moveaxis(image, -1, 0) if image.ndim == 3 else image[None])
    )
    seen = functional.grid_sample(planes[None], grid, "bilinear", "reflection", align_corners=False)[0]
    # One is added to the labels, so that the zeros outside are no label.
    labels = torch.from_numpy(target).to(torch.float32).add_(1)[None, None]
    found = functional.grid_sample(labels, grid, "nearest", "zeros", align_corners=False)[0, 0]
    under = found.sub_(1).masked_fill_(found < 0, IGNORE).to(torch.uint8)
    return seen.movedim(0, -1).reshape(*size, *image.shape[2:]).numpy(), under.numpy()


def resample_tokens(tokens: Tensor, warp: Warp, patch: int, size: tuple[int, int]) -> Tensor:
    """Move a token map as :func:`resample` moves the image under it.

    Each token of the result is read, bilinearly, where the middle of its patch comes from. It stays what the
    backbone saw there: neither turned nor zoomed.

    Parameters
    ----------
    tokens
        ``(C, H, W)`` of an image of ``(H patch, W patch)``.
    size
        ``(h, w)`` pixels of the result, whole patches and at most those of the image.

    Returns
    -------
    Tensor
        ``(C, h / patch, w / patch)``. Outside the image its mirror is seen.
    """
    shape = (tokens.shape[-2] * patch, tokens.shape[-1] * patch)
    grid = _between(_relative(warp.nodes(size), shape, size), size)
    middles = functional.avg_pool2d(grid.movedim(-1, 1), patch).movedim(1, -1)
    return functional.grid_sample(tokens[None], middles, "bilinear", "reflection", align_corners=False)[0]


def _relative(
    nodes: NDArray[np.float64], shape: tuple[int, ...], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return pixels from the middle of :func:`central` as -1 to 1 from edge to edge of the image."""
    whole = np.array(shape)[:, None, None]
    cut = np.array(size)[:, None, None]
    middle = (whole - cut) // 2 + (cut - 1) / 2
    return (2 * (nodes + middle) + 1) / whole - 1


def _between(nodes: NDArray[np.float64], size: tuple[int, int]) -> Tensor:
    """Return ``(1, h, w, 2)`` float32, columns first as grid_sample wants them, linear between the nodes."""
    sparse = torch.from_numpy(nodes[::-1].astype(np.float32))[None]
    dense = functional.interpolate(sparse, size=size, mode="bilinear", align_corners=True)
    return dense.permute(0, 2, 3, 1).contiguous()  # twenty times as fast as interpolating channels last
