"""Results that can be resampled: one score as a function of how often each unit is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import RefusedError, UsageError

__all__ = ["ROLES", "Drawn", "Role", "Scored", "average_seeds", "draw_units", "unlike"]

Floats = NDArray[np.float64]
Role = Literal["trained", "untrained", "baseline", "confound"]

#: What each role is to the question, in the order of the table.
ROLES: dict[Role, str] = {
    "trained": "the model in question",
    "untrained": "untrained",
    "baseline": "simple baseline",
    "confound": "confound",
}


@dataclass(frozen=True)
class Drawn:
    """How often each unit and each column is drawn; the first row of both has everything once.

    Attributes
    ----------
    units
        ``(R, U)``.
    columns
        ``(R, C)``: genes, where there are any.
    """

    units: Floats
    columns: Floats


@dataclass(frozen=True)
class Scored:
    """One run with one score.

    Attributes
    ----------
    name, role
        What it is called, and what it is to the question.
    metric
        Such as ``mean over genes of Pearson``.
    what
        What units are, in the plural.
    units, strata
        Names of what is independent, and what each is drawn within.
    columns
        Names of a second, crossed factor; empty without one.
    rows
        Digest of what was asked and what is true: equal for runs that may be paired.
    defined
        Flat bool array of the parts of the score that this run has; parts that another run lacks are left out.
    replicate
        From draws and the parts that count to ``(R,)`` scores, NaN where there is none.
    digest
        Of the table it was read from.
    way
        How channels were given, where that was a choice; rivals of another way say nothing of a model.
    """

    name: str
    role: Role
    metric: str
    what: str
    units: tuple[str, ...]
    strata: tuple[str, ...]
    columns: tuple[str, ...]
    rows: str
    defined: NDArray[np.bool_]
    replicate: Callable[[Drawn, NDArray[np.bool_]], Floats] = field(repr=False)
    digest: str = ""
    way: str = ""


def unlike(run: Scored, first: Scored) -> str | None:
    """Return why a run can't be paired with another one, or None."""
    if run.metric != first.metric:
        return "not the same metric"
    same = (run.units, run.strata, run.columns, run.rows) == (
        first.units,
        first.strata,
        first.columns,
        first.rows,
    )
    return None if same else "not the same rows, folds or truth"


def average_seeds(runs: Sequence[Scored]) -> list[Scored]:
    """Return the runs with those of one name as one: seeds of one model, whose mean is taken in every draw.

    Raises
    ------
    UsageError
        Runs of one name aren't of one task, set and role.
    """
    by_name: dict[str, list[Scored]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    return [_mean(found) if len(found) > 1 else found[0] for found in by_name.values()]


def _mean(runs: Sequence[Scored]) -> Scored:
    first = runs[0]
    for run in runs[1:]:
        why = unlike(run, first) or ("not the same role" if run.role != first.role else None)
        if why is not None:
            raise UsageError("two runs of one name", where="audit", got=f"{first.name}, {why}")

    def replicate(drawn: Drawn, counted: NDArray[np.bool_]) -> Floats:
        return np.mean([run.replicate(drawn, counted) for run in runs], axis=0)

    defined = np.logical_and.reduce([run.defined for run in runs])
    joined = hashlib.sha256("".join(run.digest for run in runs).encode()).hexdigest()
    name = f"{first.name}, mean of {len(runs)} seeds"
    return replace(first, name=name, defined=defined, replicate=replicate, digest=joined)


def _multinomial(rng: np.random.Generator, strata: NDArray[np.intp], samples: int) -> Floats:
    weights = np.ones((samples + 1, len(strata)))
    for stratum in np.unique(strata):
        places = np.flatnonzero(strata == stratum)
        weights[1:, places] = rng.multinomial(
            len(places), np.full(len(places), 1 / len(places)), size=samples
        )
    return weights


def draw_units(one: Scored, *, samples: int = 2000, seed: int = 0) -> Drawn:
    """Draw units within their strata, and columns, with replacement.

    Raises
    ------
    RefusedError
        There are fewer than two units.
    """
    if len(one.units) < 2:
        raise RefusedError(
            f"too few {one.what} to say anything", where=one.name, got=len(one.units), expected="2 or more"
        )
    rng = np.random.default_rng(seed)
    strata = np.unique(np.asarray(one.strata, str), return_inverse=True)[1].reshape(-1)
    units = _multinomial(rng, strata, samples)
    columns = _multinomial(rng, np.zeros(len(one.columns), np.intp), samples)
    return Drawn(units, columns)
