"""What a study's runs are made of: its datasets, composed once, and its weights, found or missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from emvfm.backbones.registry import find_spec
from emvfm.backbones.weights import find_local
from emvfm.datasets.catalog import list_datasets, open_dataset, parse_reference
from emvfm.datasets.compose import compose
from emvfm.datasets.manifest import Dataset, load_dataset, save_dataset
from emvfm.datasets.planning import plan_sources
from emvfm.errors import EmvfmError, MissingError, UsageError
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.recipe import UNET
from emvfm.studies.grid.spec import Recipe, StudySpec
from emvfm.workspace import Workspace, read_json

__all__ = [
    "Weights", "audit_effect", "expected_sizes", "needs_force", "prepare_data", "weights_of", "with_weights",
]  # fmt: skip

_FACT = "study_recipe"


@dataclass(frozen=True)
class Weights:
    """The weights that some runs of a study need.

    Parameters
    ----------
    path
        Where they are, None where they are missing.
    page
        Where they can be had.
    """

    backbone: str
    path: Path | None
    untrained: bool
    page: str
    licence: str

    @property
    def there(self) -> bool:
        return self.untrained or self.path is not None


def _source(source: str, folder: Path | None) -> str:
    if folder is not None and (folder / source).is_dir():
        return str(folder / source)
    return source


def prepare_data(
    spec: StudySpec,
    workspace: Workspace,
    folder: Path | None = None,
    *,
    needed: Collection[str] | None = None,
    console: Any = None,
) -> dict[str, Dataset]:
    """Return the study's datasets by name, composed where they are not there yet.

    Several processes may call this at once. What is composed says by what recipe of a study. With `needed`
    only these are.

    Raises
    ------
    MissingError
        A source is not there, or a dataset that the study does not compose.
    RefusedError
        The audit refuses a dataset that the study does not force.
    UsageError
        A dataset of this name was composed otherwise by a study.
    """
    datasets = {}
    for name, recipe in spec.data.items():
        if needed is not None and name not in needed:
            continue
        if not recipe.sources:
            datasets[name] = open_dataset(workspace, name)
            continue
        lock = workspace.root / "studies" / f".compose-{name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if name in list_datasets(workspace):
                datasets[name] = _checked(load_dataset(workspace.datasets / name), recipe)
                continue
            sources = [_source(source, folder) for source in recipe.sources]
            dataset = compose(name, sources, workspace, recipe.options, console=console)
            meta = {**dataset.meta, _FACT: recipe.digest}
            datasets[name] = save_dataset(replace(dataset, meta=meta))
    return datasets


def expected_sizes(spec: StudySpec, workspace: Workspace, folder: Path | None) -> dict[str, dict[str, int]]:
    """Return how many slices each split of what is not composed yet will have, from the names of files alone."""
    found: dict[str, dict[str, int]] = {}
    for name, recipe in spec.data.items():
        if name in list_datasets(workspace) or not recipe.sources:
            continue
        sources = [_source(source, folder) for source in recipe.sources]
        try:
            drafts, _ = plan_sources(sources, workspace, recipe.options)
        except EmvfmError:  # a source that is not there yet
            continue
        found[name] = dict(Counter(draft.split for draft in drafts if draft.mask is not None))
    return found


def _checked(dataset: Dataset, recipe: Recipe) -> Dataset:
    made = dataset.meta.get(_FACT)
    same_pairing = dataset.meta.get("pairing") == recipe.options.pairing
    if made == recipe.digest or (made is None and same_pairing):  # composed by hand: its audit holds
        return dataset
    raise UsageError(
        "a dataset of this name was composed otherwise", where=dataset.root,
        todo="rename one of them, in the study's `data` and where it names it",
    )  # fmt: skip


def needs_force(spec: StudySpec, references: Sequence[str]) -> bool:
    """Return whether the study trains on any of these although the audit refuses them."""
    return any(spec.data[parse_reference(reference)[0]].options.force for reference in references)


def with_weights(config: TrainConfig, folder: Path | None, workspace: Workspace) -> TrainConfig:
    """Return `config` with the path of its weights; a bare name is looked for in `folder` and the workspace.

    Raises
    ------
    MissingError
        The file is in none of them.
    """
    if config.weights is None or config.weights.is_absolute():
        return config
    places = [place for place in (folder, workspace.weights, Path()) if place is not None]
    for place in places:
        if (place / config.weights).is_file():
            return replace(config, weights=(place / config.weights).absolute())
    raise MissingError(
        "no such weight file", where=config.weights, expected=" or ".join(map(str, places[:-1])),
        todo="name its folder with --weights-from",
    )  # fmt: skip


def weights_of(config: TrainConfig, folder: Path | None, workspace: Workspace) -> Weights | None:
    """Return the weights that a run needs, found on this machine or not; None for a U-Net."""
    if config.backbone == UNET:
        return None
    spec = find_spec(config.backbone)
    path = None
    if not config.untrained and config.weights is not None:
        try:
            path = with_weights(config, folder, workspace).weights
        except MissingError:
            path = None
    elif not config.untrained:
        local = find_local(spec, workspace)
        path = None if local is None else local.path
    return Weights(spec.name, path, config.untrained, spec.page, spec.licence)


def audit_effect(dataset: Dataset) -> float | None:
    """Return by how many standard deviations masks fit their slices better than shuffled ones, mean of stacks.

    Of the audit that was made when the dataset was composed; None if it could not judge.
    """
    path = dataset.root / "audit.json"
    if not path.is_file():
        return None
    stacks: list[Mapping[str, Any]] = read_json(path).get("pairings", [])
    trained = [s for s in stacks if "train" in s["stack"]] or stacks
    effects = [float(stack["effect"]) for stack in trained]
    return sum(effects) / len(effects) if effects else None
