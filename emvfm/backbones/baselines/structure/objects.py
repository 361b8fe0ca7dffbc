"""Objects of a label mask, or cells of a table: where they are, and of what shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import CorruptError

__all__ = ["SHAPES", "Objects", "objects_of", "shapes_of"]

Floats = NDArray[np.float64]

#: Measures of an object's shape and the power of a length that each is.
SHAPES = {"area": 2, "perimeter": 1, "major-axis": 1, "minor-axis": 1, "eccentricity": 0, "solidity": 0,
          "circularity": 0}  # fmt: skip

#: Length of border that a pixel of it stands for, by 1 + 2 a + 10 b of its a straight and b diagonal
#: neighbours on the border (Benkrid and Crookes 2000).
_BORDER = np.zeros(50)
_BORDER[[5, 7, 15, 17, 25, 27]] = 1
_BORDER[[21, 33]] = np.sqrt(2)
_BORDER[[13, 23]] = (1 + np.sqrt(2)) / 2


@dataclass(frozen=True)
class Objects:
    """The objects of one image.

    Attributes
    ----------
    points
        ``(n, 2)`` float64: x and y of their centres, from the upper left corner of the image.
    window
        Width and height of the image, in the same unit.
    shapes
        ``(n, 7)`` measures of `SHAPES`; None of a table of cells.
    angles
        ``(n,)`` direction of the major axis in radians; None of a table.
    whole
        ``(n,)`` bool: whether an object ends within the image.
    types
        Length n: what each cell is; None where that is not known.
    """

    points: Floats
    window: tuple[float, float]
    shapes: Floats | None = None
    angles: Floats | None = None
    whole: NDArray[np.bool_] | None = None
    types: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.points)

    @property
    def area(self) -> float:
        """Of the image."""
        return self.window[0] * self.window[1]

    @property
    def spacing(self) -> float:
        """Side of the square that each object has on average."""
        return float(np.sqrt(self.area / max(1, len(self))))

    def scaled(self, factor: float) -> Objects:
        """Return the same objects in a unit of which a pixel is `factor`."""
        powers = np.array(list(SHAPES.values()), float)
        return replace(
            self,
            points=self.points * factor,
            window=(self.window[0] * factor, self.window[1] * factor),
            shapes=None if self.shapes is None else self.shapes * factor**powers,
        )

    @classmethod
    def of_cells(
        cls, points: Floats, window: tuple[float, float], types: Sequence[str] | None = None
    ) -> Objects:
        """Return the cells at ``(n, 2)`` x and y within a window of this width and height.

        Raises
        ------
        CorruptError
            A position that is not finite or lies outside the window.
        """
        points = np.asarray(points, np.float64).reshape(-1, 2)
        inside = np.isfinite(points).all() and bool(((points >= 0) & (points <= window)).all())
        if not inside:
            raise CorruptError(
                "a cell lies outside its image", expected=f"0 to {window[0]:g} and 0 to {window[1]:g}"
            )
        return cls(points, window, types=None if types is None else np.asarray(types, np.str_))


def _consecutive(labels: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return labels 0 … n in place of any numbers, of which 0 is outside."""
    if labels.ndim != 2 or labels.dtype.kind not in "biu":
        raise CorruptError(
            "not a label mask", got=f"{labels.dtype} of {labels.ndim} axes", expected="(H, W) numbers"
        )
    values, found = np.unique(labels, return_inverse=True)
    if values[0] < 0:
        raise CorruptError("negative labels", got=int(values[0]), expected="0 for background")
    return np.asarray(found.reshape(labels.shape) + (values[0] != 0), np.intp)


def _same(labels: NDArray[np.intp], down: int, right: int) -> NDArray[np.bool_]:
    """Return where the neighbour `down` and `right` has the same label; beyond the image is none."""
    height, width = labels.shape
    wide = np.pad(labels, 1, constant_values=-1)
    return np.asarray(wide[1 + down : 1 + down + height, 1 + right : 1 + right + width] == labels)


_STRAIGHT = ((0, 1), (1, 0), (0, -1), (-1, 0))
_DIAGONAL = ((1, 1), (1, -1), (-1, 1), (-1, -1))


def _borders(labels: NDArray[np.intp]) -> tuple[NDArray[np.bool_], Floats]:
    """Return the pixels of objects that have a straight neighbour outside, and the length each stands for."""
    border = (labels > 0) & ~np.logical_and.reduce([_same(labels, *step) for step in _STRAIGHT])
    marked = np.where(border, labels, -2)  # what is no border equals no border
    code = np.ones(labels.shape, np.intp)
    for steps, worth in ((_STRAIGHT, 2), (_DIAGONAL, 10)):
        for step in steps:
            code += worth * (_same(marked, *step) & border)
    return border, np.where(border, _BORDER[np.minimum(code, len(_BORDER) - 1)], 0.0)


def _hull_area(ys: NDArray[np.intp], xs: NDArray[np.intp]) -> float:
    """Return the area of the convex hull of the middles of the sides of pixels."""
    from scipy.spatial import ConvexHull

    corners = np.concatenate(
        [np.stack([ys + dy, xs + dx], -1) for dy, dx in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))]
    )
    return float(ConvexHull(corners).volume)


def shapes_of(labels: NDArray[np.intp]) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Return centres ``(n, 2)``, shapes ``(n, 7)``, angles ``(n,)`` and wholeness of labels 1 … n, in px.

    Axes and eccentricity are those of the ellipse with the object's second moments, a pixel counting as a
    square; solidity is the share of the convex hull; circularity is 4 pi area / perimeter².
    """
    n = int(labels.max(initial=0))
    ys, xs = np.nonzero(labels)
    which = labels[ys, xs] - 1
    area = np.bincount(which, minlength=n).astype(np.float64)

    def mean(values: NDArray[Any]) -> Floats:
        return np.bincount(which, values, minlength=n) / area

    cy, cx = mean(ys), mean(xs)
    dy, dx = ys - cy[which], xs - cx[which]
    yy, xx, yx = mean(dy * dy) + 1 / 12, mean(dx * dx) + 1 / 12, mean(dy * dx)
    middle, gap = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + yx**2)
    major, minor = 4 * np.sqrt(middle + gap), 4 * np.sqrt(np.maximum(middle - gap, 0))
    angle = 0.5 * np.arctan2(2 * yx, xx - yy)
    border, lengths = _borders(labels)
    perimeter = np.bincount(labels[border] - 1, lengths[border], minlength=n)
    by, bx = np.nonzero(border)
    order = np.argsort(labels[by, bx], kind="stable")
    ends = np.cumsum(np.bincount(labels[by, bx] - 1, minlength=n))[:-1]
    hulls = np.array(
        [_hull_area(y, x) for y, x in zip(np.split(by[order], ends), np.split(bx[order], ends), strict=True)]
        if n
        else []
    )
    eccentricity = np.sqrt(np.maximum(1 - (minor / major) ** 2, 0))
    circularity = np.divide(4 * np.pi * area, perimeter**2, out=np.ones_like(area), where=perimeter > 0)
    shapes = np.stack(
        [
            area,
            perimeter,
            major,
            minor,
            eccentricity,
            np.minimum(area / hulls, 1),
            np.minimum(circularity, 1),
        ],
        -1,
    )
    edge = np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])
    whole = ~np.isin(np.arange(1, n + 1), edge)
    return np.stack([cx + 0.5, cy + 0.5], axis=-1), shapes, angle, whole


def objects_of(labels: NDArray[np.integer]) -> Objects:
    """Return the objects of a label mask, in px: pixels of one number are one object, 0 is outside.

    Raises
    ------
    CorruptError
        No ``(H, W)`` whole numbers from 0.
    """
    height, width = labels.shape[:2]
    return Objects(*_placed(shapes_of(_consecutive(labels)), (float(width), float(height))))


def _placed(
    found: tuple[Floats, Floats, Floats, NDArray[np.bool_]], window: tuple[float, float]
) -> tuple[Floats, tuple[float, float], Floats, Floats, NDArray[np.bool_]]:
    points, shapes, angles, whole = found
    return points, window, shapes, angles, whole
