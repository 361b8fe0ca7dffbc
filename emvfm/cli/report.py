"""``emvfm report``: a study, or runs, on one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_run

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @command(app, "report")
    def report(
        call: Call,
        what: Annotated[
            list[str],
            typer.Argument(
                metavar="STUDY|RUN…",
                help="A study's YAML file, or runs by name or folder.",
                autocompletion=complete_run,
            ),
        ],
        out: Annotated[
            Path | None, typer.Option(help="The HTML file, else report.html beside the results.")
        ] = None,
        overlays: Annotated[
            bool,
            typer.Option(help="Show images of the data; without, a page for where they may not be shown."),
        ] = True,
        stand_in: Annotated[
            bool, typer.Option("--stand-in", help="Of the study as it was run with --stand-in.")
        ] = False,
    ) -> None:
        """Write one HTML file that needs no network: the answer, tables, figures, overlays, provenance."""
        from rich.markup import escape

        from emvfm.errors import UsageError
        from emvfm.studies.grid.options import StudyOptions
        from emvfm.workspace import write_text

        studies = [name for name in what if name.endswith((".yaml", ".yml"))]
        if studies and len(what) > 1:
            raise UsageError("one study, or runs", where="STUDY|RUN", got=", ".join(what))
        if studies:
            from emvfm.studies.grid.reports import study_report
            from emvfm.studies.grid.runner import open_study

            study = open_study(Path(studies[0]), call.workspace, StudyOptions(stand_in=stand_in))
            page = study_report(study, Path(studies[0]), overlays=overlays)
            path = study.folder.path / "report.html"
        else:
            from emvfm.studies.grid.run_report import run_report

            folders = [call.workspace.find_run(name) for name in what]
            page, path = run_report(folders, overlays=overlays), folders[0] / "report.html"
        path = write_text(out or path, page)
        size = path.stat().st_size
        call.result({"report": str(path), "bytes": size}, escape(str(path)), f"[dim]{size / 1e6:.1f} MB[/]")
