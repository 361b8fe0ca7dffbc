"""The geometry of a phantom: a made-up tissue in nm, and the distances that one section through it needs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from emvfm.datasets.phantom import PhantomDomain

__all__ = ["Scene", "Section", "Waves", "cut_section", "draw_scene"]


@dataclass(frozen=True)
class Waves:
    """A smooth random field in 3-D as a sum of plane waves: mean 0, variance 1, defined everywhere."""

    directions: np.ndarray  # (k, 3), radians per nm
    phases: np.ndarray  # (k,)

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelength_nm: float, k: int = 10) -> Waves:
        direction = rng.normal(size=(k, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = wavelength_nm * np.exp(rng.uniform(-0.4, 0.4, size=(k, 1)))
        return cls((2 * np.pi * direction / length).astype(np.float32), rng.uniform(0, 2 * np.pi, k))

    def at(self, points: np.ndarray) -> np.ndarray:
        """Return the field at `points` ``(..., 3)`` in nm."""
        total = np.zeros(points.shape[:-1], np.float32)
        for direction, phase in zip(self.directions, self.phases, strict=True):
            total += np.cos(points @ direction + np.float32(phase))
        return total * np.float32(np.sqrt(2 / len(self.phases)))


@dataclass(frozen=True)
class Scene:
    """Everything that is fixed in the volume; lengths in nm, points as (y, x, z)."""

    seeds: np.ndarray  # (s, 3) Voronoi sites
    cells: np.ndarray  # (s,) cell of a site; several sites make a long cell
    greys: np.ndarray  # (cells,)
    capsules: np.ndarray  # (m, 6) two ends
    radii: np.ndarray  # (m,)
    owners: np.ndarray  # (m,) the cell a mitochondrion lives in
    vesicles: np.ndarray  # (v, 3)
    bend: tuple[Waves, Waves, Waves]
    smear: Waves
    wobble: Waves
    bend_nm: float

    def bent(self, points: np.ndarray) -> np.ndarray:
        """Return where `points` ``(..., 3)`` lie in the space in which cells are straight-edged."""
        return points + self.bend_nm * np.stack([wave.at(points) for wave in self.bend], axis=-1)


def _spread_points(rng: np.random.Generator, low: np.ndarray, high: np.ndarray, gap: float) -> np.ndarray:
    """Return random points in a box, none closer than `gap` (dart throwing)."""
    wanted = int(np.prod(high - low) / gap**3 * 1.0) + 1
    kept = np.empty((0, 3))
    for point in rng.uniform(low, high, size=(12 * wanted, 3)):
        if len(kept) == 0 or np.min(np.sum((kept - point) ** 2, axis=1)) > gap**2:
            kept = np.vstack([kept, point])
            if len(kept) >= wanted:
                break
    return kept


def draw_scene(rng: np.random.Generator, domain: PhantomDomain, height_nm: float, depth_nm: float) -> Scene:
    margin = 1.2 * domain.cell_nm
    low, high = (
        np.array([-margin, -margin, -margin]),
        np.array([height_nm, height_nm, depth_nm]) + margin,
    )
    seeds = _spread_points(rng, low, high, 0.72 * domain.cell_nm)
    n = len(seeds)
    cells = np.arange(n)
    for i in range(n):  # a third of the sites joins its nearest neighbour: long and bean-shaped cells
        if rng.random() < 0.33:
            distance = np.sum((seeds - seeds[i]) ** 2, axis=1)
            distance[i] = np.inf
            cells[i] = cells[int(np.argmin(distance))]
    greys = rng.normal(domain.cytoplasm, domain.cell_spread, n)
    greys[rng.random(n) < 0.12] -= 0.16  # some cells are nearly as dark as mitochondria
    capsules, radii, owners = [], [], []
    for i in np.flatnonzero(rng.random(n) < domain.mitochondria_share).tolist():
        mates = np.flatnonzero((cells == cells[i]) & (np.arange(n) != i))
        axis = seeds[mates[0]] - seeds[i] if len(mates) else rng.normal(size=3)
        axis /= np.linalg.norm(axis)
        reach = rng.uniform(0.15, 0.75) * domain.cell_nm
        centre = seeds[i] + rng.normal(scale=0.08 * domain.cell_nm, size=3)
        capsules.append(np.concatenate([centre - reach * axis, centre + reach * axis]))
        radii.append(domain.mitochondrion_nm * np.exp(rng.normal(scale=0.18)))
        owners.append(cells[i])
    bend = tuple(Waves.draw(rng, 2.2 * domain.cell_nm) for _ in range(3))
    bend_nm = 0.16 * domain.cell_nm
    scene = Scene(
        seeds=seeds.astype(np.float32),
        cells=cells,
        greys=greys.astype(np.float32),
        capsules=np.array(capsules, np.float32).reshape(-1, 6),
        radii=np.array(radii, np.float32),
        owners=np.array(owners, int),
        vesicles=np.empty((0, 3), np.float32),
        bend=bend,  # type: ignore[arg-type]
        smear=Waves.draw(rng, 1.0 * domain.cell_nm),
        wobble=Waves.draw(rng, 3.0 * domain.crista_nm),
        bend_nm=bend_nm,
    )
    clouds = [
        seeds[i]
        + rng.normal(scale=0.2 * domain.cell_nm, size=3)
        + rng.normal(scale=0.15 * domain.cell_nm, size=(rng.poisson(3 * domain.vesicles_per_cell), 3))
        for i in range(n)
        if rng.random() < 0.45
    ]
    straight = np.concatenate([*clouds, np.empty((0, 3))]).astype(np.float32)
    vesicles = 2 * straight - scene.bent(straight)  # first-order inverse of the bend
    return dataclasses.replace(scene, vesicles=vesicles.astype(np.float32))


@dataclass(frozen=True)
class Section:
    """Geometry of one slice on a coarse grid ``(g, g)``: distances in nm, negative inside."""

    wall: np.ndarray  # to the nearest cell boundary
    cell: np.ndarray
    inside: np.ndarray  # signed distance to the nearest mitochondrion
    phase: np.ndarray  # of its cristae, radians
    smear: np.ndarray


def cut_section(scene: Scene, domain: PhantomDomain, points: np.ndarray, z: float) -> Section:
    flat = scene.bent(points).reshape(-1, 3).astype(np.float32)
    near = np.abs(scene.seeds[:, 2] - z) < 1.9 * domain.cell_nm
    seeds, cells = scene.seeds[near], scene.cells[near]
    squared = (seeds**2).sum(1)[:, None] - 2 * seeds @ flat.T  # |x|² is common to all sites
    first = squared.argmin(0)
    own = squared[first, np.arange(len(flat))]
    squared[cells[:, None] == cells[first][None, :]] = np.inf
    second = squared.argmin(0)
    span = np.linalg.norm(seeds[first] - seeds[second], axis=1)
    wall = (squared[second, np.arange(len(flat))] - own) / (2 * np.maximum(span, 1))
    cell = cells[first]

    inside: np.ndarray = np.full(len(flat), 1e3, np.float32)
    phase: np.ndarray = np.zeros(len(flat), np.float32)
    wobble = scene.wobble.at(points.reshape(-1, 3).astype(np.float32))
    reach = scene.radii + scene.bend_nm * 3
    z_low = np.minimum(scene.capsules[:, 2], scene.capsules[:, 5]) - reach
    z_high = np.maximum(scene.capsules[:, 2], scene.capsules[:, 5]) + reach
    for m in np.flatnonzero((z_low < z) & (z < z_high)).tolist():
        start, end, radius = scene.capsules[m, :3], scene.capsules[m, 3:], scene.radii[m]
        axis = end - start
        from_start = flat - start
        share = np.clip(from_start @ axis / (axis @ axis), 0, 1)
        distance = np.linalg.norm(from_start - share[:, None] * axis, axis=1) - radius
        # A mitochondrion keeps off the wall of its cell and does not leave it.
        distance = _soft_maximum(distance, 1.6 * domain.membrane_nm + 8 - wall, 14.0)
        distance[cell != scene.owners[m]] = 1e3
        along = from_start @ (axis / np.linalg.norm(axis))
        closer = distance < inside
        inside = np.where(closer, distance, inside)
        phase = np.where(closer, 2 * np.pi * along / domain.crista_nm + 1.2 * wobble, phase)
    shape = points.shape[:2]
    inside = _without_slivers(inside.reshape(shape), (60 / (2 * domain.pixel_size_nm)) ** 2)
    smear = scene.smear.at(points.reshape(-1, 3).astype(np.float32))
    return Section(*(a.reshape(shape) for a in (wall, cell, inside, phase, smear)))


def _soft_maximum(a: np.ndarray, b: np.ndarray, roundness: float) -> np.ndarray:
    """Return a maximum without a kink: the corner of an intersection is rounded by about `roundness`."""
    return (a + b + np.sqrt((a - b) ** 2 + 4 * roundness**2)) / 2


def _without_slivers(inside: np.ndarray, area: float) -> np.ndarray:
    """Return the signed distance without components below `area` (coarse px), which nobody could annotate."""
    from scipy.ndimage import binary_dilation, label

    components, _ = label(inside < 0)
    sizes = np.bincount(components.ravel())
    small = (sizes < area)[components] & (components > 0)
    if not small.any():
        return inside
    kept = (components > 0) & ~small
    return np.where(binary_dilation(small, iterations=4) & ~kept, np.maximum(inside, 60), inside)
