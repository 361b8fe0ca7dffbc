"""The command tree and the entry point of the console script."""

from __future__ import annotations

from typing import Annotated

import typer

from emvfm import __version__
from emvfm.cli import (
    backbones,
    bench,
    data,
    demo,
    doctor,
    domain,
    embed,
    evaluate,
    predict,
    report,
    store,
    study,
    train,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="emvfm",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"emvfm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Can a vision model carry my data, what does it see, and will one model serve several datasets?"""


COMMANDS = (
    demo,
    data,
    backbones,
    embed,
    store,
    train,
    evaluate,
    predict,
    domain,
    bench,
    study,
    report,
    doctor,
)  # in the order of the help page
for module in COMMANDS:
    module.register(app)


def main() -> None:
    """Run the command line; the exit codes are 0 done, 1 failed, 2 usage, 3 missing, 4 data refused."""
    app()
