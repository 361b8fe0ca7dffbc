"""From the channels an image has to the slots a backbone reads: replicate, map, random-map, mean, bag.

Everything goes by name. The order of channels in a file says nothing here: the same image with its channels in
another order gives the same input, bit by bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError

__all__ = [
    "FILLS",
    "SLOTS",
    "ChannelInputs",
    "ChannelPlan",
    "Join",
    "Strategy",
    "apply_channels",
    "join_inputs",
    "natural_map",
    "parse_map",
    "plan_channels",
]

Strategy = Literal["replicate", "map", "random-map", "mean", "bag"]

#: How the embeddings of several passes become one: end to end, or their mean.
Join = Literal["concat", "mean"]

#: Input slots by kind of backbone. HPA is the order of DINO4Cells' checkpoints.
SLOTS: dict[str, tuple[str, ...]] = {
    "rgb": ("red", "green", "blue"),
    "hpa": ("nucleus", "protein", "microtubules", "er"),
    "gray": ("gray",),
}

#: What an unmapped slot may hold; the last is written with the name of a channel.
FILLS = ("zero", "mean", "copy:NAME")

#: Names by which stains of a slot are known, lower case; first what a backbone calls it itself.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "nucleus": ("nucleus", "dna", "hoechst", "dapi", "draq5", "nuclei", "nuclear"),
    "protein": ("protein", "gfp", "mneongreen", "antibody", "green"),
    "microtubules": ("microtubules", "microtubule", "tubulin", "mt"),
    "er": ("er", "endoplasmic-reticulum", "calreticulin"),
}

#: Which kind of stain a colour shows: composites of the paper have the protein red and the nucleus green.
_COLOURS = {"red": "protein", "green": "nucleus"}


@dataclass(frozen=True)
class ChannelPlan:
    """How the channels of an image fill the inputs of a backbone.

    Attributes
    ----------
    inputs
        One a pass through the backbone: of each slot the names of the channels whose mean it holds, empty for
        zeros.
    outputs
        Name of each input, whose embeddings are joined end to end.
    """

    strategy: Strategy
    channels: tuple[str, ...]
    slots: tuple[str, ...]
    inputs: tuple[tuple[tuple[str, ...], ...], ...]
    outputs: tuple[str, ...]
    seed: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types; the order of channels in a file leaves no trace."""
        return asdict(self)

    def text(self) -> str:
        """Return one line for a person."""
        parts = []
        for name, slots in zip(self.outputs, self.inputs, strict=True):
            filled = (f"{slot}={'+'.join(f) or 'zero'}" for slot, f in zip(self.slots, slots, strict=True))
            parts.append(f"{name}: {', '.join(filled)}")
        return f"{self.strategy}: " + "; ".join(parts)


@dataclass(frozen=True)
class ChannelInputs:
    """A plan by the position of channels in the file: all that decides numbers, without names.

    Attributes
    ----------
    count
        Channels of an image.
    passes
        One a pass through the backbone: of each slot the positions of the channels whose mean it holds, in the
        order in which they are added up; empty for zeros.
    join
        What becomes of the embeddings of several passes.
    """

    count: int
    passes: tuple[tuple[tuple[int, ...], ...], ...]
    join: Join = "concat"

    @classmethod
    def of(cls, plan: ChannelPlan, channels: Sequence[str], join: Join = "concat") -> ChannelInputs:
        """Return `plan` for files whose channels have these names, in this order.

        Raises
        ------
        UsageError
            The names are not those of the plan.
        """
        if tuple(sorted(channels)) != plan.channels:
            got, expected = ", ".join(channels), ", ".join(plan.channels)
            raise UsageError("other channels than planned", where="image", got=got, expected=expected)
        place = {name: i for i, name in enumerate(channels)}
        passes = tuple(tuple(tuple(place[name] for name in names) for names in one) for one in plan.inputs)
        return cls(len(channels), passes, "concat" if len(passes) == 1 else join)

    @classmethod
    def from_identity(cls, facts: Mapping[str, Any]) -> ChannelInputs:
        """Return what `identity` gave."""
        passes = tuple(tuple(tuple(held) for held in one) for one in facts["passes"])
        return cls(int(facts["count"]), passes, facts["join"])

    @property
    def slots(self) -> int:
        """Number of slots of the backbone."""
        return len(self.passes[0])

    @property
    def factor(self) -> int:
        """How many times as long as the backbone's own an embedding is."""
        return len(self.passes) if self.join == "concat" else 1

    def identity(self) -> dict[str, Any]:
        """Return all that decides the numbers, as plain JSON values."""
        passes = [[list(held) for held in one] for one in self.passes]
        return {"count": self.count, "passes": passes, "join": self.join}

    def gather(self, planes: NDArray[Any]) -> NDArray[np.float32]:
        """Return ``(P, ..., K, H, W)`` float32 of ``(..., C, H, W)``: the input of each pass."""
        shape = (len(self.passes), *planes.shape[:-3], self.slots, *planes.shape[-2:])
        target = np.zeros(shape, np.float32)
        for one, slots in zip(target, self.passes, strict=True):
            for k, held in enumerate(slots):
                if len(held) == 1:
                    one[..., k, :, :] = planes[..., held[0], :, :]
                elif held:
                    parts = (planes[..., i, :, :].astype(np.float64) for i in held)
                    one[..., k, :, :] = sum(parts, np.zeros(())) / len(held)
        return target


def parse_map(text: str) -> dict[str, str]:
    """Return slot → channel of ``nucleus=hoechst,protein=gfp``.

    Raises
    ------
    UsageError
        It is no such text, or names a slot twice.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        slot, equals, channel = (piece.strip() for piece in part.partition("="))
        if not slot or not equals or not channel or slot in found:
            raise UsageError("not a map", where="--map", got=repr(part), expected="SLOT=CHANNEL,SLOT=CHANNEL")
        found[slot] = channel
    return found


def natural_map(channels: Sequence[str], slots: Sequence[str]) -> dict[str, str]:
    """Return slot → channel where the name of a channel says which slot it belongs to.

    A colour slot takes the channel of its own name, else the stain that the paper draws in it: the protein red,
    the nucleus green.
    """
    known = {name.lower(): name for name in channels}
    found: dict[str, str] = {}
    for slot in slots:
        names = (slot.lower(), *_SYNONYMS.get(_COLOURS.get(slot, slot), ()))
        match = next(
            (known[name] for name in names if name in known and known[name] not in found.values()), None
        )
        if match is not None:
            found[slot] = match
    return found


def plan_channels(
    channels: Sequence[str],
    slots: Sequence[str] | str = "rgb",
    strategy: Strategy = "replicate",
    *,
    mapping: Mapping[str, str] | None = None,
    fill: str = "zero",
    seed: int = 0,
) -> ChannelPlan:
    """Decide which channel goes into which slot.

    Parameters
    ----------
    channels
        Names of the image's channels, in any order.
    slots
        Names of the backbone's inputs, or a key of :data:`SLOTS`.
    strategy
        ``replicate``: one pass a channel, all slots hold it; embeddings are joined, channels by name.
        ``map``: one pass, each slot holds the channel that `mapping` gives it. ``random-map``: the same with the
        channels dealt to random slots. ``mean``: one pass, all slots hold the mean of the channels.
        ``bag``: one pass a channel through a backbone with a single slot.
    mapping
        Slot → channel for ``map``; by default what the names say (:func:`natural_map`).
    fill
        For slots without a channel: ``zero``, ``mean`` of all channels, or ``copy:NAME`` of a channel.
    seed
        Of ``random-map``. The draw depends on the names, never on their order in the file.

    Raises
    ------
    UsageError
        For names that are not there, twice there or map nothing, or an option that is none.
    """
    names = tuple(sorted(channels))
    if isinstance(slots, str) and slots not in SLOTS:
        raise UsageError("no such kind of slots", where="slots", got=slots, expected=", ".join(SLOTS))
    places = SLOTS[slots] if isinstance(slots, str) else tuple(slots)
    for where, found in (("channels", names), ("slots", places)):
        if not found or len(set(found)) != len(found):
            raise UsageError("not names that differ", where=where, got=", ".join(found) or "none")
    if strategy not in get_args(Strategy):
        expected = ", ".join(get_args(Strategy))
        raise UsageError("no such channel strategy", where="channels", got=strategy, expected=expected)
    if mapping is not None and strategy != "map":
        raise UsageError("a map is for the strategy map", where="map", got=strategy)
    filled = _filled(fill, names)
    drawn: int | None = None
    inputs: tuple[tuple[tuple[str, ...], ...], ...]
    outputs: tuple[str, ...]
    if strategy == "replicate":
        inputs, outputs = tuple(((name,),) * len(places) for name in names), names
    elif strategy == "bag":
        if len(places) != 1:
            raise UsageError(
                "a bag of channels needs one slot",
                where="slots",
                got=", ".join(places),
                todo="choose replicate",
            )
        inputs, outputs = tuple(((name,),) for name in names), names
    elif strategy == "mean":
        inputs, outputs = ((names,) * len(places),), ("mean",)
    else:
        if strategy == "random-map":
            chosen, drawn = _random_map(names, places, seed), seed
        else:
            chosen = dict(mapping) if mapping is not None else natural_map(names, places)
        _check_map(chosen, names, places)
        inputs = (tuple((chosen[slot],) if slot in chosen else filled for slot in places),)
        outputs = (strategy,)
    return ChannelPlan(strategy, names, places, inputs, outputs, drawn)


def _filled(fill: str, names: tuple[str, ...]) -> tuple[str, ...]:
    if fill in ("zero", "mean"):
        return () if fill == "zero" else names
    kind, _, name = fill.partition(":")
    if kind != "copy" or name not in names:
        expected = f"zero, mean or copy: with one of {', '.join(names)}"
        raise UsageError("no such fill", where="fill", got=fill, expected=expected)
    return (name,)


def _random_map(names: tuple[str, ...], places: tuple[str, ...], seed: int) -> dict[str, str]:
    digest = hashlib.sha256("\0".join((*names, "", *places)).encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
    taken = rng.permutation(len(places))[: len(names)]
    held = rng.permutation(len(names))[: len(places)]
    return {places[slot]: names[i] for slot, i in zip(taken, held, strict=True)}


def _check_map(chosen: Mapping[str, str], names: tuple[str, ...], places: tuple[str, ...]) -> None:
    if unknown := sorted(set(chosen) - set(places)):
        got, expected = ", ".join(unknown), ", ".join(places)
        raise UsageError("no such slot", where="map", got=got, expected=expected)
    if unknown := sorted(set(chosen.values()) - set(names)):
        got, expected = ", ".join(unknown), ", ".join(names)
        raise UsageError("no such channel", where="map", got=got, expected=expected)
    if not chosen:
        raise UsageError(
            "no channel has the name of a slot",
            where="map",
            got=", ".join(names),
            expected=", ".join(places),
            todo=f"say which, such as {places[0]}={names[0]}",
        )


def apply_channels(
    image: NDArray[Any], channels: Sequence[str], plan: ChannelPlan
) -> list[NDArray[np.float32]]:
    """Return the inputs of the backbone.

    Parameters
    ----------
    image
        ``(C, H, W)`` or ``(B, C, H, W)``, of any real dtype; normalised before or after, as the caller likes.
    channels
        Names of the C channels, in the order they have in `image`.

    Returns
    -------
    list
        One a pass, in the order of the plan's outputs: ``(..., K, H, W)`` float32.

    Raises
    ------
    UsageError
        When names and image or plan do not fit.
    """
    values = np.asarray(image)
    if values.ndim not in (3, 4) or values.shape[-3] != len(channels):
        got = f"{values.shape} with {len(channels)} names"
        raise UsageError(
            "not one name a channel", where="image", got=got, expected="(C, H, W) or (B, C, H, W)"
        )
    return list(ChannelInputs.of(plan, channels).gather(values))


def join_inputs(embeddings: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Join the embeddings ``(..., D)`` of a plan's passes end to end: ``(..., P * D)``, in the plan's order."""
    if not embeddings:
        raise UsageError("no embeddings to join", where="channels")
    return np.concatenate([np.asarray(one) for one in embeddings], axis=-1)
