"""Views of an image: the same pixels turned, mirrored, and moved against the patch grid.

A ViT is not equivariant: a turned image, or one whose patches begin elsewhere, gives other tokens. A head on
frozen embeddings sees this variety only if the backbone has; each view is embedded once and kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from emvfm.errors import UsageError

__all__ = ["MOST_VIEWS", "PLAIN", "View", "training_views"]

MOST_VIEWS = 8


@dataclass(frozen=True)
class View:
    """How the pixels of an image, and of its mask, are shown.

    Attributes
    ----------
    turns
        Quarter turns counter-clockwise, 0 to 3, after mirroring.
    mirrored
        Whether the columns are reversed.
    skipped
        Rows at the top and columns at the left that are then left out, which moves the patch grid.
    """

    turns: int = 0
    mirrored: bool = False
    skipped: tuple[int, int] = (0, 0)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return the view of ``(H, W)`` or ``(H, W, 3)`` pixels; a mask is shown as its image is."""
        mirrored = pixels[:, ::-1] if self.mirrored else pixels
        return np.rot90(mirrored, self.turns)[self.skipped[0] :, self.skipped[1] :]

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of the view of an image of `size`."""
        height, width = size[::-1] if self.turns % 2 else size
        return height - self.skipped[0], width - self.skipped[1]

    def identity(self) -> dict[str, Any]:
        """Return the view as plain JSON values."""
        return {**asdict(self), "skipped": list(self.skipped)}


PLAIN = View()


def training_views(n: int, patch: int) -> tuple[View, ...]:
    """Return `n` views, the plain one first.

    Moving the patch grid comes before turning: on validation sections of VNC (ViT-S/14, twelve training
    sections) four grids lifted IoU from 0.72 to 0.76, while four turned views left it at 0.70; a head that is
    tested on upright images learns little from the tokens of turned ones. (Those sections lay in the volume of the
    training sections; between halves of Lucchi's sections the turned views helped, docs/segmentation.md.)

    Parameters
    ----------
    n
        1 to 8; the first four move the patch grid by half a patch, the others are turned or mirrored too.
    patch
        Side of a patch in px.

    Raises
    ------
    UsageError
        `n` is out of range.
    """
    if not 1 <= n <= MOST_VIEWS:
        raise UsageError("not a number of views", got=n, expected=f"1 to {MOST_VIEWS}")
    half = patch // 2
    grids = ((0, 0), (half, half), (half, 0), (0, half))
    turned = ((1, False), (2, False), (3, False), (0, True))
    views = [View(skipped=grid) for grid in grids]
    views += [View(turns, mirrored, grid) for (turns, mirrored), grid in zip(turned, grids, strict=True)]
    return tuple(views[:n])
