"""A number with its interval, from resampling what is independent: groups, entities, donors; not single rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["Estimate", "bootstrap_mean", "from_left_out", "from_replicates", "jackknife", "left_out_parts"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with an interval, None where there is none; `method` says how it was made or why it was not."""

    value: float
    low: float | None
    high: float | None
    level: float
    method: str
    n: int
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields, None for a value that is not a number."""
        fields = asdict(self)
        fields["value"] = self.value if math.isfinite(self.value) else None
        return fields


def _checked_level(level: float) -> None:
    if not 0 < level < 1:
        raise UsageError("not a coverage", where="level", got=level, expected="between 0 and 1")


def from_replicates(
    value: float, replicates: Floats, *, units: str, n: int, n_units: int, level: float, seed: int
) -> Estimate:
    """Return the percentile interval of bootstrap replicates of a statistic of `n_units` units."""
    _checked_level(level)
    replicates = replicates[np.isfinite(replicates)]
    if n_units < 2 or not len(replicates):
        return Estimate(value, None, None, level, f"no interval: {n_units} {units}", n, seed)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    method = f"percentile bootstrap of {n_units} {units}, {len(replicates)} resamples"
    return Estimate(value, float(low), float(high), level, method, n, seed)


def bootstrap_mean(
    values: ArrayLike,
    *,
    units: str,
    n: int | None = None,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Estimate the mean of `values`, one an independent unit; those that are not numbers are left out.

    Parameters
    ----------
    units
        What a value stands for, in the plural, for the record.
    n
        Rows behind the values, if there are more rows than values.
    """
    table = np.asarray(values, np.float64)
    table = table[np.isfinite(table)]
    if not len(table):
        return Estimate(math.nan, None, None, level, f"no value: 0 {units}", n or 0, seed)
    rng = np.random.default_rng(seed)
    even = np.full(len(table), 1 / len(table))
    step = max(1, 4_000_000 // len(table))
    sizes = [min(step, samples - start) for start in range(0, samples, step)]
    drawn = [rng.multinomial(len(table), even, size=size) @ table / len(table) for size in sizes]
    means = np.concatenate(drawn) if drawn else np.zeros(0)
    value = float(table.mean())
    return from_replicates(
        value, means, units=units, n=n or len(table), n_units=len(table), level=level, seed=seed
    )


def jackknife(
    statistic: Callable[[NDArray[np.intp]], float],
    n: int,
    groups: Sequence[object] | None = None,
    *,
    level: float = 0.95,
    most: int = 50,
    seed: int = 0,
) -> Estimate:
    """Estimate a statistic of rows with a Student interval from leaving out groups of rows in turn.

    For statistics of pairs and neighbours, which the bootstrap spoils by drawing rows twice (Efron & Tibshirani
    1993, chapter 11).

    Parameters
    ----------
    statistic
        Of an array of rows.
    groups
        What each row belongs to; every row alone by default. More than `most` are joined at random into as many.
    """
    labels, n_units = left_out_parts(n, groups, most=most, seed=seed)
    value = float(statistic(np.arange(n)))
    parts = min(n_units, most) if n_units >= 3 and most >= 3 else 0
    left_out = np.array([statistic(np.flatnonzero(labels != part)) for part in range(parts)])
    return from_left_out(value, left_out, n=n, n_units=n_units, level=level, seed=seed)


def left_out_parts(
    n: int, groups: Sequence[object] | None, *, most: int, seed: int
) -> tuple[NDArray[np.intp], int]:
    """Return which part each of n rows is left out with, and how many groups there are.

    Groups are joined at random into `most` parts where there are more of them.
    """
    labels = np.arange(n) if groups is None else np.unique(np.asarray(groups, str), return_inverse=True)[1]
    if len(labels) != n:
        raise UsageError("one group per row", where="groups", got=len(labels), expected=n)
    n_units = int(labels.max()) + 1 if n else 0
    if n_units > most:
        labels = (np.random.default_rng(seed).permutation(n_units) % most)[labels]
    return labels, n_units


def from_left_out(
    value: float, left_out: Floats, *, n: int, n_units: int, level: float, seed: int | None
) -> Estimate:
    """Return the Student interval from a statistic's values with each part left out in turn."""
    from scipy.stats import t

    _checked_level(level)
    parts = len(left_out)
    if parts < 3:
        return Estimate(
            value,
            None,
            None,
            level,
            f"no interval: {n_units} groups of rows" if n_units < 3 else "no interval asked for",
            n,
            seed,
        )
    if not np.isfinite(left_out).all():
        return Estimate(value, None, None, level, "no interval: undefined with a group left out", n, seed)
    variance = (parts - 1) / parts * float(((left_out - left_out.mean()) ** 2).sum())
    margin = float(t.ppf((1 + level) / 2, parts - 1)) * math.sqrt(variance)
    method = f"Student interval, jackknife of {parts} sets of {n_units} groups of rows"
    return Estimate(value, value - margin, value + margin, level, method, n, seed)
