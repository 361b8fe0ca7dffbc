"""Images described by statistics of their pixels: what a network must beat to have learnt anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.baselines.intensity import (
    correlation_names,
    correlations,
    histogram,
    histogram_names,
    intensity,
    intensity_names,
)
from emvfm.backbones.baselines.planes import Plane
from emvfm.backbones.baselines.spectrum import spectrum, spectrum_names
from emvfm.backbones.baselines.texture import texture, texture_names
from emvfm.backbones.baselines.thumbnail import thumbnail, thumbnail_names

__all__ = ["PRESETS", "describe", "feature_names"]


_Compute = Callable[..., list[NDArray[np.float64]]]


def _each(compute: Callable[[Plane, int | None], NDArray[np.float64]]) -> _Compute:
    """Return what describes a plane by several sides of cells, one after the other."""
    return lambda plane, *cells: [compute(plane, cell) for cell in cells]


@dataclass(frozen=True)
class _Part:
    """A kind of statistic of one channel: its names, and ``(n, d)`` for each of some sides of cells."""

    names: Callable[[], list[str]]
    compute: _Compute


_PARTS = {
    "intensity": _Part(intensity_names, _each(intensity)),
    "histogram": _Part(histogram_names, _each(histogram)),
    "texture": _Part(texture_names, texture),
    "spectrum": _Part(spectrum_names, _each(spectrum)),
    "thumbnail": _Part(thumbnail_names, _each(thumbnail)),
}

#: What each preset is made of; ``intensity`` also relates channels to each other.
PRESETS: dict[str, tuple[str, ...]] = {**{name: (name,) for name in _PARTS}, "all": tuple(_PARTS)}


def feature_names(preset: str, channels: int = 1) -> list[str]:
    """Return the names of what `describe` gives, in its order.

    >>> feature_names("intensity")[:3]
    ['intensity/0/mean', 'intensity/0/std', 'intensity/0/min']
    """
    names = []
    for part in PRESETS[preset]:
        names += [f"{part}/{c}/{name}" for c in range(channels) for name in _PARTS[part].names()]
        if part == "intensity":
            names += [f"intensity/{name}" for name in correlation_names(channels)]
    return names


def describe(planes: Sequence[Plane], preset: str, *cells: int | None) -> list[NDArray[np.float32]]:
    """Return ``(n, D)`` float32 statistics, channel by channel, for each of some sides of cells.

    Parameters
    ----------
    planes
        Channels of one image.
    preset
        A name of `PRESETS`.
    cells
        Side of the cells that are described, row by row, in px; None for the whole image as one.
    """
    blocks: list[list[NDArray[np.float64]]] = [[] for _ in cells]
    for part in PRESETS[preset]:
        for plane in planes:
            for block, found in zip(blocks, _PARTS[part].compute(plane, *cells), strict=True):
                block.append(found)
        if part == "intensity" and len(planes) > 1:
            for block, cell in zip(blocks, cells, strict=True):
                block.append(correlations(planes, cell))
    return [np.concatenate(block, axis=-1).astype(np.float32) for block in blocks]
