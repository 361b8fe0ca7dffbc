"""The presets of ``structure``: which numbers describe the objects of an image, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.baselines.structure.objects import SHAPES, Objects
from emvfm.backbones.baselines.structure.points import (
    RADII,
    assortativity,
    clark_evans,
    clustering,
    delaunay_edges,
    neighbour_distances,
    neighbour_edges,
    ripley_l,
    voronoi_areas,
)

__all__ = ["NEIGHBOURS", "PRESETS", "describe", "feature_names", "neighbourhood_names", "neighbourhoods"]

Floats = NDArray[np.float64]

NEIGHBOURS = 5
_FEW = ("mean", "std", "p10", "p50", "p90")
_TWO = ("mean", "cv")


def _few(values: Floats) -> list[float]:
    """Return mean, deviation and three percentiles; 0 of nothing."""
    if not len(values):
        return [0.0] * len(_FEW)
    return [float(values.mean()), float(values.std()), *map(float, np.percentile(values, (10, 50, 90)))]


def _two(values: Floats) -> list[float]:
    """Return mean and coefficient of variation; 0 of nothing."""
    mean = float(values.mean()) if len(values) else 0.0
    return [mean, float(values.std()) / mean if mean > 0 else 0.0]


def _logs(values: Floats) -> Floats:
    """Return log10 of sizes: of areas in nm² and shares in one vector, a distance would see the areas alone."""
    return np.log10(np.maximum(values, 1e-3))


def _density(objects: Objects, types: Sequence[str]) -> list[float]:
    covered = 0.0 if objects.shapes is None else float(objects.shapes[:, 0].sum()) / objects.area
    n = len(objects)
    # Half an object where there is none: the logarithm of a density that is not measurable.
    return [float(np.log10(1 + n)), float(np.log10(max(n, 0.5) / objects.area)), covered]


def _shape(objects: Objects, types: Sequence[str]) -> list[float]:
    if objects.shapes is None or objects.angles is None or objects.whole is None:
        return [0.0] * (len(SHAPES) * len(_FEW) + 1)
    # Objects that the border cuts have another shape; where there are no others, they are better than none.
    kept = objects.whole if objects.whole.any() else np.ones(len(objects), bool)
    sized = np.array([power > 0 for power in SHAPES.values()])
    shapes, angles = objects.shapes[kept], objects.angles[kept]
    shapes = np.where(sized, _logs(shapes), shapes)
    order = float(np.abs(np.exp(2j * angles).mean())) if len(angles) else 0.0
    return [*(number for column in shapes.T for number in _few(column)), order]


def _spacing(objects: Objects, types: Sequence[str]) -> list[float]:
    distances = neighbour_distances(objects.points, NEIGHBOURS)
    first, last = (distances[:, 0], distances[:, -1]) if distances.shape[1] else (np.zeros(0), np.zeros(0))
    return [*_few(_logs(first)), *_few(_logs(last)), clark_evans(objects)]


def _graph(objects: Objects, types: Sequence[str]) -> list[float]:
    found = []
    for edges in (delaunay_edges(objects.points), neighbour_edges(objects.points, NEIGHBOURS)):
        ends = objects.points[edges]
        lengths = np.hypot(*(ends[:, 0] - ends[:, 1]).T) if len(edges) else np.zeros(0)
        degree = np.bincount(edges.ravel(), minlength=len(objects)).astype(np.float64)
        mean, cv = _two(lengths)
        size = float(_logs(np.array(mean))) if len(edges) else 0.0
        found += [size, cv, *_two(degree), *_two(clustering(edges, len(objects)))]
    return found


def _voronoi(objects: Objects, types: Sequence[str]) -> list[float]:
    return _few(_logs(voronoi_areas(objects)))


def _ripley(objects: Objects, types: Sequence[str]) -> list[float]:
    return list(map(float, ripley_l(objects, objects.spacing * np.array(RADII))))


def _composition(objects: Objects, types: Sequence[str]) -> list[float]:
    """Return shares of types, their entropy in bits, and how much neighbours are alike."""
    if objects.types is None or not len(objects):
        return [0.0] * (len(types) + 2)
    shares = np.array([float((objects.types == name).mean()) for name in types])
    present = shares[shares > 0]
    alike = assortativity(delaunay_edges(objects.points), objects.types)
    return [*map(float, shares), float(-(present * np.log2(present)).sum()), alike]


def _graph_names(unit: str) -> list[str]:
    return [
        f"{graph}-{what}-{s}{f'[log {unit}]' if (what, s) == ('edge', 'mean') else ''}"
        for graph in ("delaunay", f"nearest{NEIGHBOURS}")
        for what in ("edge", "degree", "clustering")
        for s in _TWO
    ]


def _shape_names(unit: str) -> list[str]:
    units = {2: f"[log {unit}²]", 1: f"[log {unit}]", 0: ""}
    return [f"{name}-{s}{units[power]}" for name, power in SHAPES.items() for s in _FEW] + [
        "orientation-order"
    ]


@dataclass(frozen=True)
class _Part:
    """A kind of numbers: what computes them, and their names in a unit of length, for some types of cells."""

    compute: Callable[[Objects, Sequence[str]], list[float]]
    names: Callable[[str, Sequence[str]], list[str]]


_PARTS = {
    "density": _Part(_density, lambda unit, types: ["count[log(1+n)]", f"density[log 1/{unit}²]", "covered"]),
    "shape": _Part(_shape, lambda unit, types: _shape_names(unit)),
    "spacing": _Part(
        _spacing,
        lambda unit, types: (
            [f"neighbour{k}-{s}[log {unit}]" for k in (1, NEIGHBOURS) for s in _FEW] + ["clark-evans"]
        ),
    ),
    "graph": _Part(_graph, lambda unit, types: _graph_names(unit)),
    "voronoi": _Part(_voronoi, lambda unit, types: [f"area-{s}[log {unit}²]" for s in _FEW]),
    "ripley": _Part(_ripley, lambda unit, types: [f"L(r)/r-1 at {r:g} spacings" for r in RADII]),
    "composition": _Part(
        _composition,
        lambda unit, types: [f"share {name}" for name in types] + ["entropy[bit]", "assortativity"],
    ),
}

#: What each preset is made of.
PRESETS: dict[str, tuple[str, ...]] = {**{name: (name,) for name in _PARTS}, "all": tuple(_PARTS)}


def feature_names(preset: str, types: Sequence[str] = (), unit: str = "px") -> list[str]:
    """Return the names of what `describe` gives, in its order, with units; ``log`` is to base 10.

    >>> feature_names("density", unit="nm")
    ['density/count[log(1+n)]', 'density/density[log 1/nm²]', 'density/covered']
    """
    return [f"{part}/{name}" for part in PRESETS[preset] for name in _PARTS[part].names(unit, types)]


def describe(objects: Objects, preset: str, types: Sequence[str] = ()) -> NDArray[np.float32]:
    """Return ``(D,)`` float32 numbers of the objects of one image; 0 for what too few objects do not have.

    Parameters
    ----------
    preset
        A name of `PRESETS`.
    types
        Of cells, whose shares ``composition`` gives.
    """
    numbers = [number for part in PRESETS[preset] for number in _PARTS[part].compute(objects, types)]
    return np.array(numbers, np.float32)


def neighbourhood_names(types: Sequence[str] = (), k: int = 10, unit: str = "px") -> list[str]:
    """Return the names of what `neighbourhoods` gives, in its order."""
    return [f"distance1[{unit}]", f"distance{k}[{unit}]", f"density{k}[1/{unit}²]", "density-ratio",
            *(f"near {name}" for name in types), *(f"own {name}" for name in types)]  # fmt: skip


def neighbourhoods(objects: Objects, types: Sequence[str] = (), k: int = 10) -> NDArray[np.float32]:
    """Return ``(n, 4 + 2 T)``: each cell by its k nearest, for expression at single cells and spots.

    Distance to the first and the k-th, density k / (pi r²) out to it, that over the density of its neighbours,
    shares of types among the k, and its own type. 0 where there are no k others.
    """
    from scipy.spatial import cKDTree

    n = len(objects)
    found = np.zeros((n, 4 + 2 * len(types)))
    own = np.zeros((n, len(types)))
    if objects.types is not None and types:
        own = (objects.types[:, None] == np.asarray(types, np.str_)[None, :]).astype(np.float64)
        found[:, 4 + len(types) :] = own
    if n <= k:
        return found.astype(np.float32)
    distances, near = cKDTree(objects.points).query(objects.points, k + 1)
    found[:, 0], found[:, 1] = distances[:, 1], distances[:, k]
    found[:, 2] = k / (np.pi * np.maximum(distances[:, k], 1e-12) ** 2)
    found[:, 3] = found[:, 2] / found[:, 2][near[:, 1:]].mean(axis=1)
    found[:, 4 : 4 + len(types)] = own[near[:, 1:]].mean(axis=1)
    return found.astype(np.float32)
