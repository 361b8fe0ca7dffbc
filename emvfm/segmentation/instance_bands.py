"""Connected parts of a mask that is too large for memory: labelled by bands of rows, then joined at the seams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["BandLabels", "label_bands"]

Pairs = NDArray[np.uint64]

#: ``(plane, start, stop)`` → ``(stop - start, W)`` bool.
Read = Callable[[int, int, int], NDArray[np.bool_]]


@dataclass(frozen=True)
class BandLabels:
    """Labels of a stack, read by rows.

    Attributes
    ----------
    path
        File of provisional labels, uint32, plane after plane.
    size
        Height and width in px.
    table
        ``(n + 1,)`` uint32: final label of each provisional one.
    count
        Number of parts.
    """

    path: Path
    size: tuple[int, int]
    table: NDArray[np.uint32]
    count: int

    def rows(self, plane: int, start: int, stop: int) -> NDArray[np.uint32]:
        """Return ``(stop - start, W)`` uint32 labels, 0 outside, else 1 … count."""
        return self.table[_provisional(self.path, self.size, plane, start, stop)]


def _provisional(path: Path, size: tuple[int, int], plane: int, start: int, stop: int) -> NDArray[np.uint32]:
    with path.open("rb") as stream:
        stream.seek((plane * size[0] + start) * size[1] * 4)
        return np.fromfile(stream, np.uint32, (stop - start) * size[1]).reshape(stop - start, size[1])


def _touching(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> Pairs:
    """Return the pairs of labels above 0 at the same place, once each, the two in one number."""
    both = (one > 0) & (other > 0)
    return np.unique(one[both].astype(np.uint64) << np.uint64(32) | other[both])


def _sideways(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> list[Pairs]:
    """Return the pairs that touch between equal rows of two sheets, straight and one column aside."""
    return [
        _touching(one, other),
        _touching(one[:, 1:], other[:, :-1]),
        _touching(one[:, :-1], other[:, 1:]),
    ]


def _joined(pairs: Pairs, n: int) -> NDArray[np.intp]:
    """Return the group of each label 0 … n, groups numbered by their first label."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(2**32 - 1)).astype(np.int64)
    graph = coo_array((np.ones(len(pairs), np.bool_), (one, other)), shape=(n + 1, n + 1))
    groups = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def label_bands(
    read: Read, planes: int, size: tuple[int, int], path: Path, *, band: int = 1024, minimum: int = 1
) -> BandLabels:
    """Number the connected parts of a stack of masks in order of their first pixels.

    Pixels touch at sides and corners, within a plane and between neighbouring ones. The same numbers as of
    `scipy.ndimage.label` come out; what is in memory is a band of rows and the pairs of parts at the seams.

    Parameters
    ----------
    read
        Gives rows of the mask.
    planes, size
        Number of planes, and their ``(H, W)``.
    path
        File to keep provisional labels in, 4 bytes a pixel; it is written over.
    band
        Rows at a time.
    minimum
        Smaller parts, in pixels, are left out.

    Raises
    ------
    OverflowError
        There are more than 2³² provisional parts.
    """
    from scipy.ndimage import label

    height = size[0]
    pairs: list[Pairs] = [np.empty(0, np.uint64)]
    areas: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    used = 0
    with path.open("wb"):
        pass
    for plane in range(planes):
        above: NDArray[np.uint32] | None = None
        for start in range(0, height, band):
            stop = min(height, start + band)
            found, n = label(read(plane, start, stop), structure=np.ones((3, 3), int), output=np.int32)
            if used + n >= 2**32:
                raise OverflowError("more than 2**32 parts")
            areas.append(np.bincount(found.ravel(), minlength=n + 1)[1:])
            labels = np.where(found > 0, found.astype(np.uint32) + np.uint32(used), np.uint32(0))
            used += n
            new = [] if above is None else _sideways(above, labels[:1])
            if plane:
                below = _provisional(path, size, plane - 1, max(0, start - 1), min(height, stop + 1))
                offset = start - max(0, start - 1)
                for shift in (-1, 0, 1):
                    first, last = max(0, offset + shift), min(len(below), offset + shift + stop - start)
                    own = first - offset - shift
                    new += _sideways(below[first:last], labels[own : own + last - first])
            pairs.append(np.unique(np.concatenate(new)) if new else np.empty(0, np.uint64))
            above = labels[-1:]
            with path.open("ab") as stream:
                stream.write(np.ascontiguousarray(labels).data)
    groups = _joined(np.unique(np.concatenate(pairs)), used)
    area = np.bincount(groups, weights=np.concatenate(areas), minlength=1)
    kept = area >= max(1, minimum)
    kept[0] = False  # the outside, whose label 0 joins nothing
    table = (np.cumsum(kept) * kept).astype(np.uint32)[groups]
    return BandLabels(path, size, table, int(kept.sum()))
