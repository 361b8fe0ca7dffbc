"""What a projection is shown with: pictures of the samples, colour maps over them, and the interactive page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.preprocess import at_pixel_size, scaled_size
from emvfm.datasets.images import read_image
from emvfm.datasets.masks import read_mask
from emvfm.domain.colour_maps import rgb_maps
from emvfm.domain.pca import Basis
from emvfm.domain.sampling import evenly_spread
from emvfm.report.interactive import MapImage, map_page, thumbnails
from emvfm.report.projection_figures import ColourMap, Stack
from emvfm.studies.domains import Domain
from emvfm.studies.projections import Rows, unit_length

__all__ = ["MOST_POINTS", "colour_map", "interactive_map", "slices_of", "stacks_of"]

#: Points of an interactive page; more are thinned evenly, and the page says so.
MOST_POINTS = 20_000


def patch_side(domain: Domain, i: int) -> tuple[float, float]:
    """Return height and width of a patch of sample `i` in pixels of the native image."""
    sample, embeddings = domain.embeddings.samples[i], domain.embeddings
    size = (sample.height, sample.width)
    scaled = scaled_size(size, at_pixel_size(embeddings.input_size, sample.pixel_size_nm))
    return embeddings.patch * size[0] / scaled[0], embeddings.patch * size[1] / scaled[1]


def slices_of(domain: Domain, n: int) -> list[int]:
    """Return at most `n` samples of a domain, spread evenly through its stacks."""
    samples = domain.embeddings.samples
    order = sorted(range(len(samples)), key=lambda i: (samples[i].volume, samples[i].z or 0, i))
    return [order[k] for k in evenly_spread(range(len(order)), n)]


def colour_map(
    domain: Domain, i: int, layer: int, basis: Basis, limits: NDArray[np.float64], *, l2: bool = False
) -> ColourMap:
    """Return sample `i` with the first three coordinates of its patches as colours.

    Parameters
    ----------
    layer
        Position among the stored layers.
    limits
        ``(2, k)``: the coordinates that become 0 and 1.
    """
    embeddings, sample = domain.embeddings, domain.embeddings.samples[i]
    tokens = embeddings.patches(i, [embeddings.layers[layer]])[0]
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    coordinates = basis.transform(unit_length(flat) if l2 else flat).reshape(*tokens.shape[:2], -1)
    coordinates[embeddings.valid(i) <= 0] = np.nan
    mask_path, side = domain.dataset.mask_path(sample), patch_side(domain, i)
    where = "" if sample.z is None else f" · z {sample.z}"
    return ColourMap(
        image=read_image(domain.dataset.image_path(sample)),
        colours=rgb_maps(coordinates, limits),
        extent=(tokens.shape[0] * side[0], tokens.shape[1] * side[1]),
        title=f"{domain.name}{where}" if where else f"{domain.name} · {sample.id}",
        mask=None if mask_path is None else read_mask(mask_path),
    )


def stacks_of(rows: Rows, points: NDArray[np.float64]) -> list[Stack]:
    """Return the path of each stack through ``(N, 2)`` points; of patches, the means of the slices."""
    found = []
    for g, domain in enumerate(rows.domains):
        samples = domain.embeddings.samples
        images = np.unique(rows.sample[rows.domain == g])
        for volume in dict.fromkeys(samples[i].volume for i in images):
            members = [i for i in images if samples[i].volume == volume and samples[i].z is not None]
            if len(members) < 2:
                continue
            path = [points[(rows.domain == g) & (rows.sample == i)].mean(axis=0) for i in members]
            found.append(Stack(volume, domain.name, np.array(path), [samples[i].z for i in members]))
    return found


def _pictures(rows: Rows, shown: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    for g, i in shown:
        domain = rows.domains[g]
        yield read_image(domain.dataset.image_path(domain.embeddings.samples[i]))


def interactive_map(
    rows: Rows,
    coordinates: NDArray[np.float64],
    axes: Sequence[str],
    *,
    title: str,
    subtitle: str,
    remark: str = "",
) -> str:
    """Return the interactive page of these rows; see `emvfm.report.interactive`."""
    kept = np.arange(len(rows))
    if len(rows) > MOST_POINTS:
        kept = np.linspace(0, len(rows) - 1, MOST_POINTS).astype(int)
        subtitle += f"; {MOST_POINTS} of {len(rows)} points, the others are in coordinates.csv"
    pairs = list(zip(rows.domain[kept].tolist(), rows.sample[kept].tolist(), strict=True))
    shown = list(dict.fromkeys(pairs))
    place = {pair: k for k, pair in enumerate(shown)}
    pictures = thumbnails(_pictures(rows, shown), len(shown))
    images, parts = [], []
    for (g, i), picture in zip(shown, pictures, strict=True):
        domain = rows.domains[g]
        sample, side = domain.embeddings.samples[i], patch_side(domain, i)
        parts.append((side[0] / sample.height, side[1] / sample.width))
        images.append(
            MapImage(sample.id, domain.name, sample.volume, sample.split, sample.z, picture, parts[-1])
        )
    index = np.array([place[pair] for pair in pairs])
    cells = None if rows.cells is None else rows.cells[kept]
    return map_page(
        title, images, coordinates[kept], index, axes=axes, subtitle=subtitle, remark=remark,
        foreground=rows.foreground[kept], cells=cells,
        centres=None if cells is None else (cells + 0.5) * np.array(parts)[index],
    )  # fmt: skip
