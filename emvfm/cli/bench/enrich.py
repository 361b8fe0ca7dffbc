"""``emvfm bench enrich``: how much likelier are related rows among the nearest?"""

from __future__ import annotations

import typer

from emvfm.cli.bench.run import JoinedProfiles, finish
from emvfm.cli.command import Call, command
from emvfm.studies.bench.options import PANELS, EnrichOptions

__all__ = ["enrich", "register"]


def enrich(
    call: Call,
    config: EnrichOptions,
    profiles: JoinedProfiles,
) -> None:
    """Odds ratios of related rows among the nearest of every row."""
    from emvfm.studies.bench.enrichment import study_enrichment
    from emvfm.studies.bench.preparation import prepared

    rows = prepared(call.workspace, profiles, config, call.console)
    found = study_enrichment(rows, config)
    sources = {rows.name: rows.digest}
    finish(
        call, "enrich", config, sources, found.to_json(), found.files(), *found.lines(),
        detail=found.profiles.label,
    )  # fmt: skip


def register(bench: typer.Typer) -> None:
    command(bench, "enrich", EnrichOptions, panels=PANELS)(enrich)
