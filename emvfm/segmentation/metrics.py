"""Overlap of predicted and true masks: counts, IoU and Dice pooled over pixels, and their uncertainty.

Neighbouring slices of a volume show the same organelles, so they are not independent; intervals resample
whole blocks of consecutive slices instead of single slices. Numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any, Literal

import numpy as np

from emvfm.errors import UsageError

__all__ = [
    "Counts",
    "Estimate",
    "Statistic",
    "block_labels",
    "bootstrap_pooled",
    "count",
    "mean_per_image",
    "pooled",
    "scores",
]

Statistic = Literal["iou", "dice"]
STATISTICS = ("iou", "dice")


@dataclass(frozen=True)
class Counts:
    """Pixels of a binary segmentation by outcome; counts of several images add up.

    Where truth and prediction are both empty IoU and Dice are 1 by definition: there was nothing to find and
    nothing was found. Where only the truth is empty they are 0.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def iou(self) -> float:
        """Intersection over union of the foreground, in [0, 1]."""
        return float(scores(np.array(astuple(self), dtype=np.float64), "iou"))

    @property
    def dice(self) -> float:
        """Twice the intersection over the sum of the areas, in [0, 1]; equals F1."""
        return float(scores(np.array(astuple(self), dtype=np.float64), "dice"))


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


def count(
    prediction: np.ndarray[Any, Any],
    truth: np.ndarray[Any, Any],
    valid: np.ndarray[Any, Any] | None = None,
) -> Counts:
    """Count the pixels of one image by outcome.

    Parameters
    ----------
    prediction, truth
        `(H, W)` bool.
    valid
        `(H, W)` bool, the pixels that count; None means all.

    Raises
    ------
    UsageError
        When a mask is not bool (a probability or a label image) or the shapes differ.
    """
    masks = {"prediction": prediction, "truth": truth} | ({} if valid is None else {"valid": valid})
    for name, mask in masks.items():
        if mask.dtype != np.bool_:
            raise UsageError("wrong dtype", where=name, got=mask.dtype, expected="bool")
        if mask.shape != truth.shape:
            raise UsageError("wrong shape", where=name, got=mask.shape, expected=truth.shape)
    counted = np.ones_like(truth) if valid is None else valid
    total = int(np.count_nonzero(counted))
    tp = int(np.count_nonzero(prediction & truth & counted))
    fp = int(np.count_nonzero(prediction & counted)) - tp
    fn = int(np.count_nonzero(truth & counted)) - tp
    return Counts(tp, fp, fn, total - tp - fp - fn)


def pooled(counts: Sequence[Counts]) -> Counts:
    """Add up the counts of several images; none give zeros."""
    return sum(counts, start=Counts())


def mean_per_image(counts: Sequence[Counts], *, statistic: Statistic = "iou") -> float:
    """Average IoU or Dice over images, each image weighing the same.

    Raises
    ------
    UsageError
        Without images, or for an unknown statistic.
    """
    return float(np.mean(scores(_table(counts), _known(statistic))))


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


def bootstrap_pooled(
    counts: Sequence[Counts],
    blocks: Sequence[int],
    *,
    statistic: Statistic = "iou",
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Estimate pooled IoU or Dice with a percentile interval from resampled blocks.

    Whole blocks are drawn with replacement, as many as there are. With few blocks the interval is too narrow,
    as any bootstrap of few units is; `method` tells how many there were.

    Parameters
    ----------
    counts
        Of each slice.
    blocks
        Label of each slice, of :func:`block_labels`.
    statistic
        ``iou`` or ``dice``.
    samples
        Number of resamples.
    level
        Nominal coverage in (0, 1).
    seed
        Of the resampling.

    Raises
    ------
    UsageError
        Without slices, when labels and slices differ in number, or for an option out of range.
    """
    _known(statistic)
    if len(counts) != len(blocks):
        raise UsageError("one block per slice", where="blocks", got=len(blocks), expected=len(counts))
    if samples < 1 or not 0 < level < 1:
        got = f"{samples} samples at level {level}"
        raise UsageError("out of range", where="bootstrap", got=got, expected="samples >= 1, 0 < level < 1")
    table = _table(counts)
    value = float(scores(table.sum(axis=0), statistic))
    names, block = np.unique(np.asarray(blocks), return_inverse=True)
    n_blocks = len(names)
    if n_blocks < 2:
        method = "no interval: a single block of slices cannot be resampled"
        return Estimate(value, None, None, level, method, len(counts))
    totals = np.zeros((n_blocks, 4))
    np.add.at(totals, block, table)
    times = np.random.default_rng(seed).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=samples)
    replicates = scores(times @ totals, statistic)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    method = f"percentile bootstrap of {n_blocks} blocks of consecutive slices, {samples} resamples"
    return Estimate(value, float(low), float(high), level, method, len(counts))


def _table(counts: Sequence[Counts]) -> np.ndarray[Any, Any]:
    if not counts:
        raise UsageError("no images to score", where="counts", got=0, expected="at least 1")
    return np.array([astuple(each) for each in counts], dtype=np.float64)  # exact below 2 ** 53 pixels


def scores(table: np.ndarray[Any, Any], statistic: str) -> np.ndarray[Any, Any]:
    """Return IoU or Dice of counts ``(..., 4)`` in the order tp, fp, fn, tn; 1 where there was nothing to find."""
    tp, wrong = table[..., 0], table[..., 1] + table[..., 2]
    hit = tp if statistic == "iou" else 2 * tp
    whole = hit + wrong
    return np.divide(hit, whole, out=np.ones_like(whole), where=whole > 0)


def _known(statistic: str) -> str:
    if statistic not in STATISTICS:
        raise UsageError(
            "unknown statistic", where="metric", got=repr(statistic), expected=" | ".join(STATISTICS)
        )
    return statistic
