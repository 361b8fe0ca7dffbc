"""Cross-validation for stacks: what is left out is a run of neighbouring slices, with a gap on either side.

A permutation moves whole parts between fixed places; places keep their label, their fold and their gap, so
that the observed order is one among equals and the test is exact where parts are exchangeable.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError

__all__ = ["Fold", "FoldPlan", "count_relabellings", "join_plans", "plan_folds"]

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Fold:
    """Rows to learn from and rows to be tested; rows in the gap are in neither."""

    train: Rows
    test: Rows


@dataclass(frozen=True)
class FoldPlan:
    """How one dataset, or several together, are left out part by part.

    Attributes
    ----------
    parts
        ``(N,)`` int: part of each row. A part is one block or a run of neighbouring blocks; it is what is
        left out, and what a permutation moves as a whole.
    blocks
        ``(N,)`` int: block of each row, of which a part holds one or more.
    gaps
        ``(P, P)`` int: how many blocks of part j, on the side of part i, are left out of the training of the
        fold that tests i.
    """

    parts: NDArray[np.intp]
    blocks: NDArray[np.intp]
    runs: tuple[tuple[Rows, ...], ...]
    gaps: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def folds(self) -> tuple[Fold, ...]:
        """One a part, in the order of the parts."""
        return self.exchanged(range(len(self.runs)))

    def exchanged(self, order: Iterable[int]) -> tuple[Fold, ...]:
        """Return the folds after the parts have changed places: part ``order[i]`` now stands at place i.

        Places keep their gaps. A permutation that left the gaps where the rows are would compare the observed
        labels, whose gaps always cost a dataset its own slices, with relabellings that spread the loss.
        """
        runs = [self.runs[i] for i in order]
        folds = []
        for i, run in enumerate(runs):
            train = [
                rows
                for j, other in enumerate(runs)
                if j != i
                for rows in (other[self.gaps[i, j] :] if j > i else other[: len(other) - self.gaps[i, j]])
            ]
            joined = np.sort(np.concatenate(train)) if train else np.array([], np.intp)
            folds.append(Fold(joined, np.sort(np.concatenate(run))))
        return tuple(folds)


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
    parts: int = 6,
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
    ordered = np.array([block for chain in chains for block in chain], np.intp)
    chain_of = {block: (number, i) for number, chain in enumerate(chains) for i, block in enumerate(chain)}
    runs = [run.tolist() for run in np.array_split(ordered, min(parts, len(ordered)))]
    gaps = np.zeros((len(runs), len(runs)), np.intp)
    for i, j in permutations(range(len(runs)), 2):
        gaps[i, j] = sum(any(_near(chain_of[b], chain_of[c], gap) for c in runs[i]) for b in runs[j])
    part_of = {block: i for i, run in enumerate(runs) for block in run}
    return FoldPlan(
        np.array([part_of[b] for b in labels.tolist()], np.intp),
        labels,
        tuple(tuple(np.flatnonzero(labels == block) for block in run) for run in runs),
        gaps,
    )


def _near(a: tuple[int, int], b: tuple[int, int], gap: int) -> bool:
    return a[0] == b[0] and abs(a[1] - b[1]) <= gap


def join_plans(plans: Sequence[FoldPlan]) -> FoldPlan:
    """Return the plan for the rows of several datasets one after the other.

    A fold still tests one part of one dataset; it learns from what its own plan allows and from all rows of
    the other datasets.
    """
    parts, blocks = [], []
    runs: list[tuple[Rows, ...]] = []
    gaps = np.zeros((sum(len(p.runs) for p in plans),) * 2, np.intp)
    start, n_blocks = 0, 0
    for plan in plans:
        offset, end = len(runs), len(runs) + len(plan.runs)
        parts.append(plan.parts + offset)
        names, numbers = np.unique(plan.blocks, return_inverse=True)
        blocks.append(numbers + n_blocks)
        runs += [tuple(rows + start for rows in run) for run in plan.runs]
        gaps[offset:end, offset:end] = plan.gaps
        start, n_blocks = start + len(plan), n_blocks + len(names)
    return FoldPlan(np.concatenate(parts), np.concatenate(blocks), tuple(runs), gaps)


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
