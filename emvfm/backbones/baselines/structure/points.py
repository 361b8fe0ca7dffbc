"""How points lie: spacing, the graphs they span, and Ripley's functions with border correction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.baselines.structure.objects import Objects

__all__ = [
    "RADII",
    "assortativity",
    "clark_evans",
    "clustering",
    "delaunay_edges",
    "neighbour_distances",
    "neighbour_edges",
    "ripley_k",
    "ripley_l",
    "voronoi_areas",
]

Floats = NDArray[np.float64]
Edges = NDArray[np.intp]

#: Radii of Ripley's functions, in mean spacings.
RADII = (0.5, 1.0, 1.5, 2.0, 3.0)


def neighbour_distances(points: Floats, k: int) -> Floats:
    """Return ``(n, k)``: distances to the k nearest others in ascending order; of fewer points fewer columns."""
    from scipy.spatial import cKDTree

    k = min(k, len(points) - 1)
    if k < 1:
        return np.zeros((len(points), 0))
    return np.asarray(cKDTree(points).query(points, k + 1)[0][:, 1:], np.float64)


def clark_evans(objects: Objects) -> float:
    """Return the ratio of the mean distance to the nearest other to that of a Poisson process.

    1 for chance, less for clusters, up to 2.15 for a triangular lattice. Corrected for borders after Donnelly
    (1978). 0 with fewer than two points.
    """
    n = len(objects)
    if n < 2:
        return 0.0
    length = 2 * sum(objects.window)
    expected = 0.5 * np.sqrt(objects.area / n) + (0.0514 + 0.041 / np.sqrt(n)) * length / n
    return float(neighbour_distances(objects.points, 1).mean() / expected)


def delaunay_edges(points: Floats) -> Edges:
    """Return ``(m, 2)`` pairs i < j that the Delaunay triangulation joins; none with fewer than 3 points or a line."""
    from scipy.spatial import Delaunay, QhullError

    if len(points) < 3:
        return np.zeros((0, 2), np.intp)
    try:
        corners = Delaunay(points).simplices
    except QhullError:  # all on one line
        return np.zeros((0, 2), np.intp)
    pairs = np.sort(np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]]), axis=1)
    return np.unique(pairs, axis=0).astype(np.intp)


def neighbour_edges(points: Floats, k: int) -> Edges:
    """Return ``(m, 2)`` pairs i < j of which at least one is among the k nearest of the other."""
    from scipy.spatial import cKDTree

    k = min(k, len(points) - 1)
    if k < 1:
        return np.zeros((0, 2), np.intp)
    near = cKDTree(points).query(points, k + 1)[1][:, 1:]
    pairs = np.stack([np.repeat(np.arange(len(points)), k), near.ravel()], axis=-1)
    return np.unique(np.sort(pairs, axis=1), axis=0).astype(np.intp)


def clustering(edges: Edges, n: int) -> Floats:
    """Return ``(n,)`` in [0, 1]: the share of pairs of a point's neighbours that are neighbours (Watts 1998)."""
    from scipy.sparse import csr_array

    if not len(edges):
        return np.zeros(n)
    both = np.concatenate([edges, edges[:, ::-1]])
    graph = csr_array((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(n, n))
    degree = np.asarray(graph.sum(axis=1)).ravel()
    triangles = np.asarray((graph @ graph).multiply(graph).sum(axis=1)).ravel()
    pairs = degree * (degree - 1)
    return np.divide(triangles, pairs, out=np.zeros(n), where=pairs > 0)


def voronoi_areas(objects: Objects) -> Floats:
    """Return ``(n,)``: the area of the image that is nearest to each point; they add up to the image's.

    Points are mirrored at the four borders, so that each cell ends there.
    """
    from scipy.spatial import ConvexHull, Voronoi

    n, (width, height) = len(objects), objects.window
    if n == 0:
        return np.zeros(0)
    points, same = np.unique(objects.points, axis=0, return_inverse=True)
    # A point on the border would be its own mirror image.
    points = np.clip(points, [1e-9 * width, 1e-9 * height], [width * (1 - 1e-9), height * (1 - 1e-9)])
    x, y = points.T
    mirrored = [(-x, y), (2 * width - x, y), (x, -y), (x, 2 * height - y)]
    found = Voronoi(np.concatenate([points, *(np.stack(pair, axis=-1) for pair in mirrored)]))
    areas = np.array(
        [ConvexHull(found.vertices[found.regions[r]]).volume for r in found.point_region[: len(points)]]
    )
    same = same.reshape(-1)
    return np.asarray(areas[same] / np.bincount(same)[same])


def ripley_k(objects: Objects, radii: Floats) -> Floats:
    """Return Ripley's K at `radii`: area per point times the mean number of others within a radius.

    Translation-corrected (Ohser 1983): a pair counts by the reciprocal of the share of the image in which it
    could lie, so that K is unbiased for a stationary process: pi r² for Poisson. 0 with fewer than two points.
    """
    from scipy.spatial import cKDTree

    radii = np.asarray(radii, np.float64)
    n, (width, height) = len(objects), objects.window
    if n < 2:
        return np.zeros(len(radii))
    pairs = cKDTree(objects.points).query_pairs(float(radii.max()), output_type="ndarray")
    dx, dy = np.abs(objects.points[pairs[:, 0]] - objects.points[pairs[:, 1]]).T
    weights = objects.area / np.maximum((width - dx) * (height - dy), 1e-12 * objects.area)
    distance = np.hypot(dx, dy)
    order = np.argsort(distance, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(weights[order])])
    within = total[np.searchsorted(distance[order], radii, side="right")]
    return np.asarray(objects.area * 2 * within / (n * (n - 1)))


def ripley_l(objects: Objects, radii: Floats) -> Floats:
    """Return Besag's L less r, over r: 0 for chance, -1 where nobody is so near, more for clusters."""
    radii = np.asarray(radii, np.float64)
    if len(objects) < 2:
        return np.zeros(len(radii))
    return np.sqrt(ripley_k(objects, radii) / np.pi) / radii - 1


def assortativity(edges: Edges, types: NDArray[np.str_]) -> float:
    """Return how much neighbours are of one type beyond chance, in [-1, 1] (Newman, Phys. Rev. E 67, 026126).

    0 with fewer than two types.
    """
    values, codes = np.unique(types, return_inverse=True)
    if len(values) < 2 or not len(edges):
        return 0.0
    mixed = np.zeros((len(values), len(values)))
    np.add.at(mixed, (codes[edges[:, 0]], codes[edges[:, 1]]), 1)
    mixed = (mixed + mixed.T) / (2 * len(edges))
    chance = float((mixed.sum(axis=0) * mixed.sum(axis=1)).sum())
    return float((np.trace(mixed) - chance) / (1 - chance)) if chance < 1 else 0.0
