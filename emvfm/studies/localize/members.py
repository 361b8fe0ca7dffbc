"""The members of a grid: each source by each backbone and way of channels, a table by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml

from emvfm.config import resolve, to_dict
from emvfm.errors import UsageError
from emvfm.studies.localize.options import LocalizeOptions
from emvfm.studies.profile_tables import is_table
from emvfm.studies.profiles import ProfileOptions

__all__ = ["Member", "members_of", "parse_backbone"]

_OWN = {f.name for f in fields(ProfileOptions)}


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

    >>> parse_backbone("dinov2,weights=a.safetensors,untrained")
    ('dinov2', {'weights': 'a.safetensors', 'untrained': True})

    Raises
    ------
    UsageError
        What follows the name is no option.
    """
    name, *parts = (part.strip() for part in text.split(","))
    own: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        key = key.replace("-", "_").strip("_")
        if key not in _OWN - {"backbone", "channels", "seed"}:
            raise UsageError("not an option of a backbone", where=f"--backbone {text}", got=part or "nothing")
        try:
            own[key] = True if not equals else value if _is_text(key) else yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError("not a value", where=f"--backbone {text}", got=part) from None
    if not name:
        raise UsageError("no backbone", where=f"--backbone {text}")
    return name, own


def _shown(name: str, own: dict[str, Any]) -> str:
    """Return a short name: the backbone, and what sets it apart but files."""
    said = [
        key if value is True else f"{key} {value}"
        for key, value in own.items()
        if key not in ("weights", "device", "precision", "tile", "tile_overlap")
    ]
    return ", ".join([name, *said])


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
    members = []
    for source in sources:
        if is_table(source):
            members.append(Member(source, "", "", resolve(ProfileOptions, flags=values)))
            continue
        for text in config.backbone:
            name, own = parse_backbone(text)
            for way in ways or ("",):
                flags = {**values, **own, "backbone": name, **({"channels": way} if way else {})}
                shown = _shown(name, own) + (f" on {source}" if several else "")
                members.append(Member(source, shown, way, resolve(ProfileOptions, flags=flags)))
    names = [member.name for member in members]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError("a member of the grid twice", where="--backbone", got=twice[0])
    return members
