"""From cells to fields to proteins: scores of what belongs together become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.folds import group_numbers

__all__ = ["Aggregated", "Aggregation", "aggregate", "aggregate_labels", "aggregate_levels"]

Aggregation = Literal["mean", "max", "noisy-or"]


@dataclass(frozen=True)
class Aggregated:
    """One row a group.

    Attributes
    ----------
    names
        ``(G,)`` groups in the order of their names.
    scores
        ``(G, L)`` float64.
    sizes
        ``(G,)`` rows that went into each.
    """

    names: NDArray[np.generic]
    scores: NDArray[np.float64]
    sizes: NDArray[np.intp]


def aggregate(scores: ArrayLike, groups: ArrayLike, how: Aggregation = "mean") -> Aggregated:
    """Join the scores of each group's rows.

    Parameters
    ----------
    scores
        ``(N, L)``; probabilities in 0 to 1 for ``noisy-or``.
    groups
        ``(N,)`` names.
    how
        ``mean``; ``max``; or ``noisy-or``, 1 - prod(1 - p): a group has a label unless every row fails to show
        it, which holds for independent rows (Pearl 1988, ISBN 1-55860-479-0, section 4.3). It grows with the
        number of rows, so thresholds of single rows are not right for it.

    Raises
    ------
    UsageError
        For another way, arrays that do not fit, or a noisy-or of what is no probability.
    """
    values, names = np.asarray(scores, np.float64), np.asarray(groups)
    if values.ndim != 2 or names.ndim != 1 or len(values) != len(names) or not len(values):
        got = f"{values.shape} and {names.shape}"
        raise UsageError("not one group a row", where="aggregation", got=got, expected="(N, L) and (N,)")
    number = group_numbers(names)
    sizes = np.bincount(number)
    joined = np.zeros((len(sizes), values.shape[1]))
    if how == "mean":
        np.add.at(joined, number, values)
        joined /= sizes[:, None]
    elif how == "max":
        joined[:] = -np.inf
        np.maximum.at(joined, number, values)
    elif how == "noisy-or":
        if not ((values >= 0) & (values <= 1)).all():
            got = f"{values.min():.3g} to {values.max():.3g}"
            raise UsageError(
                "noisy-or of what is no probability", where="aggregation", got=got, expected="0 to 1"
            )
        with np.errstate(divide="ignore"):
            np.add.at(joined, number, np.log1p(-values))
        joined = -np.expm1(joined)
    else:
        expected = ", ".join(get_args(Aggregation))
        raise UsageError("no such way to aggregate", where="aggregation", got=how, expected=expected)
    return Aggregated(np.unique(names), joined, sizes)


def aggregate_levels(
    scores: ArrayLike, levels: Sequence[ArrayLike], how: Aggregation | Sequence[Aggregation] = "mean"
) -> list[Aggregated]:
    """Join level by level, such as cells to fields and fields to proteins.

    A protein's mean over its fields' means counts each field alike, however many cells are in it.

    Parameters
    ----------
    levels
        From fine to coarse, each ``(N,)`` names of the groups of the rows of `scores`. A group lies in one group
        of the next level.
    how
        One way, or one a level.

    Returns
    -------
    list
        One a level.

    Raises
    ------
    RefusedError
        When a group lies in two groups of the next level.
    """
    if not levels:
        raise UsageError("no level to aggregate to", where="aggregation", expected="one or more")
    ways = [how] * len(levels) if isinstance(how, str) else list(how)
    if len(ways) != len(levels):
        raise UsageError("not one way a level", where="aggregation", got=len(ways), expected=len(levels))
    values, found = np.asarray(scores, np.float64), []
    for i, way in enumerate(ways):
        joined = aggregate(values, levels[i], way)
        found.append(joined)
        number = group_numbers(levels[i])
        first = np.unique(number, return_index=True)[1]
        for names in levels[i + 1 :]:
            outer = group_numbers(names)
            if not np.array_equal(outer, outer[first][number]):
                inner = joined.names[number[np.flatnonzero(outer != outer[first][number])[0]]]
                raise RefusedError("a group lies in two", where=f"level {i + 1}", got=inner)
        levels = [np.asarray(names)[first] if j > i else names for j, names in enumerate(levels)]
        values = joined.scores
    return found


def aggregate_labels(
    labels: ArrayLike, groups: ArrayLike, *, differing: Literal["refuse", "any", "majority"] = "refuse"
) -> NDArray[np.bool_]:
    """Return the labels ``(G, L)`` of groups, in the order of their names.

    Parameters
    ----------
    differing
        What to do where rows of one group have different labels: refuse, take every label of any row, or those
        of more than half of the rows.

    Raises
    ------
    RefusedError
        When rows of a group differ and that is refused.
    """
    share = aggregate(np.asarray(labels, np.float64), groups, "mean")
    if differing == "refuse":
        mixed = np.flatnonzero(((share.scores > 0) & (share.scores < 1)).any(axis=1))
        if len(mixed):
            raise RefusedError(
                "rows of a group have different labels",
                where="aggregation",
                got=f"{len(mixed)} groups, the first {share.names[mixed[0]]}",
                todo="choose any or majority",
            )
    return share.scores > (0.5 if differing == "majority" else 0.0)
