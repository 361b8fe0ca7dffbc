"""From a study to its runs: the places of the grid, which runs they need, and in which order."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from emvfm.backbones.options import BackboneOptions
from emvfm.backbones.registry import find_spec
from emvfm.config import to_dict
from emvfm.datasets.catalog import parse_reference
from emvfm.errors import UsageError
from emvfm.provenance import digest
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.recipe import UNET, adaptation_of, resolved, unused
from emvfm.studies.grid.spec import StudySpec

__all__ = ["Place", "Plan", "PlannedRun", "make_plan", "restricted"]

#: Options that can't change a result; where the weights of the plan lie is part of what it says.
_IRRELEVANT = ("device", "tensorboard")
_STORE = tuple(field.name for field in fields(BackboneOptions) if field.name != "device")


@dataclass(frozen=True)
class Place:
    """One place of the grid with one seed; several places may need the same run.

    Parameters
    ----------
    labels
        Axis → label.
    key
        Of the run it needs.
    """

    labels: Mapping[str, str]
    seed: int
    key: str


@dataclass(frozen=True)
class PlannedRun:
    """A training that the study needs, scored on the study's tests.

    Parameters
    ----------
    key
        Digest of all that decides its result, so far as the file says it.
    store
        Digest of what its embeddings are made with, without their layers' use; runs of one share them.
    start
        Key of the run it begins with (a warm start), or None.
    """

    key: str
    labels: Mapping[str, str]
    config: TrainConfig
    store: str
    start: str | None

    @property
    def name(self) -> str:
        """What the run is, for a person."""
        return ", ".join([*self.labels.values(), f"seed {self.config.seed}"])


@dataclass(frozen=True)
class Plan:
    """All places of a study, and the distinct runs in the order they are to be done."""

    places: tuple[Place, ...]
    runs: tuple[PlannedRun, ...]

    @property
    def stores(self) -> int:
        """Ways of embedding images, each a store; wrongly paired datasets share that of the right one."""
        return len({run.store for run in self.runs} - {"none"})


def _key(config: TrainConfig, data: Mapping[str, str]) -> str:
    dropped = {*_IRRELEVANT, *unused(config), "data"}
    options = {name: value for name, value in to_dict(config).items() if name not in dropped}
    if config.weights is not None and "weights" in options:
        options["weights"] = config.weights.name  # the file that the study names, wherever it lies
    trained = []
    for reference in config.data:
        name = parse_reference(reference)[0]
        trained.append(data[name] + reference.removeprefix(name))
    return digest({"options": options, "data": trained})[:16]


def _store(config: TrainConfig) -> str:
    if config.backbone == UNET:
        return "none"
    return digest([*((name, getattr(config, name)) for name in _STORE), config.fuse, config.scale])[:12]


def _start(config: TrainConfig, data: Mapping[str, str]) -> str | None:
    if not config.warm_start or adaptation_of(config) not in ("lora", "full"):
        return None
    frozen = replace(config, lora=False, full=False, steps=config.head_steps, batch=None)
    return _key(resolved(frozen, 1), data)


def _settings(spec: StudySpec, labels: Mapping[str, str]) -> dict[str, Any]:
    settings = dict(spec.train)
    for axis in spec.grid:
        settings |= axis.values[labels[axis.name]]
    return settings


def _planned(spec: StudySpec, labels: Mapping[str, str], seed: int, data: Mapping[str, str]) -> PlannedRun:
    where = ", ".join(f"{axis}={label}" for axis, label in labels.items())
    try:
        config = TrainConfig(**{**_settings(spec, labels), "seed": seed})  # each option is checked already
        whole = resolved(config, 1)  # one slice: what depends on their number is filled in when it is known
        _known_backbone(config.backbone)
    except UsageError as error:
        raise UsageError(f"{where} contradicts itself: {error}", where=spec.name) from None
    whole = replace(whole, steps=config.steps or (None if config.protocol == "paper" else whole.steps))
    return PlannedRun(_key(whole, data), labels, config, _store(config), _start(whole, data))


@functools.cache
def _known_backbone(name: str) -> None:
    if name != UNET:
        find_spec(name)


def _order(run: PlannedRun, stores: Sequence[str]) -> tuple[Any, ...]:
    """Return what runs are sorted by: one store after the other, every comparison seed by seed."""
    heads_first = {"frozen": 0, "scratch": 1, "lora": 2, "full": 3}[adaptation_of(run.config)]
    return stores.index(run.store), run.config.seed, heads_first


def make_plan(spec: StudySpec, data: Mapping[str, str] | None = None) -> Plan:
    """Return the places of the grid and the runs they need.

    Runs that share embeddings come after each other, and within them seed after seed, so that a study that
    is stopped early has whole comparisons of few seeds. Frozen heads precede what begins with them.

    Parameters
    ----------
    data
        Name of a dataset → digest of what it is; by default of how the study's file says it is composed.

    Raises
    ------
    UsageError
        Options of a place contradict each other.
    MissingError
        There is no such backbone.
    """
    known = {name: recipe.digest for name, recipe in spec.data.items()} | dict(data or {})
    names = [axis.name for axis in spec.grid]
    places: list[Place] = []
    runs: dict[str, PlannedRun] = {}
    for values in product(*(axis.values for axis in spec.grid)):
        labels = dict(zip(names, values, strict=True))
        for seed in spec.seeds:
            run = _planned(spec, labels, seed, known)
            runs.setdefault(run.key, run)
            places.append(Place(labels, seed, run.key))
    stores = list(dict.fromkeys(run.store for run in runs.values()))
    ordered = sorted(runs.values(), key=lambda run: _order(run, stores))
    return Plan(tuple(places), tuple(ordered))


def restricted(plan: Plan, only: Sequence[str]) -> Plan:
    """Return the part of a plan where all of ``axis=label`` and ``seed=N`` hold; the same axis twice: either.

    Raises
    ------
    UsageError
        No such axis or label, or nothing is left.
    """
    wanted: dict[str, set[str]] = {}
    for item in only:
        axis, sign, label = item.partition("=")
        if not sign:
            raise UsageError("not axis=label", where="--only", got=repr(item))
        wanted.setdefault(axis, set()).add(label)
    known: dict[str, set[str]] = {"seed": {str(place.seed) for place in plan.places}}
    for place in plan.places:
        for axis, label in place.labels.items():
            known.setdefault(axis, set()).add(label)
    for axis, labels in wanted.items():
        if axis not in known:
            raise UsageError("no such axis", where=f"--only {axis}", expected=", ".join(sorted(known)))
        if unknown := sorted(labels - known[axis]):
            expected = ", ".join(sorted(known[axis]))
            raise UsageError("no such value", where=f"--only {axis}={unknown[0]}", expected=expected)
    places = tuple(
        place
        for place in plan.places
        if all({**place.labels, "seed": str(place.seed)}[axis] in labels for axis, labels in wanted.items())
    )
    keys = {place.key for place in places}
    if not keys:
        raise UsageError("nothing of the study is left", where="--only", got=" ".join(only))
    return Plan(places, tuple(run for run in plan.runs if run.key in keys))
