"""The models of a table of expression: the backbone in question, and what it must beat."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.baselines.registry import is_baseline
from emvfm.expression import structure
from emvfm.expression.crossvalidation import Model
from emvfm.expression.folds import pitch
from emvfm.studies.expression.options import ExpressionOptions
from emvfm.studies.expression.spots import Spots
from emvfm.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["PIXELS", "models_of"]

#: The baseline of pixels that is always in the table.
PIXELS = "pixel:all"


def _embedded(
    spots: Spots, options: ExpressionOptions, workspace: Workspace, console: Console | None
) -> tuple[str, NDArray[Any]]:
    """Return what the backbone is called, and a vector a spot."""
    from emvfm.backbones.loading import load_backbone
    from emvfm.extraction.pipeline import embed_dataset

    assert spots.dataset is not None
    backbone = load_backbone(options, workspace)
    embeddings = embed_dataset(spots.dataset, backbone, options, workspace, console=console)
    return embeddings.label, embeddings.image_embeddings(options.pool, options.layer)


def _from_images(
    spots: Spots, options: ExpressionOptions, workspace: Workspace, console: Console | None
) -> list[Model]:
    label, vectors = _embedded(spots, options, workspace, console)
    kind: Any = options.backbone.partition(":")[0] if is_baseline(options.backbone) else "backbone"
    if options.untrained or options.shuffle_weights:
        kind = "untrained"
    own: Any = kind if kind in ("backbone", "untrained", "pixel", "structure") else "confound"
    models = [Model(label, own, vectors, embedded=True)]
    plain = replace(options, weights=None, adapter=None, shuffle_weights=False)
    if kind == "backbone":
        for seed in range(options.untrained_seeds):
            twin = replace(plain, untrained=True, init_seed=seed)
            models.append(_of("untrained", *_embedded(spots, twin, workspace, console)))
    if options.backbone != PIXELS:
        # Pixels as they are: nothing of what the backbone wants is done to them.
        simple = ExpressionOptions(backbone=PIXELS, pool="cls", tile=options.tile, device=options.device)
        models.append(_of("pixel", *_embedded(spots, simple, workspace, console)))
    return models


def _of(kind: Any, label: str, vectors: NDArray[Any]) -> Model:
    return Model(label, kind, vectors, embedded=True)


def models_of(
    spots: Spots, options: ExpressionOptions, workspace: Workspace, *, console: Console | None = None
) -> list[Model]:
    """Return the models to compare, the one in question first.

    With images: the backbone, its untrained twins and statistics of pixels. Always: the spacing of spots, their
    place in the section, the first model taught with exchanged expression, and the mean of training. With types of
    cells also the types around a cell, and its own, which were called from the genes that are to be predicted.
    """
    models = [] if spots.dataset is None else _from_images(spots, options, workspace, console)
    unit = pitch(spots.x, spots.y, spots.sections)
    where = (spots.x, spots.y, spots.sections)
    spacing = structure.spacing(*where, unit)[0]
    arranged = [Model("spacing of spots", "structure", spacing)]
    if options.cell_type is not None:
        types = spots.column(options.cell_type, "--cell-type")
        around = structure.composition(*where, types)[0]
        both = np.column_stack([spacing, around])
        # First, because without images it is the model in question.
        arranged.insert(0, Model("spacing and types of neighbours", "structure", both))
        arranged.append(Model("the cell's own type", "circular", structure.own_type(types)[0]))
    models += arranged
    models.append(Model("place in the section", "confound", structure.place(*where, unit)[0]))
    first = models[0]
    models.append(
        Model("exchanged expression", "permuted", first.features, permute=True, embedded=first.embedded)
    )
    models.append(Model("mean of training", "mean"))
    return models
