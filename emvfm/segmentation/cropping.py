"""Where crops lie on an image, how they are turned, and what is seen beyond the image's edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError
from emvfm.segmentation.augmentation import Augmentation, Dihedral, photometric, random_dihedral
from emvfm.segmentation.losses import IGNORE

__all__ = ["Cropping", "Size", "around", "beyond"]

Size = tuple[int, int]


@dataclass(frozen=True)
class Cropping:
    """How crops are laid over an image and varied.

    Attributes
    ----------
    side
        In pixels of the model's input, smaller where an image is smaller; 0: as much as all images have, which
        need not be square.
    foreground
        Chance that a crop is laid around a pixel of foreground.
    varied
        How crops are flipped, warped and changed in grey level. Tokens without pixels beside them are only flipped
        and turned.
    """

    side: int = 336
    foreground: float = 0.0
    varied: Augmentation = field(default_factory=Augmentation)

    def size(self, patch: int, grids: Sequence[Size]) -> Size:
        """Return the rows and columns of a crop in patches.

        Raises
        ------
        UsageError
            `side` holds no patch.
        """
        height, width = (min(grid[k] for grid in grids) for k in (0, 1))
        if self.side == 0:
            return height, width
        if self.side < patch:
            raise UsageError(
                "crop smaller than a patch", where="--crop", got=self.side, expected=f"at least {patch}"
            )
        square = min(self.side // patch, height, width)
        return square, square

    def corner(self, rng: np.random.Generator, target: NDArray[np.uint8], size: Size, patch: int) -> Size:
        """Draw the first row and column of a crop of `size` patches over a target ``(h p, w p)``."""
        room = [n // patch - side for n, side in zip(target.shape, size, strict=True)]
        low, high = [0, 0], room
        if self.foreground and rng.random() < self.foreground:
            places = np.flatnonzero(target == 1)
            if len(places):
                place = int(places[rng.integers(len(places))])
                cell = [n // patch for n in divmod(place, target.shape[1])]
                low = [max(0, c - side + 1) for c, side in zip(cell, size, strict=True)]
                high = [min(c, most) for c, most in zip(cell, room, strict=True)]
        first, second = (int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
        return first, second

    def turn(self, rng: np.random.Generator, size: Size) -> Dihedral:
        """Draw a symmetry that keeps the shape of a crop."""
        if not self.varied.flips:
            return Dihedral()
        drawn = random_dihedral(rng)
        return drawn if size[0] == size[1] else Dihedral(drawn.k // 2 * 2, drawn.flip)

    def graded(self, grey: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return a crop with its grey levels changed, and nothing moved."""
        v = self.varied
        strengths = {"brightness": v.brightness, "contrast": v.contrast, "gamma": v.gamma}
        return photometric(grey, rng, **strengths, noise=v.noise, blur=v.blur)


def around(
    grey: np.ndarray, target: NDArray[np.uint8], corner: Size, size: Size, margin: Size
) -> tuple[np.ndarray, NDArray[np.uint8]]:
    """Return a crop with a margin on each side; beyond the image there is its mirror, and no label."""
    parts = [
        slice(first - more, first + side + more)
        for first, side, more in zip(corner, size, margin, strict=True)
    ]
    return beyond(grey, parts), beyond(target, parts, IGNORE)


def beyond(array: np.ndarray, parts: Sequence[slice], fill: int | None = None) -> np.ndarray:
    """Return a part of the first two axes that may reach beyond them: into the mirror, or what `fill` says."""
    missing = [(max(0, -p.start), max(0, p.stop - n)) for p, n in zip(parts, array.shape, strict=False)]
    inside = array[tuple(slice(max(0, p.start), p.stop) for p in parts)]
    if not any(map(any, missing)):
        return inside
    if fill is not None:
        return np.pad(inside, missing, constant_values=fill)
    return np.pad(inside, [*missing, (0, 0)][: array.ndim], mode="symmetric")
