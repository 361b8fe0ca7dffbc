"""Spots with their expression: what a dataset or a table of positions says, joined with tables of counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.manifest import Dataset
from emvfm.datasets.tables import read_table
from emvfm.errors import CorruptError, RefusedError, UsageError
from emvfm.expression.counts import normalise
from emvfm.provenance import digest, sha256_file
from emvfm.studies.expression.spot_options import SpotOptions
from emvfm.studies.expression.tables import CountTable, find_tables, read_counts, table_stem
from emvfm.studies.profile_tables import is_table
from emvfm.workspace import Workspace

__all__ = ["Spots", "join_spots", "open_spots"]


@dataclass(frozen=True)
class Spots:
    """Spots that have counts.

    Attributes
    ----------
    name
        As given on the command line.
    dataset
        The samples of the spots, in their order; None for a table of positions.
    facts
        Column to N values.
    sections, x, y
        Of each spot.
    expression, genes
        ``(N, G)`` float32, normalised, and names.
    depth
        ``(N,)`` counts of each spot, over all genes of its table.
    rows
        ``(N,)`` positions among all that were described, with counts or without.
    left_out
        How many spots are not here, by the reason.
    sources
        Digest of everything that was read, by name.
    """

    name: str
    dataset: Dataset | None
    facts: Mapping[str, tuple[str, ...]]
    sections: tuple[str, ...]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    expression: NDArray[np.float32]
    genes: tuple[str, ...]
    depth: NDArray[np.float64]
    rows: NDArray[np.intp]
    left_out: Mapping[str, int]
    sources: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.sections)

    def column(self, name: str, option: str) -> tuple[str, ...]:
        """Return a fact by name.

        Raises
        ------
        UsageError
            There is none, or it is empty for a spot.
        """
        if name not in self.facts:
            raise UsageError("no such fact", where=option, got=name, expected=", ".join(self.facts))
        if not all(self.facts[name]):
            raise UsageError("a fact that some spots do not have", where=option, got=name)
        return self.facts[name]


@dataclass(frozen=True)
class _Described:
    """Spots before they are joined with their counts."""

    dataset: Dataset | None
    facts: dict[str, tuple[str, ...]]
    source: str


def _described(workspace: Workspace, reference: str) -> _Described:
    if is_table(reference):
        path = Path(reference).expanduser()
        table = read_table(path)
        facts = {name: tuple(row[name] for row in table.rows) for name in table.columns}
        return _Described(None, facts, sha256_file(path))
    dataset = open_dataset(workspace, reference)
    names = dict.fromkeys(name for sample in dataset.samples for name in sample.facts)
    facts = {name: tuple(s.facts.get(name, "") for s in dataset.samples) for name in names}
    for field in ("id", "split", "domain", "volume"):
        facts.setdefault(field, tuple(str(getattr(s, field)) for s in dataset.samples))
    return _Described(dataset, facts, dataset.digest)


def _numbers(values: Sequence[str], what: str) -> NDArray[np.float64]:
    try:
        found = np.array([float(value) for value in values])
    except ValueError as error:
        raise CorruptError("a position that is no number", where=what, got=error) from None
    if not np.isfinite(found).all():
        raise CorruptError("a position that is not finite", where=what)
    return found


def _positions(
    facts: Mapping[str, tuple[str, ...]], text: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(name in facts for name in names):
        raise UsageError(
            "no positions of spots", where="--position", got=text, expected=f"two of {', '.join(facts)}"
        )
    x, y = (_numbers(facts[name], name) for name in names)
    return x, y


def _read(paths: Sequence[Path], sections: Sequence[str]) -> dict[str, CountTable]:
    """Read the tables that are needed, by section."""
    named: dict[str, Path] = {}
    for path in paths:
        stem = table_stem(path)
        if stem in named:
            raise UsageError("two tables of counts of one name", where=path, got=stem)
        named[stem] = path
    if len(named) > 1 and not set(named) & set(sections):
        raise UsageError(
            "no table of counts is named after a section", where="--counts", got=", ".join(list(named)[:4]),
            expected=", ".join(sorted(set(sections))[:4]),
        )  # fmt: skip
    return {stem: read_counts(path) for stem, path in named.items() if len(named) == 1 or stem in sections}


def _fact(facts: Mapping[str, tuple[str, ...]], wanted: str, usual: str, instead: str) -> tuple[str, ...]:
    if wanted in facts:
        return facts[wanted]
    if wanted == usual and instead in facts:
        return facts[instead]
    raise UsageError("no such fact", where=f"--{usual}", got=wanted, expected=", ".join(facts))


def open_spots(workspace: Workspace, reference: str, options: SpotOptions) -> Spots:
    """Open spots and join them with their counts; what has none is left out and counted.

    Parameters
    ----------
    reference
        A dataset, whose samples are tiles around spots; or a table (.csv, .tsv, also .gz) of positions and types,
        for which there are no images.

    Raises
    ------
    EmvfmError
        See :func:`join_spots`.
    """
    _with_counts(options)  # before anything is read
    found = _described(workspace, reference)
    spots = join_spots(found.facts, found.source, reference, options)
    if found.dataset is None:
        return spots
    samples = tuple(found.dataset.samples[i] for i in spots.rows.tolist())
    return replace(spots, dataset=replace(found.dataset, samples=samples))


def _with_counts(options: SpotOptions) -> None:
    if not options.counts:
        raise UsageError("nothing to predict", where="--counts", todo="name a table of counts")


def join_spots(
    facts: Mapping[str, tuple[str, ...]], source: str, reference: str, options: SpotOptions
) -> Spots:
    """Join spots with their counts; what has none is left out and counted.

    Parameters
    ----------
    facts
        Column to a value a spot.
    source, reference
        Digest of what the facts come from, and its name.

    Raises
    ------
    UsageError
        Without counts, without the facts named, or where no spot is in its table.
    RefusedError
        Spots are named twice, or too few are left.
    """
    _with_counts(options)
    n = len(next(iter(facts.values())))
    sections = facts.get(options.section) or facts.get("volume") or (Path(reference).name,) * n
    names = _fact(facts, options.spot, "spot", "id")
    x, y = _positions(facts, options.position)
    if twice := [key for key, count in Counter(zip(sections, names, strict=True)).items() if count > 1]:
        raise RefusedError(
            "a spot twice", where=reference, got=" ".join(twice[0]), todo="see --section and --spot"
        )
    paths = find_tables(options.counts)
    tables = {}
    for stem, table in _read(paths, sections).items():
        own = [
            name for name, section in zip(names, sections, strict=True) if len(paths) == 1 or section == stem
        ]
        tables[stem] = table.by_spot(own)
    if len(paths) == 1 and len(set(names)) < len(names):
        raise RefusedError("one table of counts, but spots of several sections share names", where="--counts")
    counts, depth, genes, missing = _join(tables, sections, names, single=len(paths) == 1)
    keep = ~missing
    left_out = {"without counts": int(missing.sum())}
    if options.transform == "log1p-total":
        empty = keep & (depth == 0)
        left_out["without a single count"] = int(empty.sum())
        keep &= ~empty
    if keep.sum() < 10:
        raise RefusedError(
            "too few spots with counts", where=reference, got=int(keep.sum()), expected="10 or more"
        )
    rows = np.flatnonzero(keep)
    expression = _normalised(counts[rows], depth[rows], options)
    listed = [options.gene_list] if options.gene_list is not None and options.gene_list.is_file() else []
    sources = {reference: source, **{str(path): sha256_file(path) for path in (*paths, *listed)}}
    return Spots(
        name=reference,
        dataset=None,
        facts={name: tuple(values[i] for i in rows) for name, values in facts.items()},
        sections=tuple(sections[i] for i in rows),
        x=x[rows],
        y=y[rows],
        expression=expression,
        genes=genes,
        depth=depth[rows],
        rows=rows,
        left_out={reason: count for reason, count in left_out.items() if count},
        sources={name: digest([value]) for name, value in sources.items()},
    )


def _normalised(
    counts: NDArray[np.float32], depth: NDArray[Any], options: SpotOptions
) -> NDArray[np.float32]:
    """Normalise by the depth over all genes of a spot's own table, more than all tables share."""
    if options.transform != "log1p-total":
        return normalise(counts, options.transform)
    rest = np.maximum(depth - counts.sum(axis=1, dtype=np.float64), 0).astype(np.float32)
    return normalise(np.column_stack([counts, rest]), "log1p-total")[:, :-1]


def _join(
    tables: Mapping[str, CountTable], sections: Sequence[str], names: Sequence[str], *, single: bool
) -> tuple[NDArray[np.float32], NDArray[np.float64], tuple[str, ...], NDArray[np.bool_]]:
    """Return counts of the genes that all tables have, depths over all genes, the genes, and who has none."""
    shared = set.intersection(*(set(table.columns) for table in tables.values()))
    first = next(iter(tables.values()))
    genes = tuple(gene for gene in first.columns if gene in shared)
    if not genes:
        raise RefusedError("the tables of counts share no gene", where="--counts")
    counts = np.zeros((len(names), len(genes)), np.float32)
    depth, missing = np.full(len(names), math.nan), np.ones(len(names), bool)
    for stem, table in tables.items():
        row_of = {row: i for i, row in enumerate(table.rows)}
        column_of = {column: i for i, column in enumerate(table.columns)}
        mine = [
            (i, row_of[name])
            for i, (section, name) in enumerate(zip(sections, names, strict=True))
            if (single or section == stem) and name in row_of
        ]
        if not mine:
            continue
        spots, rows = np.array(mine).T
        values = table.values[rows]
        counts[spots] = values[:, [column_of[gene] for gene in genes]]
        depth[spots] = values.sum(axis=1, dtype=np.float64)
        missing[spots] = False
    return counts, depth, genes, missing
