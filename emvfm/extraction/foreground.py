"""The share of foreground in each patch, with the geometry the image went through."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.preprocess import Preprocess

__all__ = ["patch_foreground"]

_BAND = 64  # rows of patches at a time: the mask of a large section is not copied as a whole


def _edges(n_patches: int, patch: int, native: int, scaled: int) -> NDArray[np.float64]:
    """Return the ``n_patches + 1`` borders of patches in native pixels; none lies beyond the image."""
    return np.minimum(np.arange(n_patches + 1) * patch * native / scaled, native)


def _sums(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of `values` along the first axis between fractional `edges`: ``(len(edges) - 1, …)``."""
    total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
    below = np.minimum(np.floor(edges).astype(int), len(values) - 1)
    part = (edges - below).reshape(-1, *[1] * (values.ndim - 1))
    return np.diff(total[below] + part * values[below], axis=0)


def patch_foreground(mask: NDArray[np.bool_], preprocess: Preprocess) -> NDArray[np.float32]:
    """Return ``(h, w)`` float32 in [0, 1]: the exact foreground share of each patch's real pixels.

    Parameters
    ----------
    mask
        ``(H, W)`` bool at native size.
    preprocess
        Says how an image of that size is resized and padded.
    """
    shown, size = preprocess.view(mask), (mask.shape[0], mask.shape[1])
    rows, columns = (
        _edges(n, preprocess.patch, native, scaled)
        for n, native, scaled in zip(preprocess.grid(size), shown.shape, preprocess.scaled(size), strict=True)
    )
    bands = []
    for first in range(0, len(rows) - 1, _BAND):
        edges = rows[first : first + _BAND + 1]
        top = int(edges[0])
        native = shown[top : int(np.ceil(edges[-1]))].astype(np.float64)
        sums = _sums(_sums(native, edges - top).T, columns).T
        bands.append(sums / np.outer(np.diff(edges), np.diff(columns)))
    return np.clip(np.concatenate(bands), 0, 1).astype(np.float32)
