"""What the channels of a dataset are called, in the order they have in its files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from emvfm.datasets.manifest import Dataset
from emvfm.errors import CorruptError, UsageError
from emvfm.workspace import check_name

__all__ = ["Channel", "channel_names", "channels_text", "parse_channels"]


@dataclass(frozen=True)
class Channel:
    """One channel: its name here, the stain or label it shows, and the emission it was taken at in nm."""

    name: str
    stain: str | None = None
    wavelength_nm: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def _wavelength(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 100 <= value <= 20_000:
        raise UsageError("not a wavelength", where="--channels", got=text, expected="nanometres, such as 509")
    return value


def parse_channels(text: str) -> tuple[Channel, ...]:
    """Return the channels that ``NAME[:STAIN[:NM]],…`` describes.

    >>> [c.name for c in parse_channels("gfp:FKHR-GFP:509,dna")]
    ['gfp', 'dna']

    Raises
    ------
    UsageError
        A name is unusable or there twice, or a wavelength is none.
    """
    channels = []
    for part in text.split(","):
        name, _, rest = part.strip().partition(":")
        stain, _, wavelength = rest.partition(":")
        if not stain.isprintable():
            raise UsageError("not a stain", where="--channels", got=repr(stain))
        nm = _wavelength(wavelength) if wavelength else None
        channels.append(Channel(check_name(name, "channel"), stain or None, nm))
    names = [channel.name for channel in channels]
    if len(set(names)) < len(names):
        raise UsageError("a channel twice", where="--channels", got=", ".join(names))
    return tuple(channels)


def channel_names(dataset: Dataset) -> tuple[str, ...] | None:
    """Return the names of the channels in the order of the files, None where nothing is said.

    Raises
    ------
    CorruptError
        What ``dataset.json`` says of channels is not a list of different names.
    """
    said = dataset.meta.get("channels")
    if said is None:
        return None
    items = [item for item in said if isinstance(item, Mapping)] if isinstance(said, list) else []
    names = [name for item in items if isinstance(name := item.get("name"), str) and name]
    if not names or len(names) != len(said):
        raise CorruptError("not a list of channels", where=dataset.root / "dataset.json", got=repr(said)[:80])
    if len(set(names)) < len(names):
        raise CorruptError("a channel twice", where=dataset.root / "dataset.json", got=", ".join(names))
    return tuple(names)


def channels_text(said: Sequence[Mapping[str, Any]]) -> str:
    """Return one line on the channels for a person."""
    parts = []
    for item in said:
        nm = item.get("wavelength_nm")
        more = ", ".join(filter(None, (item.get("stain"), f"{nm:g} nm" if nm else None)))
        parts.append(f"{item['name']} ({more})" if more else str(item["name"]))
    return ", ".join(parts)
