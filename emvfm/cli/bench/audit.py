"""``emvfm bench audit``: does the trained model beat its untrained twin, simple baselines and the confound?"""

from __future__ import annotations

from typing import Annotated

import typer

from emvfm.cli.bench.run import finish
from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_run
from emvfm.studies.audit.options import AuditOptions

__all__ = ["audit", "register"]


def audit(
    call: Call,
    config: AuditOptions,
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Runs of one task on one set, by name or folder: of bench expression, localize or retrieve, or "
            "evaluated trainings. NAME:RUN calls one so; runs of one NAME are seeds of one model; NAME:RUN,RUN joins "
            "trainings with test slices of their own.",
            autocompletion=complete_run,
        ),
    ],
) -> None:
    """Say in words whether what was trained beats what was not, on the same units."""
    from rich.markup import escape

    from emvfm.studies.audit.reading import read_runs
    from emvfm.studies.audit.results import files_of, remarks_of, tables_of
    from emvfm.studies.audit.verdicts import audit_runs

    scored = read_runs(call.workspace, runs, config.role, test=config.test)
    found = audit_runs(
        scored, chosen=config.chosen, samples=config.samples, level=config.level, seed=config.seed
    )
    remarks = remarks_of(found)
    sources = {one.name: one.digest for one in scored}
    finish(
        call, "audit", config, sources, {**found.to_json(), "remarks": remarks}, files_of(found),
        *tables_of(found), "", *(f"• {escape(line)}" for line in remarks),
        detail=f"{len(scored)} runs, {len(scored[0].units)} {found.what}",
    )  # fmt: skip


def register(bench: typer.Typer) -> None:
    command(bench, "audit", AuditOptions)(audit)
