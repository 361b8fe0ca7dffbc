"""``emvfm bench retrieve``: does every row find its like, by average precision, p- and q-values?"""

from __future__ import annotations

import typer

from emvfm.cli.bench.run import JoinedProfiles, finish
from emvfm.cli.command import Call, command
from emvfm.studies.bench.options import PANELS, RetrieveOptions

__all__ = ["register", "retrieve"]


def retrieve(
    call: Call,
    config: RetrieveOptions,
    profiles: JoinedProfiles,
) -> None:
    """Average precision of finding the like of every row, by group, against random orders."""
    from emvfm.studies.bench.preparation import prepared
    from emvfm.studies.bench.retrieval import study_retrieval

    rows = prepared(call.workspace, profiles, config, call.console)
    found = study_retrieval(rows, config)
    finish(
        call, "retrieve", config, {rows.name: rows.digest}, found.to_json(), found.files(), *found.lines(),
        detail=found.profiles.label,
    )  # fmt: skip


def register(bench: typer.Typer) -> None:
    command(bench, "retrieve", RetrieveOptions, panels=PANELS)(retrieve)
