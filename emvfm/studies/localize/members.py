"""The members of a grid: each source by each backbone and way of channels, a table by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml

from emvfm.backbones.baselines.registry import is_baseline
from emvfm.config import resolve, to_dict
from emvfm.errors import UsageError
from emvfm.studies.localize.options import LocalizeOptions
from emvfm.studies.profile_tables import is_table
from emvfm.studies.profiles import ProfileOptions

__all__ = ["Member", "members_of", "parse_backbone"]

_OWN = {f.name for f in fields(ProfileOptions)}
_GRID = {"backbone", "channels", "seed"}


@dataclass(frozen=True)
class Member:
    """One cell of the grid.

    Attributes
    ----------
    backbone, channels
        As asked for; ``""`` where there is no choice.
    """

    source: str
    backbone: str
    channels: str
    options: ProfileOptions

    @property
    def name(self) -> str:
        """Short, for tables: a table by its file name."""
        return " · ".join(part for part in (self.backbone or Path(self.source).name, self.channels) if part)


def _is_text(key: str) -> bool:
    """Say whether an option is text as it stands: 224 is a size in words, and a path may look like a number."""
    hint = get_type_hints(ProfileOptions)[key]
    return {str, Path} >= ({*get_args(hint)} or {hint}) - {NoneType}


def parse_backbone(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME,option=value,…`` into the name and options of its own; a bare option is true.

    >>> parse_backbone("dinov2,weights=a.safetensors,untrained,map=red=gfp,green=dna")
    ('dinov2', {'weights': 'a.safetensors', 'untrained': True, 'map': 'red=gfp,green=dna'})

    Raises
    ------
    UsageError
        What follows the name is no option.
    """
    name, *parts = (part.strip() for part in text.split(","))
    where = f"--backbone {text}"
    if not name:
        raise UsageError("no backbone", where=where)
    pieces: list[tuple[str, str | None]] = []
    for part in parts:
        key, equals, value = part.partition("=")
        key = key.replace("-", "_").strip("_")
        last, said = pieces[-1] if pieces else ("", None)
        if key in _OWN - _GRID:
            pieces.append((key, value if equals else None))
        elif said is not None and (
            last == "map" or said.count("[") > said.count("]")
        ):  # a comma of the value
            pieces[-1] = last, f"{said},{part}"
        else:
            raise UsageError("not an option of a backbone", where=where, got=part or "nothing")
    try:
        return name, {
            key: True if value is None else value if _is_text(key) else yaml.safe_load(value)
            for key, value in pieces
        }
    except yaml.YAMLError:
        raise UsageError("not a value", where=where) from None


_ALWAYS = {"untrained", "shuffle_weights", "adapter"}


def _shown(parsed: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return short names: the backbone, and what tells it apart from others of that name or from a trained one."""
    shown = []
    for name, own in parsed:
        twins = [other for twin, other in parsed if twin == name]
        files = [other for other in twins if "weights" in other]  # an untrained twin has none to differ in
        said = [name]
        for key, value in own.items():
            if key in _ALWAYS or any(
                other.get(key) != value for other in (files if key == "weights" else twins)
            ):
                text = Path(value).stem if key == "weights" else value
                said.append(key if value is True else f"{key} {text}")
        shown.append(", ".join(said))
    return shown


def members_of(config: LocalizeOptions, sources: Sequence[str]) -> list[Member]:
    """Return the members of the grid.

    Raises
    ------
    UsageError
        No source, a wrong option of a backbone, or a member that is there twice.
    """
    if not sources:
        raise UsageError("nothing to localise in", expected="a dataset or a table of features")
    values = {key: value for key, value in to_dict(config).items() if key in _OWN and key != "backbone"}
    ways: tuple[str, ...] = tuple(values.pop("channels", None) or ())
    several = len(sources) > 1
    parsed = [parse_backbone(text) for text in config.backbone]
    members = []
    for source in sources:
        if is_table(source):
            members.append(Member(source, "", "", resolve(ProfileOptions, flags=values)))
            continue
        for (name, own), title in zip(parsed, _shown(parsed), strict=True):
            for way in ("",) if is_baseline(name) else ways or ("",):
                flags = {**values, **own, "backbone": name, **({"channels": way} if way else {})}
                if way not in ("", "auto", "map"):
                    flags["map"] = None  # of the members that map
                shown = title + (f" on {source}" if several else "")
                members.append(Member(source, shown, way, resolve(ProfileOptions, flags=flags)))
    names = [member.name for member in members]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError("a member of the grid twice", where="--backbone", got=twice[0])
    return members
