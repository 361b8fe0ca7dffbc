"""Synthetic electron microscopy with exact masks: cells, vesicles and mitochondria of a made-up tissue.

A scene is a small volume in nm: cells are a Voronoi partition bent by a smooth displacement, and
mitochondria are capsules with a double membrane and cristae that stay inside their cell. Slices are
cut from it, so neighbours resemble each other as in a real stack. A `PhantomDomain` says how tissue
and microscope look; two domains differ in pixel size, section thickness, contrast, noise, blur and
texture, so that the gap between them is real and known.
"""

from __future__ import annotations

import dataclasses
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from emvfm.errors import UsageError
from emvfm.workspace import write_bytes, write_json

__all__ = ["DOMAINS", "Phantom", "PhantomDomain", "find_domain", "make_phantom", "write_phantom"]


@dataclass(frozen=True)
class PhantomDomain:
    """How one synthetic tissue looks under one synthetic microscope.

    Lengths are in nm, grey values in 0 (black) to 1 (white), ``blur`` in px.
    """

    name: str
    pixel_size_nm: float
    section_nm: float
    cell_nm: float = 420.0
    mitochondrion_nm: float = 120.0  # radius
    mitochondria_share: float = 0.6  # of the cells
    membrane_nm: float = 11.0  # half width
    crista_nm: float = 46.0  # period
    crista_contrast: float = 0.16
    vesicles_per_cell: int = 40
    vesicle_nm: float = 21.0
    cytoplasm: float = 0.66
    cell_spread: float = 0.07  # standard deviation of grey between cells
    matrix: float = 0.47
    membrane: float = 0.22
    grain: float = 0.05  # texture of the cytoplasm
    grain_px: float = 1.6
    blur: float = 0.9
    noise: float = 0.05
    shot: float = 0.0  # noise that grows with the square root of the grey value
    drift: float = 0.0  # brightness change from section to section


#: Domain ``a`` resembles FIB-SEM of cortex, ``b`` serial-section TEM of an insect.
DOMAINS: MappingProxyType[str, PhantomDomain] = MappingProxyType(
    {
        "a": PhantomDomain("a", pixel_size_nm=5.0, section_nm=15.0),
        "b": PhantomDomain(
            "b",
            pixel_size_nm=7.5,
            section_nm=40.0,
            cell_nm=500.0,
            mitochondrion_nm=140.0,
            mitochondria_share=0.45,
            membrane_nm=10.0,
            crista_nm=52.0,
            crista_contrast=0.13,
            vesicles_per_cell=24,
            vesicle_nm=24.0,
            cytoplasm=0.68,
            cell_spread=0.1,
            matrix=0.42,
            membrane=0.06,
            grain=0.1,
            grain_px=1.1,
            blur=0.5,
            noise=0.025,
            shot=0.055,
            drift=0.03,
        ),
    }
)


@dataclass(frozen=True)
class Phantom:
    """Slices ``(n, size, size)``: `images` uint8, `masks` bool (True = mitochondrion)."""

    domain: PhantomDomain
    seed: int
    images: np.ndarray
    masks: np.ndarray


def find_domain(name: str) -> PhantomDomain:
    """Return the preset called `name`, else raise UsageError."""
    if name not in DOMAINS:
        raise UsageError("unknown phantom domain", got=name, expected=" or ".join(DOMAINS))
    return DOMAINS[name]


@dataclass(frozen=True)
class _Waves:
    """A smooth random field in 3-D as a sum of plane waves: mean 0, variance 1, defined everywhere."""

    directions: np.ndarray  # (k, 3), radians per nm
    phases: np.ndarray  # (k,)

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelength_nm: float, k: int = 10) -> _Waves:
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
class _Scene:
    """Everything that is fixed in the volume; lengths in nm, points as (y, x, z)."""

    seeds: np.ndarray  # (s, 3) Voronoi sites
    cells: np.ndarray  # (s,) cell of a site; several sites make a long cell
    greys: np.ndarray  # (cells,)
    capsules: np.ndarray  # (m, 6) two ends
    radii: np.ndarray  # (m,)
    owners: np.ndarray  # (m,) the cell a mitochondrion lives in
    vesicles: np.ndarray  # (v, 3)
    bend: tuple[_Waves, _Waves, _Waves]
    smear: _Waves
    wobble: _Waves
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


def _draw_scene(rng: np.random.Generator, domain: PhantomDomain, height_nm: float, depth_nm: float) -> _Scene:
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
    bend = tuple(_Waves.draw(rng, 2.2 * domain.cell_nm) for _ in range(3))
    bend_nm = 0.16 * domain.cell_nm
    scene = _Scene(
        seeds=seeds.astype(np.float32),
        cells=cells,
        greys=greys.astype(np.float32),
        capsules=np.array(capsules, np.float32).reshape(-1, 6),
        radii=np.array(radii, np.float32),
        owners=np.array(owners, int),
        vesicles=np.empty((0, 3), np.float32),
        bend=bend,  # type: ignore[arg-type]
        smear=_Waves.draw(rng, 1.0 * domain.cell_nm),
        wobble=_Waves.draw(rng, 3.0 * domain.crista_nm),
        bend_nm=bend_nm,
    )
    clouds = [
        seeds[i]
        + rng.normal(scale=0.2 * domain.cell_nm, size=3)
        + rng.normal(scale=0.15 * domain.cell_nm, size=(rng.poisson(3 * domain.vesicles_per_cell), 3))
        for i in range(n)
        if rng.random() < 0.45
    ]
    vesicles = np.concatenate([*clouds, np.empty((0, 3))]).astype(np.float32)
    vesicles = vesicles - (scene.bent(vesicles) - vesicles)  # first-order inverse of the bend
    return dataclasses.replace(scene, vesicles=vesicles.astype(np.float32))


@dataclass(frozen=True)
class _Section:
    """Geometry of one slice on a coarse grid ``(g, g)``: distances in nm, negative inside."""

    wall: np.ndarray  # to the nearest cell boundary
    cell: np.ndarray
    inside: np.ndarray  # signed distance to the nearest mitochondrion
    phase: np.ndarray  # of its cristae, radians
    smear: np.ndarray


def _cut(scene: _Scene, domain: PhantomDomain, points: np.ndarray, z: float) -> _Section:
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
    return _Section(*(a.reshape(shape) for a in (wall, cell, inside, phase, smear)))


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


def _refine(coarse: np.ndarray, size: int) -> np.ndarray:
    """Return `coarse` ``(g, g)``, sampled at every second pixel, interpolated to ``(size, size)``."""
    rows = np.repeat(coarse, 2, axis=0)
    rows[1:-1:2] = (coarse[:-1] + coarse[1:]) / 2
    full = np.repeat(rows, 2, axis=1)
    full[:, 1:-1:2] = (rows[:, :-1] + rows[:, 1:]) / 2
    return full[:size, :size]


def _soft_maximum(a: np.ndarray, b: np.ndarray, roundness: float) -> np.ndarray:
    """Return a maximum without a kink: the corner of an intersection is rounded by about `roundness`."""
    return (a + b + np.sqrt((a - b) ** 2 + 4 * roundness**2)) / 2


def _line(distance: np.ndarray, half_width: float | np.ndarray, edge: float) -> np.ndarray:
    """Return the opacity (0 to 1) of a line along ``distance == 0`` with soft edges."""
    return 1 / (1 + np.exp(np.clip((np.abs(distance) - half_width) / edge, -30, 30)))


def _stamp_vesicles(
    canvas: np.ndarray, scene: _Scene, domain: PhantomDomain, z: float, allowed: np.ndarray
) -> None:
    """Draw vesicles cut by the slice: a dark ring with a lighter lumen, where `allowed`."""
    pixel, size = domain.pixel_size_nm, len(canvas)
    height = scene.vesicles[:, 2] - z
    for y, x, h in scene.vesicles[np.abs(height) < domain.vesicle_nm] - (0, 0, z):
        radius = np.sqrt(max(domain.vesicle_nm**2 - h**2, 0.0))
        reach = int((radius + 3 * pixel) / pixel) + 1
        row, column = int(y / pixel), int(x / pixel)
        r0, r1 = max(row - reach, 0), min(row + reach + 1, size)
        c0, c1 = max(column - reach, 0), min(column + reach + 1, size)
        if r0 >= r1 or c0 >= c1 or not allowed[min(max(row, 0), size - 1), min(max(column, 0), size - 1)]:
            continue
        rows = np.arange(r0, r1)[:, None] * pixel - y
        columns = np.arange(c0, c1)[None, :] * pixel - x
        distance = np.sqrt(rows**2 + columns**2) - radius
        ring = _line(distance, 0.25 * domain.vesicle_nm, 0.4 * pixel)
        window = canvas[r0:r1, c0:c1]
        window += 0.75 * ring * (domain.membrane + 0.08 - window)


def _paint(
    rng: np.random.Generator, scene: _Scene, domain: PhantomDomain, section: _Section, z: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    from scipy.ndimage import gaussian_filter

    pixel = domain.pixel_size_nm
    wall, inside, phase = (_refine(a, size) for a in (section.wall, section.inside, section.phase))
    smear = _refine(section.smear, size)
    cell = np.repeat(np.repeat(section.cell, 2, 0), 2, 1)[:size, :size]
    mask = inside < 0

    canvas = scene.greys[cell].astype(np.float32)
    grain = gaussian_filter(rng.standard_normal((size, size), np.float32), domain.grain_px)
    coarse = gaussian_filter(rng.standard_normal((size, size), np.float32), 4 * domain.grain_px)
    canvas += domain.grain * (grain / grain.std() + 0.4 * coarse / coarse.std()) + 0.02 * smear
    _stamp_vesicles(canvas, scene, domain, z, (wall > 2 * domain.membrane_nm) & (inside > 12))

    cristae = np.clip(np.cos(phase) - 0.1, -0.6, 1.0)
    cristae = cristae * _line(np.minimum(inside + 16, 0) + 60, 50, 8)  # they end below the inner membrane
    matrix = domain.matrix - domain.crista_contrast * cristae + 0.5 * domain.grain * grain / grain.std()
    soft = 1 / (1 + np.exp(np.clip(inside / (0.4 * pixel), -30, 30)))
    canvas += soft * (matrix - canvas)
    canvas += 0.8 * _line(inside + 2, 4.5, 0.5 * pixel) * (domain.membrane + 0.04 - canvas)
    canvas += 0.5 * _line(inside + 17, 3.0, 0.5 * pixel) * (domain.membrane + 0.08 - canvas)

    # Where a membrane runs oblique to the section, or at a synapse, it is broad and blurred.
    width = domain.membrane_nm * (1 + 1.6 * np.clip(smear - 1.0, 0, None))
    canvas += 0.92 * _line(wall, width, 0.5 * pixel) * (domain.membrane - canvas)

    canvas = gaussian_filter(canvas, domain.blur)
    canvas += domain.drift * rng.standard_normal()
    amplitude = domain.noise + domain.shot * np.sqrt(np.clip(canvas, 0, 1))
    canvas += amplitude * gaussian_filter(rng.standard_normal((size, size), np.float32), 0.45) * 1.6
    return np.clip(np.rint(255 * canvas), 0, 255).astype(np.uint8), mask


def make_phantom(domain: str | PhantomDomain, n_slices: int = 24, size: int = 256, seed: int = 0) -> Phantom:
    """Return `n_slices` neighbouring slices of a scene, the same for the same arguments on any machine.

    Parameters
    ----------
    domain
        Name of a preset in `DOMAINS`, or a domain of one's own.
    n_slices, size
        Number of slices and their side in px.
    seed
        Seed of tissue and noise; the name of the domain is mixed in, so ``a`` and ``b`` are unrelated.

    Raises
    ------
    UsageError
        Unknown domain, or a size or number that cannot be drawn.
    """
    if isinstance(domain, str):
        domain = find_domain(domain)
    if n_slices < 1 or not 16 <= size <= 4096:
        raise UsageError(
            "phantom cannot be drawn", got=f"{n_slices} slices of {size} px", expected="≥ 1 of 16 to 4096 px"
        )
    streams = np.random.SeedSequence([seed, zlib.crc32(domain.name.encode())]).spawn(n_slices + 1)
    pixel = domain.pixel_size_nm
    scene = _draw_scene(np.random.default_rng(streams[0]), domain, size * pixel, n_slices * domain.section_nm)
    axis = np.arange((size + 1) // 2 + 1, dtype=np.float32) * 2 * pixel
    y, x = np.meshgrid(axis, axis, indexing="ij")
    images = np.empty((n_slices, size, size), np.uint8)
    masks = np.empty((n_slices, size, size), bool)
    for k, stream in enumerate(streams[1:]):
        z = np.float32(k * domain.section_nm)
        section = _cut(scene, domain, np.stack([y, x, np.full_like(y, z)], axis=-1), float(z))
        images[k], masks[k] = _paint(np.random.default_rng(stream), scene, domain, section, float(z), size)
    return Phantom(domain, seed, images, masks)


def write_phantom(
    folder: Path, domain: str | PhantomDomain, n_slices: int = 24, size: int = 256, seed: int = 0
) -> dict[str, Any]:
    """Write ``images/slice_000.png``, ``masks/slice_000.png`` … (0/255) and ``phantom.json``; return it.

    ``phantom.json`` holds the known truth: pixel size and section thickness in nm, every parameter
    of the domain, the seed, and the share of foreground.
    """
    from PIL import Image

    phantom = make_phantom(domain, n_slices, size, seed)
    for k, (image, mask) in enumerate(zip(phantom.images, phantom.masks, strict=True)):
        for kind, array in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
            stream = io.BytesIO()
            Image.fromarray(array).save(stream, format="PNG", compress_level=1)
            write_bytes(folder / kind / f"slice_{k:03d}.png", stream.getvalue())
    truth = {
        "kind": "phantom",
        "domain": phantom.domain.name,
        "n_slices": n_slices,
        "size_px": size,
        "seed": seed,
        "pixel_size_nm": phantom.domain.pixel_size_nm,
        "section_nm": phantom.domain.section_nm,
        "foreground_share": round(float(phantom.masks.mean()), 6),
        "parameters": dataclasses.asdict(phantom.domain),
    }
    write_json(folder / "phantom.json", truth)
    return truth
