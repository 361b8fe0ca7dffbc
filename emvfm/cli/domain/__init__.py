"""``emvfm domain``: what datasets are to a backbone, how far apart, and whether that is more than chance."""

from __future__ import annotations

import typer

from emvfm.cli.groups import add_group

__all__ = ["register"]

#: Modules in the order of the help page.
COMMANDS = ("fd", "kd", "prdc", "probe", "pca", "umap", "ood", "ood_compare", "report")


def register(app: typer.Typer) -> None:
    add_group(app, "domain", "Compare datasets as a backbone sees them.", __name__, COMMANDS)
