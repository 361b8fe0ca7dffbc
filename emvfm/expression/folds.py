"""What is left out together: patients, sections, and blocks of neighbouring spots; never single spots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import RefusedError, UsageError

__all__ = ["Fold", "block_folds", "inner_folds", "leave_one_out", "pitch", "spatial_blocks"]

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Fold:
    """Spots to learn from and spots to be tested.

    Attributes
    ----------
    name
        What is left out.
    train, test
        Positions of spots; those in neither are too near to the test.
    """

    name: str
    train: Rows
    test: Rows


def leave_one_out(groups: Sequence[str]) -> tuple[Fold, ...]:
    """Return one fold a group, in the order of their names.

    Raises
    ------
    RefusedError
        There are fewer than two groups.
    """
    labels = np.asarray(groups, str)
    names = np.unique(labels)
    if len(names) < 2:
        raise RefusedError(
            "nothing to leave out", got=f"{len(names)} group", expected="two or more",
            todo="name another column with --group, or leave it out for spatial blocks",
        )  # fmt: skip
    return tuple(
        Fold(str(name), np.flatnonzero(labels != name), np.flatnonzero(labels == name)) for name in names
    )


def _places(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    places = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=1)
    if not np.isfinite(places).all():
        raise RefusedError("positions that are not finite numbers", where="spots")
    return places


def pitch(x: ArrayLike, y: ArrayLike, sections: Sequence[object]) -> float:
    """Return the median distance of a spot to its nearest neighbour in its section.

    Raises
    ------
    RefusedError
        No section has two spots, or most spots lie on one another.
    """
    from scipy.spatial import cKDTree

    places, labels = _places(x, y), np.asarray(sections, str)
    nearest = [np.zeros(0)]
    for label in np.unique(labels):
        own = places[labels == label]
        if len(own) > 1:
            nearest.append(cKDTree(own).query(own, k=2)[0][:, 1])
    joined = np.concatenate(nearest)
    found = float(np.median(joined)) if len(joined) else 0.0
    if not found > 0:
        raise RefusedError("spots have no distance from each other", where="positions", got=found)
    return found


def spatial_blocks(x: ArrayLike, y: ArrayLike, sections: Sequence[object], side: float) -> Rows:
    """Return ``(N,)``: number of the square of `side` that a spot lies in; no block holds two sections.

    Raises
    ------
    UsageError
        `side` is not positive.
    RefusedError
        A position is not finite.
    """
    if not side > 0:
        raise UsageError("not a block", where="side", got=side, expected="above 0")
    places, labels = _places(x, y), np.unique(np.asarray(sections, str), return_inverse=True)[1]
    for label in range(labels.max() + 1 if len(labels) else 0):
        places[labels == label] -= places[labels == label].min(axis=0)
    squares = np.floor(places / side).astype(np.int64)
    keys = np.column_stack([labels, squares])
    return np.asarray(np.unique(keys, axis=0, return_inverse=True)[1], np.intp).reshape(-1)


def block_folds(
    x: ArrayLike, y: ArrayLike, sections: Sequence[object], blocks: ArrayLike, k: int, *, buffer: float = 0.0
) -> tuple[Fold, ...]:
    """Return `k` folds of neighbouring blocks; training spots within `buffer` of a tested spot are left out.

    Blocks are taken section by section and from left to right, so that a fold is a strip with few edges.

    Raises
    ------
    RefusedError
        There are fewer than two blocks, or the buffer leaves nothing to learn from.
    """
    from scipy.spatial import cKDTree

    places, labels = _places(x, y), np.asarray(sections, str)
    names, numbers = np.unique(np.asarray(blocks), return_inverse=True)
    if len(names) < 2 or k < 2:
        raise RefusedError("too few blocks for folds", got=f"{len(names)} blocks, {k} folds")
    first = [np.flatnonzero(numbers == b) for b in range(len(names))]
    order = sorted(
        range(len(names)), key=lambda b: (labels[first[b][0]], *places[first[b]].mean(axis=0).tolist())
    )
    sizes = np.array([len(first[b]) for b in order])
    # By the middle of each block in spots, so that folds are of nearly equal size.
    middles = np.cumsum(sizes) - sizes / 2
    part = np.minimum((middles / sizes.sum() * k).astype(int), k - 1)
    folds = []
    for i in np.unique(part):
        test = np.sort(np.concatenate([first[b] for b, p in zip(order, part, strict=True) if p == i]))
        train = np.setdiff1d(np.arange(len(places)), test)
        near = np.zeros(len(train), bool)
        for label in np.unique(labels[test]) if buffer > 0 else ():
            own = labels[train] == label
            if own.any():
                distance = cKDTree(places[test[labels[test] == label]]).query(places[train[own]])[0]
                near[own] = distance <= buffer
        if near.all():
            raise RefusedError("nothing left to learn from", where=f"buffer {buffer:g}")
        folds.append(Fold(f"strip {i + 1}", train[~near], test))
    return tuple(folds)


def inner_folds(
    train: Rows, sections: Sequence[str], blocks: ArrayLike, *, most: int = 5
) -> tuple[tuple[Rows, Rows], ...]:
    """Return pairs of positions *within* `train` to choose by: its sections in turn, else sets of its blocks.

    Parameters
    ----------
    most
        Sections or blocks are joined into at most so many folds.
    """
    own = np.asarray(sections, str)[train]
    units = np.unique(own, return_inverse=True)[1]
    if units.max() < 1:
        units = np.unique(np.asarray(blocks)[train], return_inverse=True)[1]
    n = int(units.max()) + 1
    if n < 2:
        raise RefusedError("one block of spots to learn from", expected="two or more", todo="smaller --block")
    parts = np.minimum(units * min(most, n) // n, min(most, n) - 1)
    return tuple((np.flatnonzero(parts != p), np.flatnonzero(parts == p)) for p in np.unique(parts))
