"""``emvfm bench geometry``: how many dimensions a representation uses, and how its rows lie on the sphere."""

from __future__ import annotations

import typer

from emvfm.cli.bench.run import AlignedProfiles, finish
from emvfm.cli.command import Call, command
from emvfm.studies.bench.options import PANELS, GeometryOptions

__all__ = ["geometry", "register"]


def geometry(
    call: Call,
    config: GeometryOptions,
    sources: AlignedProfiles,
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
