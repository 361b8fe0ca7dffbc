"""Known relations: are annotated pairs of entities at the ends of the distribution of all similarities?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from emvfm.errors import UsageError
from emvfm.representations.pairing import find_column, labels_of
from emvfm.representations.relations import Recall, Relation, relation_recall
from emvfm.studies.bench.options import RelateOptions
from emvfm.studies.bench.preparation import aggregated
from emvfm.studies.bench.tables import csv_text, printed, rich_table
from emvfm.studies.profile_tables import read_rows
from emvfm.studies.profiles import Profiles

__all__ = ["RelationStudy", "named_relations", "read_relations", "relations_by_label", "study_relations"]

_PAIRS = (("a", "b"), ("entity1", "entity2"), ("gene1", "gene2"))
_SOURCES = ("source", "database")


def read_relations(path: Path) -> list[Relation]:
    """Read known pairs: columns a and b, or entity1 and entity2, or the only two; the source in a column or the file's name.

    Raises
    ------
    MissingError, CorruptError, UsageError
        No such file, not a table, or no telling which columns are the pair.
    """
    names, rows = read_rows(path)
    lower = [name.lower() for name in names]
    pair = next(((a, b) for a, b in _PAIRS if a in lower and b in lower), None)
    if pair is None and len(names) == 2:
        pair = (lower[0], lower[1])
    if pair is None:
        raise UsageError(
            "no telling which columns are a pair",
            where=path,
            got=", ".join(names),
            expected="a and b, or entity1 and entity2",
        )
    a, b = (lower.index(name) for name in pair)
    named = next((lower.index(name) for name in _SOURCES if name in lower), None)
    stem = path.name.split(".")[0]
    found = [(row[named] if named is not None else stem, row[a], row[b]) for row in rows if row[a] and row[b]]
    if not found:
        raise UsageError("no pairs", where=path)
    return found


def relations_by_label(entities: Sequence[str], cells: Sequence[str], source: str) -> list[Relation]:
    """Relate every two entities that share a label; cells hold labels parted by ``|`` or ``;``."""
    members: dict[str, list[str]] = {}
    for entity, cell in zip(entities, cells, strict=True):
        for label in labels_of(cell):
            members.setdefault(label, []).append(entity)
    pairs = {pair for own in members.values() for pair in combinations(sorted(own), 2)}
    return [(source, a, b) for a, b in sorted(pairs)]


@dataclass(frozen=True)
class RelationStudy:
    """Recall of known pairs by source and ends.

    Attributes
    ----------
    profiles
        One row an entity.
    entity
        Column the entities are values of.
    recalls
        By source, and for each by share of the ends.
    few
        Sources with too few entities in the map, and how many they have.
    """

    profiles: Profiles
    entity: str
    recalls: tuple[Recall, ...]
    few: tuple[tuple[str, int], ...]
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return everything as strict JSON values."""
        return {
            "benchmark": "relate",
            "metric": "recall of known relations",
            "profiles": self.profiles.to_json(),
            "entity": self.entity,
            "seed": self.seed,
            "sources_left_out": [{"source": source, "entities": n} for source, n in self.few],
            "results": [recall.to_json() for recall in self.recalls],
        }

    def files(self) -> dict[str, bytes | str]:
        """Return the table and the figure, by path."""
        from emvfm.report.representation_figures import recall_bars

        header = [
            "source",
            "lower",
            "upper",
            "end",
            "recall",
            "low",
            "high",
            "expected",
            "pairs",
            "entities",
            "absent",
        ]
        rows = [
            [r.source, r.lower, r.upper, end, value.value, value.low, value.high, expected, r.n_pairs, r.n_entities,
             r.absent]
            for r in self.recalls
            for end, value, expected in _ends(r)
        ]  # fmt: skip
        drawn = [
            {
                "source": r.source, "share": r.expected, "n": r.n_pairs,
                "left": r.left.value, "right": r.right.value, "low": r.both.low, "high": r.both.high,
            }
            for r in self.recalls
        ]  # fmt: skip
        return {"recall.csv": csv_text(header, rows), "figures/recall.png": recall_bars(drawn)}

    def lines(self) -> list[Any]:
        """Return what the terminal shows."""
        from rich.markup import escape

        header = ["source", "ends", "pairs", "entities", "recall", "random map", "lower end", "upper end"]
        rows = [
            [r.source, f"≤ {r.lower:g}, ≥ {r.upper:g}", str(r.n_pairs), str(r.n_entities), printed(r.both),
             f"{r.expected:.3f}", f"{r.left.value:.3f}", f"{r.right.value:.3f}"]
            for r in self.recalls
        ]  # fmt: skip
        said = [escape(f"{source} is left out: {n} of its entities are in the map") for source, n in self.few]
        return [rich_table(header, rows), *said]


def _ends(recall: Recall) -> list[tuple[str, Any, float]]:
    return [
        ("both", recall.both, recall.expected),
        ("lower", recall.left, recall.expected_left),
        ("upper", recall.right, recall.expected_right),
    ]


def named_relations(entities: Profiles, options: RelateOptions) -> list[Relation]:
    """Return the known pairs that the options name: of files, and of shared labels.

    Raises
    ------
    UsageError
        They name none.
    """
    if not options.relations and not options.related_by:
        raise UsageError(
            "no known relations",
            where="--relations",
            todo="give a CSV of pairs, or a column with --related-by",
        )
    found = [relation for path in options.relations for relation in read_relations(path)]
    for column in options.related_by:
        found += relations_by_label(entities.ids, entities.column(column), column)
    return found


def study_relations(profiles: Profiles, options: RelateOptions) -> RelationStudy:
    """Average prepared profiles by entity and measure how many known pairs are at the ends.

    Raises
    ------
    UsageError
        No entities or no relations are named, or no source has enough entities in the map.
    """
    if options.entity is None:
        raise UsageError("no column of entities", where="--entity", todo="name it, such as --entity gene")
    if not options.ends or not all(0 < share < 1 for share in options.ends):
        raise UsageError("not a share of pairs", where="--ends", got=options.ends, expected="between 0 and 1")
    entity = find_column(profiles.facts, options.entity, "--entity")
    entities = aggregated(profiles, [entity])
    names = entities.ids
    relations = named_relations(entities, options)
    known = set(names)
    present: dict[str, set[str]] = {source: set() for source, _, _ in relations}
    for source, a, b in relations:
        if a != b and a in known and b in known:
            present[source] |= {a, b}
    few = tuple((source, len(own)) for source, own in present.items() if len(own) < options.least)
    recalls = relation_recall(
        entities.features, names, relations, ends=[(share / 2, 1 - share / 2) for share in sorted(options.ends)],
        least=options.least, samples=options.samples, level=options.level, seed=options.seed,
    )  # fmt: skip
    return RelationStudy(entities, entity, tuple(recalls), few, options.seed)
