"""Several representations of the same rows: backbones, their layers, and tables, matched by the ids of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.config import resolve, to_dict
from emvfm.errors import UsageError
from emvfm.studies.bench.options import GeometryOptions, SimilarityOptions
from emvfm.studies.bench.preparation import refined
from emvfm.studies.localize.members import parse_backbone
from emvfm.studies.profile_tables import is_table
from emvfm.studies.profiles import ProfileOptions, Profiles, open_layers, open_profiles
from emvfm.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Representations", "open_representations"]

_OWN = {field.name for field in fields(ProfileOptions)}


@dataclass(frozen=True)
class Representations:
    """Profiles of the same rows in the same order.

    Attributes
    ----------
    names
        Short, each once.
    groups
        Length n: what is left out at a time; None for rows.
    total
        Rows before some were drawn.
    """

    names: tuple[str, ...]
    profiles: tuple[Profiles, ...]
    groups: tuple[str, ...] | None
    total: int

    @property
    def n(self) -> int:
        return len(self.profiles[0])

    @property
    def digests(self) -> dict[str, str]:
        return {name: one.digest for name, one in zip(self.names, self.profiles, strict=True)}

    def to_json(self) -> dict[str, Any]:
        """Return what was compared, and on how many rows."""
        return {
            "representations": [
                {"short": name, **one.to_json()} for name, one in zip(self.names, self.profiles, strict=True)
            ],
            "rows": self.n,
            "rows_of": self.total,
            "groups": None if self.groups is None else len(set(self.groups)),
        }


def _set_apart(values: Mapping[str, Any]) -> list[str]:
    """Return the options of a backbone that its short name needs; files and devices do not tell it apart."""
    left_out = ("weights", "device", "precision", "tile", "tile_overlap")
    return [
        key if value is True else f"{key} {value}"
        for key, value in values.items()
        if key not in left_out and value is not None
    ]


def _opened(
    workspace: Workspace,
    sources: Sequence[str],
    options: SimilarityOptions | GeometryOptions,
    console: Console | None,
) -> list[tuple[str, Profiles]]:
    values: dict[str, Any] = {k: v for k, v in to_dict(options).items() if k in _OWN - {"backbone"}}
    asked: list[tuple[str, str, ProfileOptions]] = []
    for source in sources:
        if is_table(source):
            asked.append((Path(source).name, source, resolve(ProfileOptions, flags=values)))
            continue
        for text in options.backbone:
            name, own = parse_backbone(text)
            shown = ", ".join([name, *_set_apart(own)]) + (f" on {source}" if len(sources) > 1 else "")
            asked.append((shown, source, resolve(ProfileOptions, flags={**values, **own, "backbone": name})))
    found: list[tuple[str, Profiles]] = []
    for shown, source, chosen in asked:  # after all options are known to be right: embedding takes long
        if options.all_layers and not is_table(source):
            parts = open_layers(workspace, source, chosen, [chosen.pool], console)
            found += [(f"{shown}, block {one.layer}", one) for one in parts]
        else:
            found.append((shown, open_profiles(workspace, source, chosen, console)))
    return found


def _matched(first: Profiles, other: Profiles) -> Profiles:
    """Return `other` with the rows of `first` in their order."""
    if other.ids == first.ids:
        return other
    places = {own: i for i, own in enumerate(other.ids)}
    absent = [own for own in first.ids if own not in places]
    if absent or len(other) != len(first):
        raise UsageError(
            "representations of different rows", where=f"{first.name} and {other.name}",
            got=f"only one has {absent[0]}" if absent else f"{len(first)} and {len(other)} rows",
        )  # fmt: skip
    return other.take([places[own] for own in first.ids])


def _drawn(n: int, options: SimilarityOptions | GeometryOptions) -> NDArray[np.intp]:
    if not options.rows or n <= options.rows:
        return np.arange(n)
    return np.sort(np.random.default_rng(options.seed).choice(n, options.rows, replace=False))


def open_representations(
    workspace: Workspace,
    sources: Sequence[str],
    options: SimilarityOptions | GeometryOptions,
    console: Console | None = None,
) -> Representations:
    """Open every source by every backbone, and draw rows.

    Raises
    ------
    UsageError
        Nothing to open, one thing twice, or representations of different rows.
    """
    opened = [(name, refined(one, options)) for name, one in _opened(workspace, sources, options, console)]
    if not opened:
        raise UsageError("nothing to open", expected="a dataset or tables of features")
    names = [name for name, _ in opened]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError("a representation is there twice", got=twice[0])
    first = opened[0][1]
    rows = _drawn(len(first), options)
    profiles = tuple(_matched(first, one).take(rows) for _, one in opened)
    groups = None if options.leave_out is None else profiles[0].column(options.leave_out)
    return Representations(tuple(names), profiles, groups, len(first))
