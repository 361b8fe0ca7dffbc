"""``emvfm bench``: what the embeddings of a backbone are good for, scored by tasks of microscopy."""

from __future__ import annotations

from types import ModuleType

import typer

from emvfm.cli.bench import (
    audit,
    enrich,
    expression,
    geometry,
    layers,
    localize,
    relate,
    retrieve,
    similarity,
)

__all__ = ["register"]

#: In the order of the help page.
COMMANDS: tuple[ModuleType, ...] = (
    localize,
    retrieve,
    relate,
    enrich,
    expression,
    layers,
    similarity,
    geometry,
    audit,
)


def register(app: typer.Typer) -> None:
    bench = typer.Typer(
        help="Score the embeddings of backbones on tasks of microscopy.", no_args_is_help=True
    )
    app.add_typer(bench, name="bench")
    for module in COMMANDS:
        module.register(bench)
