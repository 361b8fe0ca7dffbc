"""The share of foreground in each patch, with the geometry the image went through."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.preprocess import Preprocess

__all__ = ["patch_foreground"]


def _coverage(n_patches: int, patch: int, native: int, scaled: int) -> NDArray[np.float64]:
    """Return ``(n_patches, native)``: how much of each native pixel each patch covers along one axis."""
    edges = np.arange(n_patches + 1) * patch * native / scaled
    low = np.maximum(edges[:-1, None], np.arange(native)[None])
    high = np.minimum(edges[1:, None], np.arange(1, native + 1)[None])
    return np.clip(high - low, 0, None)


def patch_foreground(mask: NDArray[np.bool_], preprocess: Preprocess) -> NDArray[np.float32]:
    """Return ``(h, w)`` float32 in [0, 1]: the exact foreground share of each patch's real pixels.

    Parameters
    ----------
    mask
        ``(H, W)`` bool at native size.
    preprocess
        Says how an image of that size is resized and padded.
    """
    shown = preprocess.view(mask)
    scaled = preprocess.scaled((mask.shape[0], mask.shape[1]))
    rows, columns = (
        _coverage(-(-new // preprocess.patch), preprocess.patch, old, new)
        for old, new in zip(shown.shape, scaled, strict=True)
    )
    area = rows.sum(axis=1)[:, None] * columns.sum(axis=1)[None, :]
    return (rows @ shown.astype(np.float64) @ columns.T / area).astype(np.float32)
