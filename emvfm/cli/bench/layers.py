"""``emvfm bench layers``: a task scored by every block of a backbone, and one chosen without its test."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

import typer

from emvfm.cli.bench.run import finish
from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.studies.bench.options import PANELS, LayersOptions
from emvfm.studies.expression.spot_options import SpotOptions

__all__ = ["layers", "register"]


def layers(
    call: Call,
    config: LayersOptions,
    dataset: Annotated[str, typer.Argument(help="A dataset.", autocompletion=complete_dataset)],
) -> None:
    """Retrieval, relations, labels or expression by all blocks and poolings of one extraction; a nested choice."""
    from emvfm.provenance import sha256_file
    from emvfm.studies.bench.layers import open_blocks, study_layers

    opened = open_blocks(call.workspace, dataset, config, call.console)
    found = study_layers(opened, config)
    sources = {**found.digests, **{str(path): sha256_file(path) for path in config.relations}}
    finish(
        call, "layers", config, sources, found.to_json(), found.files(), *found.lines(), detail=found.backbone
    )


def register(bench: typer.Typer) -> None:
    panels = {**PANELS, "Expression": tuple(field.name for field in fields(SpotOptions))}
    command(bench, "layers", LayersOptions, panels=panels)(layers)
