"""Masks as objects: the labels of a label mask, or the connected parts of a binary one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emvfm.datasets.images import read_plane
from emvfm.datasets.masks import read_mask

if TYPE_CHECKING:
    import numpy as np

__all__ = ["read_labels"]


def read_labels(path: Path) -> np.ndarray:
    """Read a mask as labels.

    Whole numbers of which all above 0 are foreground (see `read_mask`) and more than one occurs are labels:
    pixels of one number are one object. Any other mask is cut into its parts, joined over corners too.

    Returns
    -------
    np.ndarray
        (H, W) int64, 0 is outside.

    Raises
    ------
    MissingError
        There is no such file.
    CorruptError
        The file is damaged, or is no mask.
    """
    import numpy as np
    from scipy.ndimage import label

    mask, values = read_mask(path), read_plane(path, None)
    if values.ndim == 2 and values.dtype.kind in "iu" and bool(((values > 0) == mask).all()):
        inside = values[mask]
        if inside.size and inside.min() != inside.max():
            return values.astype(np.int64)
    return np.asarray(label(mask, structure=np.ones((3, 3), int))[0], np.int64)
