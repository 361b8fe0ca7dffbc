"""Folds for multi-label data: proteins stay whole, every fold gets its share of every label.

Iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011, doi:10.1007/978-3-642-23808-6_10) gives away
the rarest label first, always to the fold that lacks it most; with pairs of labels as further labels it is the
second order of Szymański & Kajdanowicz 2017 (PMLR 74:22-35). Here what is given away is a whole protein with
all its rows: two fields of one protein are nearly one sample, and a head that has seen the one in training
recognises the other in the test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import RefusedError, UsageError

__all__ = [
    "FoldReport",
    "Folds",
    "Rows",
    "fold_report",
    "group_numbers",
    "inner_split",
    "make_folds",
    "stratify",
    "stratify_rows",
]

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class FoldReport:
    """How even the folds are, and what of the training proteins the tests see again.

    Attributes
    ----------
    rows, groups
        Rows of each fold, and proteins with a row in it.
    positives
        Rows of each fold with each label, ``k`` lists of ``L``.
    label_deviation
        Sechidis' LD: mean over labels and folds of how far a fold's odds of a label are from those of all
        rows. Labels without positives, or in all rows of a fold, are left out.
    row_deviation
        Sechidis' ED: mean over folds of how many rows too many or too few.
    crossing_groups
        Proteins with rows in more than one fold; 0 for grouped folds.
    seen_rows
        Share of the tested rows that are tested after another row of their protein was in training.
    empty
        (fold, class) pairs where the fold's test rows have no positive of a class that has one elsewhere.
    """

    k: int
    grouped: bool
    n: int
    n_groups: int
    rows: tuple[int, ...]
    groups: tuple[int, ...]
    positives: tuple[tuple[int, ...], ...]
    label_deviation: float
    row_deviation: float
    crossing_groups: int
    seen_rows: float
    empty: tuple[tuple[int, int], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self)

    def text(self) -> str:
        """Return one line for a person."""
        rows = f"{min(self.rows)}" + (f" to {max(self.rows)}" if min(self.rows) < max(self.rows) else "")
        line = f"{self.k} folds of {rows} rows, {self.n_groups} groups"
        if self.k == 1:
            line = f"one split: {self.rows[0]} of {self.n} rows tested, {self.n_groups} groups"
        if self.crossing_groups:
            line += (
                f"; {self.crossing_groups} groups cross folds and {self.seen_rows:.0%} of the test rows are tested"
                " after a sibling was in training: scores are too high for new groups"
            )
        else:
            line += ", none on both sides" if self.k == 1 else ", none in two folds"
        lacking = len({fold for fold, _ in self.empty})
        if not lacking:
            return line
        whose = "it has" if self.k == 1 else f"{lacking} of the folds have"
        return f"{line}; {whose} no positive of some class"


@dataclass(frozen=True)
class Folds:
    """Which fold tests each row.

    Attributes
    ----------
    fold, group
        ``(N,)`` int: fold that tests a row, -1 for one that is only learnt from; and the number of its protein.
    """

    fold: Rows
    group: Rows
    k: int
    grouped: bool
    order: int
    seed: int
    report: FoldReport

    def __iter__(self) -> Iterator[tuple[Rows, Rows]]:
        """Yield the rows of training and of test, fold by fold."""
        for i in range(self.k):
            yield np.flatnonzero(self.fold != i), np.flatnonzero(self.fold == i)

    def same_as(self, other: Folds) -> bool:
        """Say whether the same rows are tested together."""
        return self.k == other.k and np.array_equal(self.fold, other.fold)


def group_numbers(groups: ArrayLike) -> Rows:
    """Return ``(N,)`` numbers of groups from 0, in the order of their names."""
    names = np.asarray(groups)
    if names.ndim != 1:
        raise UsageError("not one group a row", where="groups", got=f"shape {names.shape}")
    return np.unique(names, return_inverse=True)[1].astype(np.intp)


def stratify(
    table: ArrayLike, sizes: ArrayLike, shares: Sequence[float], *, order: int = 1, seed: int = 0
) -> Rows:
    """Deal units out to folds, the rarest label first, each to the fold that lacks it most.

    Parameters
    ----------
    table
        ``(G, L)``: in how many of its rows each unit has each label.
    sizes
        ``(G,)`` rows of each unit.
    shares
        ``(k,)`` of all rows that each fold is to have; they add up to 1.
    order
        1 looks at labels, 2 also at pairs of labels.
    seed
        Of the order of equal units and of ties between folds. Ties go to the fold that lacks most rows.

    Returns
    -------
    ``(G,)`` int
        Fold of each unit.
    """
    counts, weight = np.asarray(table, np.float64), np.asarray(sizes, np.float64)
    share = np.asarray(shares, np.float64)
    if counts.ndim != 2 or len(counts) != len(weight) or order not in (1, 2):
        got = f"{counts.shape}, {len(weight)} sizes, order {order}"
        raise UsageError("not a table to stratify", got=got, expected="(G, L), G sizes, order 1 or 2")
    if len(share) < 2 or (share <= 0).any() or abs(share.sum() - 1) > 1e-9:
        raise UsageError("not shares of folds", where="shares", got=list(shares), expected="2 or more, sum 1")
    if order == 2:
        pairs = [np.minimum(counts[:, i], counts[:, j]) for i, j in combinations(range(counts.shape[1]), 2)]
        counts = np.concatenate([counts, *(p[:, None] for p in pairs if p.any())], axis=1)
    rng = np.random.default_rng(seed)
    # Large units first: a late one would have no fold left that it fits into.
    queue = rng.permutation(len(weight))
    queue = queue[np.argsort(-weight[queue], kind="stable")]
    wanted = share[:, None] * counts.sum(axis=0)
    room = share * weight.sum()
    fold = np.full(len(weight), -1, np.intp)
    has = counts > 0
    left = has.sum(axis=0)

    def give(unit: int, lack: NDArray[np.float64]) -> None:
        best = np.flatnonzero(lack >= lack.max() - 1e-9)
        if len(best) > 1:
            best = best[room[best] >= room[best].max() - 1e-9]
        chosen = int(best[0] if len(best) == 1 else rng.choice(best))
        fold[unit] = chosen
        wanted[chosen] -= counts[unit]
        room[chosen] -= weight[unit]
        left[has[unit]] -= 1

    while (left > 0).any():
        label = int(np.argmin(np.where(left > 0, left, np.inf)))
        for unit in queue[has[queue, label] & (fold[queue] < 0)]:
            give(int(unit), wanted[:, label])
    for unit in queue[fold[queue] < 0]:
        give(int(unit), room)
    return fold


def make_folds(
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    k: int = 5,
    grouped: bool = True,
    order: int = 1,
    seed: int = 0,
) -> Folds:
    """Make the folds of a cross-validation.

    Parameters
    ----------
    labels
        ``(N, L)`` of 0 and 1.
    groups
        ``(N,)`` protein of each row.
    grouped
        Whether the rows of a protein stay together. Ungrouped folds measure how well a head recognises
        proteins it has seen; the report says how many do cross.
    order
        Of the stratification: 1 looks at labels, 2 also at pairs of labels.

    Raises
    ------
    UsageError
        When the arrays do not fit or there are fewer than two folds.
    RefusedError
        When there are fewer proteins (rows, if ungrouped) than folds.
    """
    truth, group = np.asarray(labels).astype(bool), group_numbers(groups)
    if truth.ndim != 2 or len(truth) != len(group):
        got = f"labels {truth.shape}, {len(group)} groups"
        raise UsageError("not one group a row of labels", where="groups", got=got, expected="(N, L) and N")
    if k < 2:
        raise UsageError("too few folds", where="k", got=k, expected="at least 2")
    unit = group if grouped else np.arange(len(truth))
    n_units = len(np.unique(unit))
    if n_units < k:
        kind = "groups" if grouped else "rows"
        raise RefusedError(f"fewer {kind} than folds", where="folds", got=n_units, expected=f"at least {k}")
    fold = stratify_rows(truth, unit, [1 / k] * k, order, seed)
    return Folds(fold, group, k, grouped, order, seed, fold_report(truth, group, fold, k, grouped))


def inner_split(
    labels: ArrayLike,
    groups: ArrayLike,
    rows: ArrayLike,
    *,
    fraction: float = 0.15,
    grouped: bool = True,
    order: int = 1,
    seed: int = 0,
) -> tuple[Rows, Rows]:
    """Split training rows into those a head is fitted on and those it is stopped and thresholded on.

    Parameters
    ----------
    rows
        Training rows, indices into `labels` and `groups`; no others are looked at.
    fraction
        Of the rows for validation, in (0, 1).

    Returns
    -------
    tuple of int arrays
        Rows to fit on and rows to validate on, increasing. No protein is in both if `grouped`.
    """
    chosen = np.sort(np.asarray(rows, np.intp))
    if not 0 < fraction < 1:
        raise UsageError("not a fraction", where="inner split", got=fraction, expected="between 0 and 1")
    truth, group = np.asarray(labels)[chosen].astype(bool), group_numbers(np.asarray(groups)[chosen])
    unit = group if grouped else np.arange(len(chosen))
    side = stratify_rows(truth, unit, [1 - fraction, fraction], order, seed)
    fit, validation = chosen[side == 0], chosen[side == 1]
    if not len(fit) or not len(validation):
        got = f"{len(np.unique(unit))} groups"
        raise RefusedError("too few groups for an inner split", where="inner split", got=got)
    return fit, validation


def stratify_rows(
    truth: NDArray[np.bool_], unit: Rows, shares: Sequence[float], order: int, seed: int
) -> Rows:
    """Deal rows with labels ``(N, L)`` out to folds by shares; rows of one unit stay together."""
    names, number = np.unique(unit, return_inverse=True)
    table = np.zeros((len(names), truth.shape[1]))
    np.add.at(table, number, truth)
    return stratify(table, np.bincount(number), shares, order=order, seed=seed)[number]


def fold_report(truth: NDArray[np.bool_], group: Rows, fold: Rows, k: int, grouped: bool) -> FoldReport:
    """Describe folds ``(N,)`` of rows with labels ``(N, L)`` and proteins ``(N,)``; see :class:`FoldReport`."""
    tested = fold >= 0
    rows = np.bincount(fold[tested], minlength=k)
    positives = np.stack([truth[fold == i].sum(axis=0) for i in range(k)])
    total = truth.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = positives / (rows[:, None] - positives)
        gaps = np.abs(odds - total / (len(truth) - total))
    gaps = gaps[:, total > 0]
    gaps = gaps[np.isfinite(gaps)]
    in_fold = np.unique(np.stack([group, fold], axis=1), axis=0)
    spread = np.bincount(in_fold[:, 0])
    lacking = np.argwhere((positives == 0) & (total > 0))
    return FoldReport(
        k=k,
        grouped=grouped,
        n=len(truth),
        n_groups=len(spread),
        rows=tuple(rows.tolist()),
        groups=tuple(np.bincount(in_fold[in_fold[:, 1] >= 0, 1], minlength=k).tolist()),
        positives=tuple(tuple(row) for row in positives.tolist()),
        label_deviation=float(gaps.mean()) if len(gaps) else 0.0,
        row_deviation=float(np.abs(rows - tested.sum() / k).mean()),
        crossing_groups=int((spread > 1).sum()),
        seen_rows=float((spread[group[tested]] > 1).mean()),
        empty=tuple((int(i), int(j)) for i, j in lacking),
    )
