"""What positions and types of cells alone say: neighbours, spacing, edges, composition; no intensity enters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["composition", "own_type", "place", "spacing"]

Floats = NDArray[np.float64]


def _sections(
    x: ArrayLike, y: ArrayLike, sections: Sequence[object]
) -> tuple[Floats, list[NDArray[np.intp]]]:
    places = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=1)
    labels = np.asarray(sections, str)
    if len(labels) != len(places):
        raise UsageError("one section per spot", got=len(labels), expected=len(places))
    return places, [np.flatnonzero(labels == label) for label in np.unique(labels)]


def spacing(
    x: ArrayLike,
    y: ArrayLike,
    sections: Sequence[object],
    unit: float,
    *,
    radii: Sequence[float] = (1.5, 2.9, 5.0, 8.0),
    nearest: int = 6,
) -> tuple[Floats, tuple[str, ...]]:
    """Describe each spot by its neighbours in its section.

    Parameters
    ----------
    unit
        Usual distance of neighbours, such as :func:`~emvfm.expression.folds.pitch`; radii are in it.
    nearest
        How many nearest neighbours have their distance told.

    Returns
    -------
    features, names
        ``(N, D)``: neighbours within each radius; how far off the middle of them lies (large at an edge of the
        tissue); distances to the nearest neighbours, their mean and spread. Lengths in `unit`.
    """
    from scipy.spatial import cKDTree

    places, members = _sections(x, y, sections)
    places = places / unit
    names = [f"{what} within {r:g}" for r in radii for what in ("neighbours", "off the middle")]
    names += [f"distance to neighbour {i + 1}" for i in range(nearest)]
    names += ["mean distance of neighbours", "spread of distances"]
    table = np.zeros((len(places), len(names)))
    for rows in members:
        own = places[rows]
        tree = cKDTree(own)
        for i, radius in enumerate(radii):
            pairs = tree.query_pairs(radius, output_type="ndarray")
            count, total = np.zeros(len(own)), np.zeros_like(own)
            for a, b in (pairs.T, pairs.T[::-1]):
                np.add.at(count, a, 1)
                np.add.at(total, a, own[b] - own[a])
            table[rows, 2 * i] = count
            table[rows, 2 * i + 1] = np.linalg.norm(total, axis=1) / np.maximum(count, 1)
        k = min(nearest, len(own) - 1)
        if k:
            distance = tree.query(own, k=k + 1)[0][:, 1:]
            # A section with fewer spots has its last distance repeated.
            filled = np.concatenate([distance, np.repeat(distance[:, -1:], nearest - k, axis=1)], axis=1)
            start = 2 * len(radii)
            table[rows, start : start + nearest] = filled
            table[rows, start + nearest] = distance.mean(axis=1)
            table[rows, start + nearest + 1] = distance.std(axis=1)
    return table, tuple(names)


def composition(
    x: ArrayLike, y: ArrayLike, sections: Sequence[object], types: Sequence[str], *, nearest: int = 10
) -> tuple[Floats, tuple[str, ...]]:
    """Describe each cell by the types of its nearest neighbours, itself left out.

    Returns
    -------
    features, names
        ``(N, T + 1)``: share of each type among the neighbours, and their Shannon entropy in nats.
    """
    from scipy.spatial import cKDTree

    places, members = _sections(x, y, sections)
    known, codes = np.unique(np.asarray(types, str), return_inverse=True)
    if len(codes) != len(places):
        raise UsageError("one type per cell", got=len(codes), expected=len(places))
    table = np.zeros((len(places), len(known) + 1))
    for rows in members:
        k = min(nearest, len(rows) - 1)
        if not k:
            continue
        # Cells may lie on one another, so a cell is not always its own first neighbour.
        index = cKDTree(places[rows]).query(places[rows], k=k + 1)[1]
        self_first = np.argsort(index != np.arange(len(rows))[:, None], axis=1, kind="stable")
        others = np.take_along_axis(index, self_first, axis=1)[:, 1:]
        for i in range(len(known)):
            table[rows, i] = (codes[rows][others] == i).mean(axis=1)
    shares = table[:, :-1]
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    table[:, -1] = -(shares * logs).sum(axis=1)
    return table, (*(f"share of {name}" for name in known), "entropy of types")


def own_type(types: Sequence[str]) -> tuple[Floats, tuple[str, ...]]:
    """Return ``(N, T)``: one column a type, 1 for the cell's own."""
    known, codes = np.unique(np.asarray(types, str), return_inverse=True)
    return np.eye(len(known))[codes], tuple(f"is {name}" for name in known)


def place(
    x: ArrayLike, y: ArrayLike, sections: Sequence[object], unit: float
) -> tuple[Floats, tuple[str, ...]]:
    """Return ``(N, 9)``: the spot's place from the middle of its section, as polynomials up to the third degree.

    Sections of one block of tissue look alike at the same place, so this is a confound, not a baseline of biology.
    """
    places, members = _sections(x, y, sections)
    for rows in members:
        places[rows] -= (places[rows].min(axis=0) + places[rows].max(axis=0)) / 2
    a, b = (places / unit / 10).T
    powers = [(i, n - i) for n in range(1, 4) for i in range(n + 1)]
    return np.stack([a**i * b**j for i, j in powers], axis=1), tuple(f"x^{i} y^{j}" for i, j in powers)
