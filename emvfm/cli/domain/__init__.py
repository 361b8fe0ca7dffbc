"""``emvfm domain``: what datasets are to a backbone, how far apart, and whether that is more than chance."""

from __future__ import annotations

import typer

from emvfm.cli.domain import fd, kd, ood, ood_compare, pca, prdc, probe, report, umap

__all__ = ["register"]

#: In the order of the help page.
COMMANDS = (fd, kd, prdc, probe, pca, umap, ood, ood_compare, report)


def register(app: typer.Typer) -> None:
    domain = typer.Typer(help="Compare datasets as a backbone sees them.", no_args_is_help=True)
    app.add_typer(domain, name="domain")
    for module in COMMANDS:
        module.register(domain)
