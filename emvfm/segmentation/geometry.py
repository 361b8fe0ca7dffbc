"""Between the pixels of a mask and the pixels of a model's input: the same size, or resized and padded."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emvfm.backbones.preprocess import scaled_size
from emvfm.segmentation.losses import IGNORE

__all__ = ["as_map", "at_native", "target_of"]


def as_map(patches: np.ndarray) -> np.ndarray:
    """Return ``(L D, h, w)`` float32 from ``(L, h, w, D)`` patch tokens: layers side by side."""
    n_layers, h, w, width = patches.shape
    return np.ascontiguousarray(patches.transpose(0, 3, 1, 2), np.float32).reshape(n_layers * width, h, w)


def target_of(mask: NDArray[np.bool_], grid: tuple[int, int], patch: int, input_size: str) -> np.ndarray:
    """Return ``(h p, w p)`` uint8: the mask at the size of the model's input, padding ignored."""
    height, width = scaled_size((mask.shape[0], mask.shape[1]), input_size)
    rows = np.minimum(((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int), mask.shape[0] - 1)
    columns = np.minimum(((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int), mask.shape[1] - 1)
    target = np.full((grid[0] * patch, grid[1] * patch), IGNORE, np.uint8)
    target[:height, :width] = mask[np.ix_(rows, columns)]
    return target


def at_native(logits: Tensor, size: tuple[int, int], input_size: str) -> Tensor:
    """Return ``(B, K, H, W)`` logits at the native `size` of the image.

    Parameters
    ----------
    logits
        ``(B, K, h p, w p)`` on the pixels of the model's input, padding included.
    """
    height, width = scaled_size(size, input_size)
    inside = logits[..., :height, :width]
    if (height, width) == size:
        return inside
    return torch.nn.functional.interpolate(inside, size=size, mode="bilinear", align_corners=False)
