"""How points lie, against point processes whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from emvfm.backbones.baselines.structure.objects import Objects
from emvfm.backbones.baselines.structure.points import (
    assortativity,
    clark_evans,
    clustering,
    delaunay_edges,
    neighbour_distances,
    neighbour_edges,
    ripley_k,
    ripley_l,
    voronoi_areas,
)
from emvfm.backbones.baselines.structure.presets import describe, feature_names, neighbourhoods

Rng = np.random.Generator


def poisson(rng: Rng, density: float = 0.02, window: tuple[float, float] = (100.0, 140.0)) -> Objects:
    n = rng.poisson(density * window[0] * window[1])
    return Objects.of_cells(rng.random((n, 2)) * window, window)


def lattice(n: int = 12, a: float = 5.0) -> Objects:
    at = (np.arange(n) + 0.5) * a
    return Objects.of_cells(np.stack(np.meshgrid(at, at), -1).reshape(-1, 2), (n * a, n * a))


def thomas(rng: Rng, parents: float, children: float, sigma: float, window: tuple[float, float]) -> Objects:
    """A Thomas process: children about parents, some of which lie beyond the window."""
    margin = 5 * sigma
    wide = (window[0] + 2 * margin, window[1] + 2 * margin)
    centres = rng.random((rng.poisson(parents * wide[0] * wide[1]), 2)) * wide - margin
    around = np.repeat(centres, rng.poisson(children, len(centres)), axis=0)
    points = around + sigma * rng.standard_normal(around.shape)
    inside = ((points >= 0) & (points <= window)).all(axis=1)
    return Objects.of_cells(points[inside], window)


def test_poisson_has_k_of_pi_r_squared() -> None:
    rng, radii = np.random.default_rng(0), np.array([2.0, 5.0, 10.0, 20.0])
    found = np.array([ripley_k(poisson(rng), radii) for _ in range(60)])
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - np.pi * radii**2) < 4 * error).all()


def test_a_lattice_has_the_k_of_its_neighbours() -> None:
    """With translation correction each lag counts all n points: K = A N(r) / (n - 1), without any error."""
    grid, radii = lattice(), np.array([4.9, 5.0, 7.2, 10.0, 11.2])
    expected = 3600 * np.array([0, 4, 8, 12, 20]) / 143
    np.testing.assert_allclose(ripley_k(grid, radii), expected, rtol=1e-9)


def test_thomas_clusters_have_their_known_k() -> None:
    rng, sigma, density, radii = np.random.default_rng(1), 3.0, 0.004, np.array([2.0, 4.0, 8.0, 16.0])
    found = np.array([ripley_k(thomas(rng, density, 8, sigma, (120.0, 120.0)), radii) for _ in range(60)])
    expected = np.pi * radii**2 + (1 - np.exp(-(radii**2) / (4 * sigma**2))) / density
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    # Dividing by the estimated density squared biases K of clusters by a few per cent.
    assert (np.abs(found.mean(axis=0) - expected) < 4 * error + 0.06 * expected).all()
    assert (found.mean(axis=0) > 1.3 * np.pi * radii**2)[:3].all()


def test_k_without_the_correction_would_be_too_small() -> None:
    """The naive twin: every pair counted once; the corrected one is that with each pair's weight."""
    points, radius = poisson(np.random.default_rng(2)), 15.0
    total = 0.0
    for i, p in enumerate(points.points):
        for j, q in enumerate(points.points):
            dx, dy = np.abs(p - q)
            if i != j and np.hypot(dx, dy) <= radius:
                total += points.area / ((points.window[0] - dx) * (points.window[1] - dy))
    n = len(points)
    assert ripley_k(points, np.array([radius]))[0] == pytest.approx(points.area * total / (n * (n - 1)))


def test_l_tells_chance_clusters_and_lattices_apart() -> None:
    rng = np.random.default_rng(3)
    clusters = thomas(rng, 0.004, 8, 2.0, (120.0, 120.0))
    at = np.array([4.0])
    assert ripley_l(lattice(), at)[0] == -1
    assert abs(np.mean([ripley_l(poisson(rng), at)[0] for _ in range(20)])) < 0.1
    assert ripley_l(clusters, at)[0] > 0.5


def test_clark_evans_of_known_patterns() -> None:
    rng = np.random.default_rng(4)
    chance = [clark_evans(poisson(rng)) for _ in range(40)]
    assert np.mean(chance) == pytest.approx(1, abs=0.03)
    assert clark_evans(lattice()) > 1.8
    assert clark_evans(thomas(rng, 0.004, 8, 1.0, (120.0, 120.0))) < 0.7


def test_voronoi_cells_fill_the_image() -> None:
    rng = np.random.default_rng(5)
    for found in (poisson(rng), lattice(), Objects.of_cells(np.array([[3.0, 4.0]]), (10.0, 20.0))):
        areas = voronoi_areas(found)
        assert areas.sum() == pytest.approx(found.area, rel=1e-6)
        assert len(areas) == len(found)
    np.testing.assert_allclose(voronoi_areas(lattice()), 25, rtol=1e-6)
    corners = Objects.of_cells(
        np.array([[0, 0], [10, 0], [0, 10], [10, 10], [5, 5], [5, 5]], float), (10.0, 10.0)
    )
    assert voronoi_areas(corners).sum() == pytest.approx(100)  # on the border, and twice in one place


def test_a_voronoi_cell_is_what_is_nearest() -> None:
    found = poisson(np.random.default_rng(6), 0.002)
    draw = np.random.default_rng(7).random((40_000, 2)) * found.window
    nearest = np.linalg.norm(draw[:, None] - found.points[None], axis=-1).argmin(axis=1)
    shares = np.bincount(nearest, minlength=len(found)) / len(draw)
    np.testing.assert_allclose(voronoi_areas(found) / found.area, shares, atol=0.012)


def test_graphs_of_small_patterns() -> None:
    square = np.array([[0, 0], [4, 0], [4, 3], [0, 3.1]])
    edges = delaunay_edges(square)
    assert len(edges) == 5
    np.testing.assert_allclose(
        clustering(edges, 4), [1, 2 / 3, 1, 2 / 3] if [1, 3] in edges.tolist() else [2 / 3, 1, 2 / 3, 1]
    )
    assert delaunay_edges(np.array([[0, 0], [1, 1], [2, 2.0]])).shape == (0, 2)
    line = np.array([[0.0, 0], [1, 0], [3, 0], [7, 0]])
    assert neighbour_edges(line, 1).tolist() == [[0, 1], [1, 2], [2, 3]]
    np.testing.assert_array_equal(neighbour_distances(line, 2)[1], [1, 2])


def test_delaunay_has_the_edges_that_euler_counts() -> None:
    from scipy.spatial import ConvexHull

    points = poisson(np.random.default_rng(8)).points
    assert len(delaunay_edges(points)) == 3 * len(points) - 3 - len(ConvexHull(points).vertices)


def test_types_that_keep_to_themselves_are_assortative() -> None:
    found = poisson(np.random.default_rng(9))
    edges = delaunay_edges(found.points)
    halves = np.where(found.points[:, 0] < 50, "left", "right")
    mixed = np.random.default_rng(0).permutation(halves)
    assert assortativity(edges, halves) > 0.8
    assert abs(assortativity(edges, mixed)) < 0.15
    assert assortativity(edges, np.full(len(found), "one")) == 0


def test_composition_says_shares_of_types() -> None:
    points = np.random.default_rng(0).random((40, 2)) * 10
    cells = Objects.of_cells(points, (10.0, 10.0), ["a"] * 30 + ["b"] * 10)
    names = feature_names("composition", ("a", "b", "c"))
    found = dict(zip(names, describe(cells, "composition", ("a", "b", "c")), strict=True))
    assert found["composition/share a"] == pytest.approx(0.75)
    assert found["composition/share c"] == 0
    assert found["composition/entropy[bit]"] == pytest.approx(0.8113, abs=1e-4)


def test_neighbourhoods_of_a_lattice() -> None:
    grid = lattice()
    cells = Objects(grid.points, grid.window, types=np.array(["x", "y"])[(np.arange(144) // 12) % 2])
    found = neighbourhoods(cells, ("x", "y"), k=4)
    inner = 12 * 5 + 5
    assert found[inner, :2].tolist() == [5, 5]
    assert found[inner, 2] == pytest.approx(4 / (np.pi * 25))
    assert found[inner, 4:].tolist() == [0.5, 0.5, 0, 1]
    assert neighbourhoods(Objects.of_cells(np.zeros((2, 2)), (1.0, 1.0)), k=4).tolist() == [[0] * 4] * 2
