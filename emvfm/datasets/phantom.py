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

from emvfm.datasets.phantom_scene import Scene, Section, cut_section, draw_scene
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


def _refine(coarse: np.ndarray, size: int) -> np.ndarray:
    """Return `coarse` ``(g, g)``, sampled at every second pixel, interpolated to ``(size, size)``."""
    rows = np.repeat(coarse, 2, axis=0)
    rows[1:-1:2] = (coarse[:-1] + coarse[1:]) / 2
    full = np.repeat(rows, 2, axis=1)
    full[:, 1:-1:2] = (rows[:, :-1] + rows[:, 1:]) / 2
    return full[:size, :size]


def _line(distance: np.ndarray, half_width: float | np.ndarray, edge: float) -> np.ndarray:
    """Return the opacity (0 to 1) of a line along ``distance == 0`` with soft edges."""
    return 1 / (1 + np.exp(np.clip((np.abs(distance) - half_width) / edge, -30, 30)))


def _stamp_vesicles(
    canvas: np.ndarray, scene: Scene, domain: PhantomDomain, z: float, allowed: np.ndarray
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
    rng: np.random.Generator, scene: Scene, domain: PhantomDomain, section: Section, z: float, size: int
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
    scene = draw_scene(np.random.default_rng(streams[0]), domain, size * pixel, n_slices * domain.section_nm)
    axis = np.arange((size + 1) // 2 + 1, dtype=np.float32) * 2 * pixel
    y, x = np.meshgrid(axis, axis, indexing="ij")
    images = np.empty((n_slices, size, size), np.uint8)
    masks = np.empty((n_slices, size, size), bool)
    for k, stream in enumerate(streams[1:]):
        z = np.float32(k * domain.section_nm)
        section = cut_section(scene, domain, np.stack([y, x, np.full_like(y, z)], axis=-1), float(z))
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
