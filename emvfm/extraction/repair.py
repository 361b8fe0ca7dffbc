"""Computing again what was withdrawn from a store, from nothing but the store and the workspace."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emvfm.backbones.channel_input import restored
from emvfm.backbones.loading import load_backbone
from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.registry import SPECS, find_spec
from emvfm.backbones.views import PLAIN, View
from emvfm.datasets.catalog import list_datasets, open_dataset
from emvfm.errors import EmvfmError, MissingError
from emvfm.extraction.config import EmbedConfig
from emvfm.extraction.describing import bound_as
from emvfm.extraction.pipeline import fill_store, identity_of
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.store import EmbeddingStore
from emvfm.store.view import image_key
from emvfm.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Repair", "recompute"]


@dataclass(frozen=True)
class Repair:
    """How many images were computed again, and why others could not be; None if none are left."""

    computed: int
    problem: str | None


def _backbone_name(facts: Mapping[str, Any]) -> str:
    """Return a name under which the backbone of a store is known here."""
    if (
        facts["library"] == "emvfm"
    ):  # a baseline; of a table of cells or of facts, the name alone says too little
        columns = ",".join(column for column, _ in facts["vocabulary"])
        return f"{facts['model']}={columns}" if facts["model"] == "random:onehot" else str(facts["model"])
    at = f"@{','.join(facts['slots'])}" if "slots" in facts else ""
    names = (*(spec.name for spec in SPECS), f"timm:{facts['model']}{at}", f"openclip:{facts['model']}")
    for name in names:
        try:
            if find_spec(name).identity() == facts:
                return name
        except EmvfmError:  # no such model in that library
            continue
    raise MissingError("no backbone is like that of the store", got=facts["model"])


def _settings(
    identity: EmbeddingIdentity, weights: Path | None, adapter: str | None
) -> tuple[EmbedConfig, View]:
    """Return the options, and the view, that a store's identity came from."""
    facts = identity.preprocess
    untrained = identity.weights.startswith("untrained:")
    shuffled = identity.weights.startswith("shuffled:")
    _, init, seed = identity.weights.split(":") if untrained else ("", "timm", "0")
    if shuffled or identity.weights.startswith("none:"):
        seed = identity.weights.split(":")[1]
    physical = str(facts["input_size"]).endswith("nm")
    tile = facts["tile"] or {"patches": 0, "overlap": 0}
    view = facts.get("view")
    options = EmbedConfig(
        backbone=_backbone_name(identity.backbone),
        weights=weights,
        untrained=untrained,
        init=init,  # type: ignore[arg-type]
        init_seed=int(seed),
        shuffle_weights=shuffled,
        adapter=adapter,
        layers=identity.layers,
        input_size="native" if physical else facts["input_size"],
        pixel_size=facts["input_size"] if physical else None,
        tile=tile["patches"] * facts["patch"],
        tile_overlap=tile["overlap"] * facts["patch"],
        precision=identity.precision,  # type: ignore[arg-type]
        dtype=identity.dtype,  # type: ignore[arg-type]
    )
    return options, PLAIN if view is None else View(**{**view, "skipped": tuple(view["skipped"])})


def recompute(
    store: EmbeddingStore,
    images: Collection[str],
    workspace: Workspace,
    *,
    weights: Path | None = None,
    adapter: str | None = None,
    console: Console | None = None,
) -> Repair:
    """Compute `images` (keys of a store's rows) anew and nothing else.

    Parameters
    ----------
    weights, adapter
        Where they are, if not where ``emvfm embed`` finds them by the backbone's name.
    """
    wanted, done = set(images), 0
    if store.identity.adapter is not None and adapter is None:
        return Repair(0, "name the run of its adapter with --adapter")
    try:
        options, view = _settings(store.identity, weights, adapter)
        backbone = load_backbone(options, workspace)
    except EmvfmError as error:
        return Repair(0, str(error))
    backbone = bound_as(backbone, store.identity.backbone)
    facts = store.identity.preprocess
    preprocess = restored(Preprocess.for_backbone(backbone.spec, options, view), facts)
    if identity_of(backbone, options, view, preprocess).key != store.identity.key:
        return Repair(0, "the weights at hand are not those of the store; name them with --weights")
    for name in list_datasets(workspace):
        try:
            dataset = open_dataset(workspace, name)
            source = store.identity.preprocess.get("source")
            keyed = {image_key(s, preprocess.input_size, source): s for s in dataset.samples}
            mine = wanted & keyed.keys()
            fill_store(
                store, replace(dataset, samples=tuple(keyed[key] for key in sorted(mine))), backbone, preprocess,
                console=console,
            )  # fmt: skip
        except EmvfmError as error:
            return Repair(done, str(error))
        done, wanted = done + len(mine), wanted - mine
    problem = f"{len(wanted)} images are in no dataset of the workspace" if wanted else None
    return Repair(done, problem)
