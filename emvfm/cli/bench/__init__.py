"""``emvfm bench``: what the embeddings of a backbone are good for, scored by tasks of microscopy."""

from __future__ import annotations

import typer

from emvfm.cli.groups import add_group

__all__ = ["register"]

#: Modules in the order of the help page.
COMMANDS = (
    "localize",
    "retrieve",
    "relate",
    "enrich",
    "expression",
    "layers",
    "similarity",
    "geometry",
    "audit",
)


def register(app: typer.Typer) -> None:
    add_group(app, "bench", "Score the embeddings of backbones on tasks of microscopy.", __name__, COMMANDS)
