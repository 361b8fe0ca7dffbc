"""Cross-validation for stacks: what is left out is a run of neighbouring slices, with a gap on either side.

Folds know nothing of labels. The same folds therefore serve the observed labels and every relabelling of a
permutation test, which keeps that test exact, and whatever depends on the images alone is fitted once a fold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["Fold", "FoldPlan", "count_relabellings", "join_plans", "plan_folds", "relabelled"]

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Fold:
    """Rows to learn from and rows to be tested; rows in the gap are in neither."""

    train: Rows
    test: Rows


@dataclass(frozen=True)
class FoldPlan:
    """The folds of one dataset, or of several together.

    Attributes
    ----------
    parts
        ``(N,)`` int: part of each row. A part is one block or a run of neighbouring blocks; it is what is
        left out, and what is relabelled as a whole.
    blocks
        ``(N,)`` int: block of each row, of which a part holds one or more.
    folds
        One a part, in the order of the parts.
    """

    parts: NDArray[np.intp]
    blocks: NDArray[np.intp]
    folds: tuple[Fold, ...]

    def __len__(self) -> int:
        return len(self.parts)


def _ordered(
    blocks: NDArray[np.intp], volumes: Sequence[str], positions: Sequence[int | None]
) -> list[list[int]]:
    """Return chains of neighbouring blocks; a block of images without position is a chain of its own."""
    first: dict[int, tuple[str, int | None]] = {}
    for block, volume, z in zip(blocks.tolist(), volumes, positions, strict=True):
        known = first.get(block)
        if known is None or (z is not None and (known[1] is None or z < known[1])):
            first[block] = (volume, z)
    chains: dict[object, list[int]] = {}
    for block, (volume, z) in first.items():
        chains.setdefault(("alone", block) if z is None else volume, []).append(block)
    return [sorted(chain, key=lambda b: first[b][1] or 0) for chain in chains.values()]


def plan_folds(
    blocks: Sequence[int],
    volumes: Sequence[str],
    positions: Sequence[int | None],
    *,
    parts: int = 10,
    gap: int = 1,
) -> FoldPlan:
    """Plan the folds of one dataset.

    Parameters
    ----------
    blocks, volumes, positions
        Of each row: block of consecutive slices, volume, and slice index (None where unknown).
    parts
        Into how many parts the blocks are gathered at most; with fewer blocks each is a part.
    gap
        How many blocks on either side of a part, in its volume, are kept out of its fold's training.

    Raises
    ------
    UsageError
        Sequences of different lengths, fewer than two parts asked for, or a negative gap.
    """
    labels = np.asarray(blocks, dtype=np.intp)
    if not len(labels) == len(volumes) == len(positions):
        raise UsageError("one volume and position per row", got=f"{len(volumes)} and {len(positions)}")
    if parts < 2 or gap < 0:
        raise UsageError(
            "not a way to fold", got=f"{parts} parts, gap {gap}", expected="2 or more, 0 or more"
        )
    chains = _ordered(labels, volumes, positions)
    ordered = [block for chain in chains for block in chain]
    barred: dict[int, set[int]] = {}
    for chain in chains:
        for i, block in enumerate(chain):
            barred[block] = set(chain[max(0, i - gap) : i + gap + 1])
    runs = [run.tolist() for run in np.array_split(np.array(ordered, np.intp), min(parts, len(ordered)))]
    part_of = {block: i for i, run in enumerate(runs) for block in run}
    folds = []
    for run in runs:
        kept_out = set().union(*(barred[block] for block in run))
        folds.append(
            Fold(np.flatnonzero(~np.isin(labels, sorted(kept_out))), np.flatnonzero(np.isin(labels, run)))
        )
    return FoldPlan(np.array([part_of[b] for b in labels.tolist()], np.intp), labels, tuple(folds))


def join_plans(plans: Sequence[FoldPlan]) -> FoldPlan:
    """Return the plan for the rows of several datasets one after the other.

    A fold still tests one part of one dataset; it learns from what its own plan allows and from all rows of
    the other datasets.
    """
    sizes = [len(plan) for plan in plans]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp)
    everything = np.arange(starts[-1])
    parts, blocks, folds = [], [], []
    for plan, start, stop in zip(plans, starts[:-1], starts[1:], strict=True):
        offset = len(folds)
        parts.append(plan.parts + offset)
        blocks.append(np.unique(plan.blocks, return_inverse=True)[1] + sum(len(set(b)) for b in blocks))
        others = everything[(everything < start) | (everything >= stop)]
        folds += [
            Fold(np.sort(np.concatenate([fold.train + start, others])), fold.test + start)
            for fold in plan.folds
        ]
    return FoldPlan(np.concatenate(parts), np.concatenate(blocks), tuple(folds))


def relabelled(
    parts: ArrayLike, labels: ArrayLike, permutations: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return ``(permutations, N)`` labels, each an exchange of labels between whole parts.

    Raises
    ------
    UsageError
        A part holds more than one label.
    """
    part, label = np.asarray(parts), np.asarray(labels, dtype=np.intp)
    names, index = np.unique(part, return_inverse=True)
    of_part = np.zeros(len(names), np.intp)
    of_part[index] = label
    if (of_part[index] != label).any():
        raise UsageError("a part holds more than one label")
    shuffled = [of_part[rng.permutation(len(names))][index] for _ in range(permutations)]
    return np.array(shuffled, np.intp).reshape(permutations, len(label))


def count_relabellings(counts: Sequence[int]) -> tuple[int, int]:
    """Return how many relabellings of parts there are, and how many of them are the observed one.

    Classes with equally many parts may swap names: no score notices, so those relabellings count as
    observed, and a p-value can't be below the second number over the first.
    """
    distinct, total = 1, 0
    for count in counts:
        total += count
        distinct *= math.comb(total, count)
    same = math.prod(math.factorial(times) for times in Counter(counts).values())
    return distinct, same
