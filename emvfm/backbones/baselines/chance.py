"""Embeddings that know nothing, or only the wrong thing: noise, projected pixels, a constant, coded facts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.baselines.planes import Plane
from emvfm.backbones.baselines.thumbnail import SIDE, thumbnail
from emvfm.errors import UsageError

__all__ = ["PRESETS", "WIDTH", "one_hot", "one_hot_names", "pixel_digest"]

#: Numbers of an embedding by noise or projection.
WIDTH = 64

Floats = NDArray[np.float32]


def pixel_digest(planes: Sequence[Plane]) -> bytes:
    """Return the SHA-256 of the pixels: the same image in two files has the same one."""
    found = hashlib.sha256()
    for plane in planes:
        found.update(repr(plane.raw.shape).encode())
        found.update(np.ascontiguousarray(plane.raw).tobytes())
    return found.digest()


def noise(planes: Sequence[Plane], n: int, cell: int | None, seed: int) -> Floats:
    """Return ``(n, 64)`` standard normal numbers that depend on the pixels' digest and the seed alone."""
    entropy = int.from_bytes(pixel_digest(planes), "little")
    generator = np.random.default_rng([seed, 0 if cell is None else cell, entropy])
    return generator.standard_normal((n, WIDTH), np.float32)


def projection(planes: Sequence[Plane], n: int, cell: int | None, seed: int) -> Floats:
    """Return ``(n, 64)``: the thumbnails of all channels through one random matrix of variance 1 / 64.

    Distances between thumbnails are kept in expectation (Johnson and Lindenstrauss 1984).
    """
    pixels = np.concatenate([thumbnail(plane, cell) for plane in planes], axis=-1)
    generator = np.random.default_rng([seed, len(planes), SIDE])
    matrix = generator.standard_normal((pixels.shape[1], WIDTH)) / np.sqrt(WIDTH)
    return np.asarray(pixels @ matrix, np.float32)


def constant(planes: Sequence[Plane], n: int, cell: int | None, seed: int) -> Floats:
    """Return ``(n, 64)`` ones: a representation that has collapsed."""
    return np.ones((n, WIDTH), np.float32)


#: What gives ``(n, 64)`` for `n` cells of a side, or for the whole image, from its channels and a seed.
PRESETS: dict[str, Callable[[Sequence[Plane], int, int | None, int], Floats]] = {
    "noise": noise,
    "projection": projection,
    "constant": constant,
}


def one_hot_names(vocabulary: Mapping[str, Sequence[str]]) -> list[str]:
    """Return ``column=value`` for each place of `one_hot`."""
    return [f"{column}={value}" for column, values in vocabulary.items() for value in values]


def one_hot(facts: Mapping[str, str], vocabulary: Mapping[str, Sequence[str]]) -> Floats:
    """Return ``(D,)``: 1 where a sample has the value, 0 elsewhere, column by column.

    Several values of one sample are joined by ``;``; a sample that lacks the column has none.

    Raises
    ------
    UsageError
        A value is not in the vocabulary.
    """
    code = []
    for column, values in vocabulary.items():
        mine = {part.strip() for part in facts.get(column, "").split(";")} - {""}
        if unknown := mine - set(values):
            raise UsageError(
                "a value that was not there when the code was made", where=column, got=min(unknown)
            )
        code += [float(value in mine) for value in values]
    return np.array(code, np.float32)
