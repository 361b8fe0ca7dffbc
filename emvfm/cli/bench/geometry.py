"""``emvfm bench geometry``: how many dimensions a representation uses, and how its rows lie on the sphere."""

from __future__ import annotations

from typing import Annotated

import typer

from emvfm.cli.bench.run import finish
from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.studies.bench.options import PANELS, GeometryOptions

__all__ = ["geometry", "register"]


def geometry(
    call: Call,
    config: GeometryOptions,
    sources: Annotated[
        list[str],
        typer.Argument(
            help="A dataset, or tables of features (.csv, .tsv, .npz) of the same rows.",
            autocompletion=complete_dataset,
        ),
    ],
) -> None:
    """Participation ratio, RankMe, intrinsic dimension, uniformity and alignment, with intervals."""
    from emvfm.studies.bench.geometry import study_geometry
    from emvfm.studies.bench.representations import open_representations

    opened = open_representations(call.workspace, sources, config, call.console)
    found = study_geometry(opened, config)
    finish(
        call, "geometry", config, opened.digests, found.to_json(), found.files(), *found.lines(),
        detail=f"{opened.n} of {opened.total} rows",
    )  # fmt: skip


def register(bench: typer.Typer) -> None:
    command(bench, "geometry", GeometryOptions, panels=PANELS)(geometry)
