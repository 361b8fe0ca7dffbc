"""From what a user names to the rows that a benchmark scores: opened, annotated, chosen, corrected, averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import CorruptError, UsageError
from emvfm.provenance import digest, sha256_file
from emvfm.representations.pairing import find_column, rows_where
from emvfm.studies.bench.corrections import joint_labels, plan_of
from emvfm.studies.bench.options import BenchOptions
from emvfm.studies.profile_tables import PREFIX, read_rows
from emvfm.studies.profiles import Profiles, open_all
from emvfm.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["aggregated", "annotated", "corrected", "prepared", "refined", "selected"]


def annotated(profiles: Profiles, path: Path, on: str) -> Profiles:
    """Add the columns of a table to the facts, row by row where the column `on` agrees.

    Facts of the same name stay as they are; rows that the table does not have get empty ones.

    Raises
    ------
    UsageError
        One of them has no such column, or no row is found in the table.
    CorruptError
        The table says different things of one value.
    """
    names, rows = read_rows(path)
    key = names.index(find_column(names, on, str(path)))
    known: dict[str, list[str]] = {}
    for row in rows:
        if row[key] and known.setdefault(row[key], row) != row:
            raise CorruptError("two different rows of one value", where=path, got=f"{names[key]}={row[key]}")
    own = profiles.column(on)
    if not any(value in known for value in own):
        raise UsageError("no row of the profiles is in the table", where=path, got=f"{on} such as {own[0]!r}")
    empty = [""] * len(names)
    found = [known.get(value, empty) for value in own]
    added = {
        name.removeprefix(PREFIX): tuple(row[j] for row in found) for j, name in enumerate(names) if j != key
    }
    facts = {**added, **profiles.facts}
    return replace(profiles, facts=facts, digest=digest([profiles.digest, sha256_file(path), on]))


def corrected(profiles: Profiles, options: BenchOptions) -> Profiles:
    """Fit the correction of the options on their controls and apply it to all rows; `steps` gains its record.

    Raises
    ------
    UsageError
        No controls are named or none are there, or a correction between batches has no batches.
    RefusedError
        Too few controls in a batch, or controls that do not vary.
    """
    plan = plan_of(profiles.facts, len(profiles), options)
    if plan is None:
        return profiles
    features, step = plan.fit(profiles.features)
    return replace(
        profiles,
        features=features,
        columns=(),
        digest=digest([profiles.digest, step]),
        steps=(*profiles.steps, step),
    )


def aggregated(profiles: Profiles, columns: Sequence[str], by: str = "mean") -> Profiles:
    """Return one row for each value of the columns: the mean or median of its rows, and the facts they agree in.

    Rows that lack one of the values are left out. A fact ``n_rows`` says how many were joined.
    """
    labels = np.array(joint_labels(profiles.facts, columns, profiles.name), dtype=object)
    names = sorted(set(labels) - {""})
    if not names:
        raise UsageError("no row has a value to average by", where="--aggregate", got=", ".join(columns))
    members = [np.flatnonzero(labels == name) for name in names]
    combine: Callable[..., NDArray[np.float64]] = np.median if by == "median" else np.mean
    features = np.stack([combine(profiles.features[rows].astype(np.float64), axis=0) for rows in members])
    facts: dict[str, tuple[str, ...]] = {}
    for fact, values in profiles.facts.items():
        own = [{values[i] for i in rows} for rows in members]
        facts[fact] = tuple(next(iter(found)) if len(found) == 1 else "" for found in own)
    facts["n_rows"] = tuple(str(len(rows)) for rows in members)
    step = {"aggregate": list(columns), "by": by, "rows": len(profiles), "groups": len(names)}
    return replace(
        profiles,
        features=features.astype(np.float32),
        facts=facts,
        ids=tuple(names),
        digest=digest([profiles.digest, step]),
        steps=(*profiles.steps, step),
    )


def selected(profiles: Profiles, options: BenchOptions) -> Profiles:
    """Annotate opened profiles and choose rows as the options say."""
    if options.annotations and options.on is None:
        raise UsageError("no column to join by", where="--annotations", todo="name it with --on")
    for path in options.annotations:
        assert options.on is not None
        profiles = annotated(profiles, path, options.on)
    if options.where is not None:
        kept = rows_where(profiles.facts, options.where, "--where")
        if kept.sum() < 2:
            raise UsageError("fewer than two rows are left", where="--where", got=options.where)
        profiles = profiles.take(kept)
    return profiles


def refined(profiles: Profiles, options: BenchOptions) -> Profiles:
    """Annotate, choose, correct and average opened profiles as the options say."""
    profiles = corrected(selected(profiles, options), options)
    return aggregated(profiles, options.aggregate, options.aggregate_by) if options.aggregate else profiles


def prepared(
    workspace: Workspace, references: Sequence[str], options: BenchOptions, console: Console | None = None
) -> Profiles:
    """Open the references and make of them the rows that a benchmark scores."""
    return refined(open_all(workspace, references, options, console), options)
