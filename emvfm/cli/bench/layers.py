"""``emvfm bench layers``: a task scored by every block of a backbone, and one chosen without its test."""

from __future__ import annotations

from typing import Annotated

import typer

from emvfm.cli.bench.run import finish
from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.studies.bench.options import PANELS, LayersOptions

__all__ = ["layers", "register"]


def layers(
    call: Call,
    config: LayersOptions,
    dataset: Annotated[str, typer.Argument(help="A dataset.", autocompletion=complete_dataset)],
) -> None:
    """Retrieval, relations or labels by all blocks and poolings of one extraction; nested choice of a layer."""
    from emvfm.provenance import sha256_file
    from emvfm.studies.bench.layers import open_blocks, study_layers

    opened = open_blocks(call.workspace, dataset, config, call.console)
    found = study_layers(opened, config)
    sources = {**found.digests, **{str(path): sha256_file(path) for path in config.relations}}
    finish(
        call, "layers", config, sources, found.to_json(), found.files(), *found.lines(), detail=found.backbone
    )


def register(bench: typer.Typer) -> None:
    command(bench, "layers", LayersOptions, panels=PANELS)(layers)
