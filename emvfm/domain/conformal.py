r"""Thresholds whose rate of false alarms is promised, for slices that come in dependent blocks.

A conformal p-value (Bates et al. 2023, arXiv 2104.08279) ranks a score among calibration scores that were kept
out of the fit; flagging p <= 0.05 flags at most 5 % of new in-distribution images, **if** these are exchangeable
with the calibration images. Slices are not: neighbours are nearly the same image. What is exchangeable is the
block of consecutive slices, so there are three ways to count, and this module gives all of them.

slice
    Every calibration slice counts as one: :math:`p = (1 + \#\{s_i \ge s\}) / (n + 1)`. This undercovers. Take ten
    blocks of ten equal slices: the threshold for 5 % is the largest of what are really ten values, and a new block
    exceeds the largest of ten values with probability 1/11, not 0.05.
block
    Every calibration *block* counts as one, its slices sharing the weight:
    :math:`p = (1 + \sum_b \frac{1}{n_b} \#\{s_{bi} \ge s\}) / (B + 1)`. It is the average over all ways to draw one
    slice from each block, and valid for a slice of a new block (Lee, Barber & Willett 2023, arXiv 2306.06342).
maximum
    The largest score of each block: :math:`p = (1 + \#\{\max_i s_{bi} \ge s\}) / (B + 1)`. At its threshold the rate
    is that of new *blocks* with any false alarm in them; for single slices it is stricter than needed.

With B blocks no p-value of the last two is below 1/(B + 1): a level of 0.05 takes 19 blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["Calibration", "block_parts", "calibrate", "conformal_p_values"]

Floats = NDArray[np.float64]


def block_parts(
    volumes: Sequence[str],
    z: Sequence[int | None],
    blocks: Sequence[int],
    *,
    calibration: float = 0.3,
    test: float = 0.3,
    gap: int = 1,
    seed: int = 0,
) -> list[str]:
    """Deal whole blocks of slices to ``fit``, ``calibration`` and ``test``; slices at the seams become ``gap``.

    Blocks are dealt at random, not in order: a drift along the stack would make the calibration blocks
    another population than the test blocks.

    Parameters
    ----------
    volumes, z
        Stack of each image and its position there, None for single images.
    blocks
        Block label of each image.
    calibration, test
        Shares of the blocks, at least one block each.
    gap
        Slices of two parts are more than `gap` positions apart. The slices given up for it are those of the
        fit, then of the calibration.

    Raises
    ------
    UsageError
        Fewer than three blocks, or no image left in a part.
    """
    if gap < 0:
        raise UsageError("unusable gap", where="--gap", got=gap, expected="0 or more slices")
    labels = np.asarray(blocks)
    unique = np.unique(labels)
    n_calibration, n_test = (max(1, round(share * len(unique))) for share in (calibration, test))
    if len(unique) - n_calibration - n_test < 1 or min(calibration, test) < 0:
        raise UsageError(
            "too few blocks of slices to keep fit, calibration and test apart",
            got=f"{len(unique)} blocks",
            expected=f"more than {n_calibration} + {n_test}",
            todo="add images, or lower the shares of calibration and test",
        )
    order = np.random.default_rng(seed).permutation(unique)
    part_of = dict.fromkeys(order.tolist(), "fit")
    part_of |= dict.fromkeys(order[:n_test].tolist(), "test")
    part_of |= dict.fromkeys(order[n_test : n_test + n_calibration].tolist(), "calibration")
    dealt = [part_of[block] for block in labels.tolist()]
    parts = list(dealt)
    for keeps, yields in (("test", ("fit", "calibration")), ("calibration", ("fit",))):
        near = {
            (volume, position + step)
            for volume, position, part in zip(volumes, z, dealt, strict=True)
            if part == keeps and position is not None
            for step in range(-gap, gap + 1)
        }
        for i, place in enumerate(zip(volumes, z, strict=True)):
            if dealt[i] in yields and place in near:
                parts[i] = "gap"
    for part in ("fit", "calibration", "test"):
        if part not in parts:
            raise UsageError(
                f"the gap leaves no image for the {part}", where="--gap", got=gap, todo="lower --gap"
            )
    return parts


def _weights(blocks: ArrayLike) -> tuple[NDArray[np.intp], Floats, int]:
    """Return each row's block index, its weight one over the size of its block, and the number of blocks."""
    unique, index, counts = np.unique(np.asarray(blocks), return_inverse=True, return_counts=True)
    return index, 1 / counts[index], len(unique)


def _checked(scores: ArrayLike, blocks: Sequence[int]) -> Floats:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or len(values) != len(blocks) or not len(values) or not np.isfinite(values).all():
        raise UsageError(
            "not calibration scores", got=f"{values.shape} for {len(blocks)} blocks", expected="one a slice"
        )
    return values


def _units(calibration: Floats, blocks: Sequence[int], unit: str) -> tuple[Floats, Floats, int]:
    """Return the scores that count, their weights, and what they sum up to."""
    index, weight, n_blocks = _weights(blocks)
    if unit == "slice":
        return calibration, np.ones(len(calibration)), len(calibration)
    if unit == "block":
        return calibration, weight, n_blocks
    if unit == "maximum":
        highest = np.full(n_blocks, -np.inf)
        np.maximum.at(highest, index, calibration)
        return highest, np.ones(n_blocks), n_blocks
    raise UsageError("not a way to count", got=unit, expected="slice, block or maximum")


def conformal_p_values(
    scores: ArrayLike, calibration: ArrayLike, blocks: Sequence[int], unit: str = "block"
) -> Floats:
    """Return a conformal p-value in (0, 1] for each of `scores`, small where outlying.

    Parameters
    ----------
    scores
        ``(m,)``, larger is more outlying.
    calibration, blocks
        ``(n,)`` scores of held-out in-distribution slices, and the block of each.
    unit
        What counts as one: ``slice``, ``block`` or ``maximum``; see the module.
    """
    values, weights, total = _units(_checked(calibration, blocks), blocks, unit)
    order = np.argsort(values)
    reaching = np.concatenate([np.cumsum(weights[order][::-1])[::-1], [0.0]])
    return (1 + reaching[np.searchsorted(values[order], np.asarray(scores, np.float64))]) / (total + 1)


def _threshold(values: Floats, weights: Floats, total: int, level: float) -> float | None:
    """Return the score above which the p-value is at most `level`; None where no p-value is as small."""
    allowed = level * (total + 1) - 1 + 1e-9
    if allowed < 0:
        return None
    unique, index = np.unique(values, return_inverse=True)
    reaching = np.cumsum(np.bincount(index, weights=weights)[::-1])[::-1]
    return float(unique[reaching > allowed][-1])  # all weights together always exceed what is allowed


@dataclass(frozen=True)
class Calibration:
    """Where to draw the line, and what that promises.

    Attributes
    ----------
    level
        Rate of false alarms asked for.
    promised
        Rate that the threshold in use promises: `level`, or 1/(blocks + 1) with too few blocks for it.
    threshold
        A score above it is flagged; by blocks, at the promised rate.
    slice_threshold, maximum_threshold
        What counting slices or block maxima gives at `level`; None where no finite one exists.
    n, blocks
        Calibration images and blocks; `needed` blocks would suffice.
    """

    level: float
    promised: float
    threshold: float
    slice_threshold: float | None
    maximum_threshold: float | None
    n: int
    blocks: int

    @property
    def needed(self) -> int:
        return math.ceil(1 / self.level - 1 - 1e-9)

    @property
    def least_p_value(self) -> float:
        """What no p-value is below, however outlying an image is."""
        return 1 / (self.blocks + 1)

    @property
    def enough(self) -> bool:
        return self.blocks >= self.needed

    @property
    def verdict(self) -> str:
        """One sentence on what the threshold promises."""
        if self.enough:
            promise = f"the threshold promises a rate of false alarms of {self.level:.2g}"
            return f"{promise}, from {self.blocks} calibration blocks (no p-value is below {self.least_p_value:.2g})"
        return (
            f"too few calibration blocks for level {self.level:.2g} ({self.blocks}, {self.needed} are needed): "
            f"the least rate of false alarms that a threshold can promise, and the least p-value of any image, is "
            f"{self.least_p_value:.2g}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the verdict as plain JSON values."""
        return {
            **asdict(self),
            "needed": self.needed,
            "least_p_value": self.least_p_value,
            "enough": self.enough,
            "verdict": self.verdict,
        }


def calibrate(scores: ArrayLike, blocks: Sequence[int], *, level: float = 0.05) -> Calibration:
    """Find the thresholds for scores ``(n,)`` of held-out in-distribution slices with their block labels.

    Raises
    ------
    UsageError
        `level` is not between 0 and 1, or scores and blocks do not match.
    """
    if not 0 < level < 1:
        raise UsageError("not a rate of false alarms", got=level, expected="between 0 and 1")
    values = _checked(scores, blocks)
    n_blocks = len(set(blocks))
    promised = max(level, 1 / (n_blocks + 1))
    threshold = _threshold(*_units(values, blocks, "block"), promised)
    assert threshold is not None  # the promised level is one that exists
    return Calibration(
        level=level,
        promised=promised,
        threshold=threshold,
        slice_threshold=_threshold(*_units(values, blocks, "slice"), level),
        maximum_threshold=_threshold(*_units(values, blocks, "maximum"), level),
        n=len(values),
        blocks=n_blocks,
    )
