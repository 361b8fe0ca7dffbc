"""Splits of rows of a table: by the values of a column, by groups that stay together, or at random."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from emvfm.datasets.splits import RANDOM_TEST, random_split
from emvfm.datasets.tables import Table, column_and_values
from emvfm.errors import RefusedError, UsageError

__all__ = ["grouped_split", "split_table"]

#: What a column that is itself a split may say.
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "gap": "gap",
}


def grouped_split(groups: Sequence[str], *, val: float = 0.1, test: float = 0.2, seed: int = 0) -> list[str]:
    """Split samples so that those of one group are on one side.

    Groups are shuffled by `seed` and dealt to the test until it has its fraction of the samples, then to the
    validation, and the rest to the training. The order of the samples does not matter.

    Parameters
    ----------
    groups
        Length n, the group of each sample.

    Raises
    ------
    RefusedError
        There are fewer groups than splits.
    """
    sizes = Counter(groups)
    order = sorted(sizes)
    random.Random(seed).shuffle(order)  # noqa: S311
    wanted = [(name, part) for name, part in (("test", test), ("val", val)) if part > 0]
    if len(order) < len(wanted) + 1:
        raise RefusedError(
            "too few groups for these splits",
            got=", ".join(sorted(sizes)[:5]),
            expected=f"{len(wanted) + 1} or more",
            todo="set --val or --test to 0, or choose another column",
        )
    side: dict[str, str] = {}
    for position, (name, part) in enumerate(wanted):
        taken, left_for = 0, len(wanted) - position  # one group at least for each split that follows
        while len(order) > left_for and (not taken or taken < round(part * len(groups))):
            group = order.pop()
            side[group], taken = name, taken + sizes[group]
    return [side.get(group, "train") for group in groups]


def _named(table: Table, texts: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the column of all ``--split-by`` and the split of each value that they name."""
    column, named = "", dict[str, str]()
    for text in texts:
        name, values = column_and_values(text, "--split-by")
        if column and name != column:
            raise UsageError("one column decides the split", where="--split-by", got=f"{column} and {name}")
        column, split = name, "test"
        if values and ":" in values[0] and (word := values[0].partition(":")[0]) in _SPLIT_WORDS:
            split, values = _SPLIT_WORDS[word], (values[0].partition(":")[2], *values[1:])
        for value in values:
            if named.setdefault(value, split) != split:
                raise UsageError("one value in two splits", where="--split-by", got=value)
    present = set(table.column(column, "--split-by"))
    if unknown := sorted(set(named) - present):
        expected = ", ".join(sorted(present)[:8])
        raise UsageError(
            "the column has no such value", where=f"--split-by {column}", got=unknown[0], expected=expected
        )
    return column, named


def split_table(
    table: Table,
    split_by: Sequence[str] = (),
    *,
    val: float = 0.1,
    test: float | None = None,
    seed: int = 0,
    scheme: str = "auto",
) -> tuple[list[str], dict[str, Any]]:
    """Return the split of each row and what ``dataset.json`` keeps of it.

    Parameters
    ----------
    split_by
        ``COLUMN``: its values are splits, or groups of which none is in two; ``COLUMN=V1,V2``: these values are
        for the test, ``COLUMN=val:V3`` for validation, all others for training. Without it, a column named
        ``split``, else at random by `seed`.
    scheme
        ``random`` passes over a column named ``split``; ``block`` is for stacks.

    Raises
    ------
    UsageError
        There is no such column or value, or the scheme is not for tables.
    RefusedError
        Too few samples or groups, or nothing is left to train on or to test.
    """
    if scheme == "block" or (scheme == "random" and split_by):
        raise UsageError("not a split of this table", where="--split", got=scheme, expected="auto or random")
    record: dict[str, Any] = {"seed": seed, "val": val, "test": test, "gap": 0}
    given = "split" in table.columns and scheme != "random"
    if scheme == "given" and not given and not split_by:
        raise UsageError(
            "the table has no column split", where="--split given", todo="give --split-by COLUMN"
        )
    if not split_by and not given:
        part = RANDOM_TEST if test is None else test
        splits = random_split(len(table), val=val, test=part, seed=seed)
        return splits, record | {"scheme": "random", "test": part}
    column, named = _named(table, split_by) if split_by else ("split", {})
    values = table.column(column, "--split-by")
    if named:
        splits = [named.get(value, "train") for value in values]
        record |= {"scheme": f"values of {column}", "named": named, "val": None}
    elif all(value.lower() in _SPLIT_WORDS for value in values):
        splits = [_SPLIT_WORDS[value.lower()] for value in values]
        record |= {"scheme": f"given by {column}", "val": None}
    elif not split_by:
        odd = next(value for value in values if value.lower() not in _SPLIT_WORDS)
        raise UsageError("not a split", where="column split", got=odd, expected="train, val, test")
    else:
        part = 0.2 if test is None else test
        splits = grouped_split(values, val=val, test=part, seed=seed)
        record |= {"scheme": f"groups of {column}", "test": part}
    if "train" not in splits and "test" not in splits:
        raise RefusedError("no sample to train on or to test", where=f"--split-by {column}")
    return splits, record
