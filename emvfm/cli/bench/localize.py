"""``emvfm bench localize``: labels of images predicted from their embeddings, tested on proteins not learnt from."""

from __future__ import annotations

import typer

from emvfm.cli.bench.run import AlignedProfiles, finish
from emvfm.cli.command import Call, command
from emvfm.studies.localize.options import PANELS, LocalizeOptions

__all__ = ["localize", "register"]


def localize(
    call: Call,
    config: LocalizeOptions,
    sources: AlignedProfiles,
) -> None:
    """Predict labels such as protein localisation from embeddings; whole proteins are kept apart."""
    from rich.markup import escape

    from emvfm.provenance import sha256_file
    from emvfm.studies.localize.grid import localize as run
    from emvfm.studies.localize.panels import panels
    from emvfm.studies.localize.pictures import pictures
    from emvfm.studies.localize.results import floor, level_table, remarks, run_table, tables

    found = run(sources, config, call.workspace, console=call.console)
    digests = {one.name: one.digest for one in found.runs}
    digests |= {str(p): sha256_file(p) for p in (config.label_table, *config.label_map) if p and p.is_file()}
    files: dict[str, bytes | str] = {**tables(found), **pictures(found)}
    shown = panels(found, call.workspace, config.panels, config.seed)
    if shown is not None:
        files["figures/panels.png"] = shown
    levels = level_table(found)
    finish(
        call, "localize", config, digests, {**found.to_json(), "floor": floor(found)}, files,
        run_table(found), "", *([] if levels is None else [levels, ""]), *(escape(f"• {line}") for line in remarks(found)),
        detail=f"best {found.best.name}" if len(found.runs) > 1 else found.runs[0].label,
    )  # fmt: skip


def register(bench: typer.Typer) -> None:
    command(bench, "localize", LocalizeOptions, panels=PANELS)(localize)
