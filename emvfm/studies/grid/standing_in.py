"""The same study on tiny untrained networks and phantoms: every run of the plan, in seconds, proving nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from emvfm.backbones.registry import find_spec
from emvfm.datasets.phantom import write_phantom
from emvfm.segmentation.recipe import UNET
from emvfm.studies.grid.spec import Axis, Recipe, StudySpec
from emvfm.workspace import Workspace, atomic_folder

__all__ = ["stand_in", "stand_in_workspace", "write_phantoms"]

#: What keeps a run short; options that only lengthen it are set to these wherever they stand.
_SHORT: Mapping[str, Any] = {
    "steps": 2, "head_steps": 2, "batch": 1, "accumulate": 1, "views": 1, "crop": 48, "width": 8, "unet_width": 4,
    "unet_depth": 1, "warmup": 0, "evaluate_every": 2, "early_stop": 0,
}  # fmt: skip
#: The recipe of the paper has a head and sizes of its own, and judges by validation slices.
_PLAIN: Mapping[str, Any] = {"protocol": "none", "validation": "split", "select": "iou", "weights": None}
_SEEDS, _SLICES, _SIZE, _RESAMPLES = 2, 14, 96, 200
_DOMAINS = ("a", "b")


def stand_in_workspace(workspace: Workspace) -> Workspace:
    """Return the workspace within `workspace` that stand-ins have to themselves."""
    return Workspace(workspace.root / "stand-in")


def _backbone(name: str) -> str:
    return name if name == UNET or name.startswith("tiny:") else f"tiny:{find_spec(name).name}"


def _layers(layers: tuple[int, ...] | None, depth: int) -> tuple[int, ...] | None:
    twin = min(depth, 12)
    return None if layers is None else tuple(dict.fromkeys(layer * twin // depth for layer in layers))


def _shortened(options: Mapping[str, Any], depth: int) -> dict[str, Any]:
    changed = {}
    for name, value in options.items():
        if name in _SHORT or name in _PLAIN:
            value = {**_SHORT, **_PLAIN}[name]
        elif name == "backbone":
            value = _backbone(value)
        elif name == "layers":
            value = _layers(value, depth)
        elif name == "input_size" and value.isdigit():
            value = str(max(48, int(value) // 8))
        changed[name] = value
    return changed


def _depth(spec: StudySpec) -> int:
    """Return the most blocks of the study's backbones, so that the last one stays the last."""
    names = [options["backbone"] for options in _all_options(spec) if "backbone" in options]
    return max((find_spec(name).depth for name in names if name != UNET), default=12)


def _all_options(spec: StudySpec) -> list[Mapping[str, Any]]:
    return [spec.train, *(settings for axis in spec.grid for settings in axis.values.values())]


def stand_in(spec: StudySpec, phantoms: Path) -> StudySpec:
    """Return the same grid with the tiny twin of each backbone, two seeds and phantoms under `phantoms`.

    Pairings and splits are made of the phantoms as they are of the data; sources that are different stay so.
    """
    sources = sorted(
        {recipe.sources for recipe in spec.data.values()}
    )  # the same for studies of the same data
    data = {}
    for name, recipe in spec.data.items():
        domain = _DOMAINS[sources.index(recipe.sources) % len(_DOMAINS)]
        given = {key: value for key, value in recipe.given.items() if key not in ("split", "test")}
        options = replace(recipe.options, split="block", test=0.3, link="copy")
        data[name] = Recipe((str(phantoms / domain),), options, {**given, "stand-in": domain})
    plain = {"precision": "float32", "device": "cpu", "untrained": True, "init": "kaiming"}
    depth = _depth(spec)
    train = {**_SHORT, **_PLAIN, **plain, **_shortened(spec.train, depth)}
    if spec.train.get("backbone") == UNET:
        train |= {"untrained": False}
    grid = tuple(
        Axis(axis.name, {label: _twin(settings, depth) for label, settings in axis.values.items()})
        for axis in spec.grid
    )
    return replace(
        spec,
        data=data,
        train=train,
        grid=grid,
        seeds=spec.seeds[:_SEEDS],
        evaluate=replace(spec.evaluate, samples=_RESAMPLES),
    )


def _twin(settings: Mapping[str, Any], depth: int) -> dict[str, Any]:
    if settings.get("backbone") == UNET:
        return {**_shortened(settings, depth), "untrained": False, "init": "timm"}
    return _shortened(settings, depth)


def write_phantoms(phantoms: Path) -> None:
    """Write the phantoms that `stand_in` composes from, where they are not there yet."""
    for seed, domain in enumerate(_DOMAINS):
        folder = phantoms / domain
        if not (folder / "phantom.json").is_file():
            with atomic_folder(folder, replace=folder.exists()) as temporary:
                write_phantom(temporary, domain, _SLICES, _SIZE, seed=seed)
