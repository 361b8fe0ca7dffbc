"""``emvfm bench relate``: are known relations of entities at the ends of all similarities?"""

from __future__ import annotations

import typer

from emvfm.cli.bench.run import JoinedProfiles, finish
from emvfm.cli.command import Call, command
from emvfm.studies.bench.options import PANELS, RelateOptions

__all__ = ["register", "relate"]


def relate(
    call: Call,
    config: RelateOptions,
    profiles: JoinedProfiles,
) -> None:
    """Recall of known pairs of entities at both ends of the distribution of similarity, by source."""
    from emvfm.provenance import sha256_file
    from emvfm.studies.bench.preparation import prepared
    from emvfm.studies.bench.relations import study_relations

    rows = prepared(call.workspace, profiles, config, call.console)
    found = study_relations(rows, config)
    sources = {rows.name: rows.digest, **{str(path): sha256_file(path) for path in config.relations}}
    finish(
        call, "relate", config, sources, found.to_json(), found.files(), *found.lines(),
        detail=found.profiles.label,
    )  # fmt: skip


def register(bench: typer.Typer) -> None:
    command(bench, "relate", RelateOptions, panels=PANELS)(relate)
