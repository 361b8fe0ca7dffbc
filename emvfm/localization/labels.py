"""From the labels of a table to a matrix of 0 and 1, and a record of everything that was left out on the way.

Labels of a row are names; a step (grades, a map to another label space, rare classes) takes the labels of all rows
and gives new ones, and says which it dropped and how often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import RefusedError, UsageError

__all__ = ["LabelStep", "RowLabels", "drop_grades", "drop_rare", "label_matrix", "map_labels", "split_labels"]

#: The labels of each row, each once.
RowLabels = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class LabelStep:
    """What a step did to the labels.

    Attributes
    ----------
    dropped
        Labels that are gone, and from how many rows.
    renamed
        Labels that became others.
    emptied
        Rows that had labels before and have none now.
    """

    what: str
    dropped: dict[str, int]
    renamed: dict[str, str]
    emptied: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self)

    def text(self) -> str | None:
        """Return one line for a person, None where nothing was dropped or renamed."""
        if not self.dropped and not self.renamed:
            return None
        parts = []
        if self.renamed:
            parts.append(f"{len(self.renamed)} labels became {len(set(self.renamed.values()))}")
        if self.dropped:
            listed = ", ".join(f"{name} ({n})" for name, n in list(self.dropped.items())[:8])
            more = f" and {len(self.dropped) - 8} more" if len(self.dropped) > 8 else ""
            parts.append(f"dropped {listed}{more}")
        if self.emptied:
            parts.append(f"{self.emptied} rows have no label left")
        return f"{self.what}: " + "; ".join(parts)


def _step(
    what: str, before: RowLabels, after: RowLabels, renamed: Mapping[str, str] | None = None
) -> LabelStep:
    renamed = renamed or {}
    gone: Counter[str] = Counter()
    for old, new in zip(before, after, strict=True):
        gone.update(label for label in old if renamed.get(label, label) not in new)
    emptied = sum(bool(old) and not new for old, new in zip(before, after, strict=True))
    used = {label for labels in before for label in labels}
    moved = {a: b for a, b in renamed.items() if a in used and a != b}
    return LabelStep(what, dict(gone.most_common()), moved, emptied)


def split_labels(cells: Sequence[str], *, unknown: Collection[str] = (), separator: str = ";") -> RowLabels:
    """Return the labels of cells such as ``nucleoplasm;cytoplasmic``; none for an empty cell or a label of `unknown`.

    Each label counts once a row.
    """
    left_out = {name.strip() for name in unknown}
    rows = []
    for cell in cells:
        found = dict.fromkeys(part.strip() for part in cell.split(separator))
        rows.append(tuple(label for label in found if label and label not in left_out))
    return tuple(rows)


def drop_grades(
    labels: RowLabels, grades: Sequence[Sequence[float]], least: float
) -> tuple[RowLabels, LabelStep]:
    """Keep the labels with a grade of at least `least`.

    Parameters
    ----------
    grades
        One a label, in their order.

    Raises
    ------
    RefusedError
        When a row has not as many grades as labels.
    """
    kept = []
    for i, (own, marks) in enumerate(zip(labels, grades, strict=True)):
        if len(own) != len(marks):
            got = f"{len(own)} labels and {len(marks)} grades in row {i + 1}"
            raise RefusedError("not one grade a label", where="grades", got=got)
        kept.append(tuple(label for label, mark in zip(own, marks, strict=True) if mark >= least))
    found = tuple(kept)
    return found, _step(f"grade {least:g} or better", labels, found)


def map_labels(labels: RowLabels, mapping: Mapping[str, str]) -> tuple[RowLabels, LabelStep]:
    """Translate labels into another space; those without a target, or with an empty one, are dropped.

    Several labels may become one, which then counts once a row.
    """
    found = tuple(tuple(dict.fromkeys(t for label in own if (t := mapping.get(label)))) for own in labels)
    return found, _step("label map", labels, found, {a: b for a, b in mapping.items() if b})


def drop_rare(labels: RowLabels, groups: Sequence[str], least: int) -> tuple[RowLabels, LabelStep]:
    """Drop labels that fewer than `least` groups (proteins) have."""
    owners: dict[str, set[str]] = {}
    for own, group in zip(labels, groups, strict=True):
        for label in own:
            owners.setdefault(label, set()).add(group)
    found = tuple(tuple(label for label in own if len(owners[label]) >= least) for own in labels)
    return found, _step(f"in at least {least} groups", labels, found)


def label_matrix(labels: RowLabels) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
    """Return the names of all labels, sorted, and which row has which, ``(N, L)`` bool.

    Raises
    ------
    UsageError
        When no row has a label.
    """
    names = tuple(sorted({label for own in labels for label in own}))
    if not names:
        raise UsageError("no row has a label", where="labels")
    place = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(labels), len(names)), bool)
    for i, own in enumerate(labels):
        table[i, [place[label] for label in own]] = True
    return names, table
