"""From the options on channels, a backbone's slots and the names in a dataset to one preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from emvfm.backbones.channels import ChannelInputs, ChannelPlan, parse_map, plan_channels
from emvfm.backbones.options import ChannelOptions
from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.registry import RGB, BackboneSpec
from emvfm.errors import UsageError

__all__ = ["channel_plan", "channel_preprocess", "restored"]

_NORMALISATIONS = ("backbone", "imagenet", "self", "percentile", "minmax")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def channel_plan(
    channels: Sequence[str] | None, spec: BackboneSpec, options: ChannelOptions
) -> ChannelPlan | None:
    """Return how the channels of a dataset go into the slots of a backbone; None for grey and colour as they are.

    Parameters
    ----------
    channels
        Names in the order of the files, None where a dataset says nothing.

    Raises
    ------
    UsageError
        The channels have names and nothing says how they go in, or the options do not fit the names.
    """
    mapping = parse_map(options.map) if options.map is not None else None
    strategy = "map" if options.channels == "auto" and mapping is not None else options.channels
    if strategy != "auto":
        if channels is None:
            raise UsageError(
                "the channels of the images have no names",
                where=f"--channels {strategy}",
                todo="name them: `emvfm data compose --channels`",
            )
        return plan_channels(
            channels, spec.slots, strategy, mapping=mapping, fill=options.fill, seed=options.map_seed
        )
    if channels is None or len(channels) == 1 or tuple(channels) == RGB == spec.slots:
        return None
    if set(channels) == set(spec.slots):
        return plan_channels(channels, spec.slots, "map")
    raise UsageError(
        "channels with names of their own",
        got=", ".join(channels),
        expected=f"a way into the slots {', '.join(spec.slots)}",
        todo="choose --channels replicate, map, random-map or mean",
    )


def channel_preprocess(
    plain: Preprocess, spec: BackboneSpec, channels: Sequence[str] | None, options: Any
) -> Preprocess:
    """Return `plain` with the channels and the normalisation that `options` ask for.

    Parameters
    ----------
    options
        What is no `ChannelOptions` is taken as their defaults.

    Raises
    ------
    UsageError
        See `channel_plan`; or ImageNet's statistics are asked for slots that are not three.
    """
    chosen = options if isinstance(options, ChannelOptions) else ChannelOptions()
    if chosen.normalise not in _NORMALISATIONS:  # of a study, and of something else than intensities
        chosen = ChannelOptions(chosen.channels, chosen.map, chosen.fill, chosen.map_seed, chosen.join)
    plan = channel_plan(channels, spec, chosen)
    made = plain
    if plan is not None:
        assert channels is not None
        made = replace(made, channels=ChannelInputs.of(plan, channels, chosen.join))
    n = len(spec.slots)
    if chosen.normalise == "imagenet":
        if n != 3:
            raise UsageError(
                "ImageNet's mean and deviation are of three channels",
                where="--normalise imagenet",
                got=f"{n} slots",
                expected="self, percentile or minmax",
            )
        made = replace(made, mean=_IMAGENET[0], std=_IMAGENET[1], scaling="window")
    elif chosen.normalise == "self":
        made = replace(made, mean=(0.0,) * n, std=(1.0,) * n, scaling="self")
    elif chosen.normalise != "backbone":
        made = replace(made, scaling=chosen.normalise)
    return made


def restored(plain: Preprocess, facts: Any) -> Preprocess:
    """Return `plain` with the channels and the normalisation of an identity, `Preprocess.identity`."""
    if not isinstance(facts.get("mean"), list):  # of a baseline
        return plain
    channels, intensity = facts["channels"], facts["intensity"]
    return replace(
        plain,
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        scaling=intensity.get("scaling", "window"),
        channels=ChannelInputs.from_identity(channels) if isinstance(channels, dict) else None,
    )
