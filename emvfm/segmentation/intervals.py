"""Estimates with intervals from resampled blocks of consecutive slices. Numpy only.

Neighbouring slices of a volume show the same organelles, so they are not independent; intervals resample
whole blocks of consecutive slices instead of single slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError

__all__ = ["Estimate", "block_labels", "block_totals", "bootstrap", "draw_blocks", "estimate_from"]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; without an interval both ends are None and `method` says why.

    Parameters
    ----------
    value
        The estimate from all the data.
    low, high
        Ends of the interval.
    level
        Nominal coverage in (0, 1).
    method
        How the interval was made.
    n
        Number of images.
    """

    value: float
    low: float | None
    high: float | None
    level: float
    method: str
    n: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Estimate:
        """Return what :meth:`to_json` wrote."""
        return cls(**{field.name: value[field.name] for field in fields(cls)})


def block_labels(volumes: Sequence[str], z: Sequence[int | None], *, length: int | None = None) -> list[int]:
    """Group slices into blocks of consecutive slices of one volume.

    The blocks of a volume are of nearly equal length, so that none is a remainder. By default a volume of n
    slices gets blocks of about sqrt(n) slices. The block bootstrap is consistent when blocks grow without
    bound but slower than n; n ** (1/3) is the rate of least error for weak dependence (Hall, Horowitz & Jing
    1995, doi:10.1093/biomet/82.3.561), yet a mitochondrion spans tens of slices of an isotropic volume. The
    longer blocks keep more of that dependence, at the price of fewer blocks.

    Parameters
    ----------
    volumes
        Volume of each slice.
    z
        Position of each slice in its volume; images of one position (tiles of a slice) share a block.
        An image without a position stands alone, a block of its own.
    length
        Slices per block, at least 1.

    Returns
    -------
    list of int
        Block of each slice, numbered from 0 in the order of first appearance.

    Raises
    ------
    UsageError
        When the lengths of the sequences differ or `length` is below 1.
    """
    if len(volumes) != len(z):
        raise UsageError("one position per slice", where="z", got=len(z), expected=len(volumes))
    if length is not None and length < 1:
        raise UsageError("block too short", where="block length", got=length, expected="at least 1")
    positions: dict[str, set[int]] = {}
    for volume, position in zip(volumes, z, strict=True):
        if position is not None:
            positions.setdefault(volume, set()).add(position)
    block_of: dict[tuple[str, int], int] = {}
    for volume, found in positions.items():
        n_blocks = math.ceil(len(found) / (length or max(1, round(math.sqrt(len(found))))))
        for block, members in enumerate(np.array_split(np.array(sorted(found)), n_blocks)):
            block_of |= {(volume, int(position)): block for position in members}
    numbers: dict[tuple[object, ...], int] = {}
    labels = []
    for i, (volume, position) in enumerate(zip(volumes, z, strict=True)):
        key = ("alone", i) if position is None else ("block", volume, block_of[volume, position])
        labels.append(numbers.setdefault(key, len(numbers)))
    return labels


def block_totals(table: NDArray[np.float64], blocks: Sequence[int]) -> NDArray[np.float64]:
    """Add up the rows ``(n, ...)`` of each block: ``(blocks, ...)`` in the order of their labels.

    Raises
    ------
    UsageError
        When labels and rows differ in number.
    """
    if len(table) != len(blocks):
        raise UsageError("one block per slice", where="blocks", got=len(blocks), expected=len(table))
    names, block = np.unique(np.asarray(blocks), return_inverse=True)
    totals = np.zeros((len(names), *table.shape[1:]))
    np.add.at(totals, block, table)
    return totals


def draw_blocks(n_blocks: int, samples: int, seed: int) -> NDArray[np.int64]:
    """Draw as many blocks as there are, with replacement: ``(samples, n_blocks)`` times each is drawn."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=samples)


def estimate_from(
    value: float, replicates: NDArray[np.float64], *, level: float, n: int, n_blocks: int
) -> Estimate:
    """Return the percentile interval of `replicates`, none for a single block; undefined ones are left out."""
    replicates = replicates[np.isfinite(replicates)]
    if n_blocks < 2:
        method = "no interval: a single block of slices cannot be resampled"
        return Estimate(value, None, None, level, method, n)
    if not len(replicates):
        return Estimate(value, None, None, level, "no interval: undefined on every resample", n)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    method = f"percentile bootstrap of {n_blocks} blocks of consecutive slices, {len(replicates)} resamples"
    return Estimate(value, float(low), float(high), level, method, n)


def bootstrap(
    table: NDArray[np.float64],
    blocks: Sequence[int],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Estimate a function of sums over slices, with a percentile interval from resampled blocks.

    Whole blocks are drawn with replacement, as many as there are. With few blocks the interval is too narrow,
    as any bootstrap of few units is; `method` tells how many there were. Calls with the same blocks and seed
    draw alike, whatever the table.

    Parameters
    ----------
    table
        ``(n, k)`` float64, of each slice what is added up.
    blocks
        Label of each slice, of :func:`block_labels`.
    statistic
        Takes sums ``(..., k)`` and returns ``(...)``; NaN where it is undefined.
    samples
        Number of resamples.
    level
        Nominal coverage in (0, 1).
    seed
        Of the resampling.

    Raises
    ------
    UsageError
        When labels and slices differ in number, or for an option out of range.
    """
    if samples < 1 or not 0 < level < 1:
        got = f"{samples} samples at level {level}"
        raise UsageError("out of range", where="bootstrap", got=got, expected="samples >= 1, 0 < level < 1")
    totals = block_totals(table, blocks)
    value = float(statistic(table.sum(axis=0)))
    n = len(table)
    if len(totals) < 2:
        return estimate_from(value, np.zeros(0), level=level, n=n, n_blocks=len(totals))
    replicates = statistic(draw_blocks(len(totals), samples, seed) @ totals)
    return estimate_from(value, replicates, level=level, n=n, n_blocks=len(totals))
