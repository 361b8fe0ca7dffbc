"""``emvfm bench expression``: gene expression predicted from tiles, beside what any backbone must beat."""

from __future__ import annotations

from typing import Annotated

import typer

from emvfm.cli.bench.run import finish
from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.studies.expression.options import PANELS, ExpressionOptions

__all__ = ["expression", "register"]


def expression(
    call: Call,
    config: ExpressionOptions,
    dataset: Annotated[
        str,
        typer.Argument(
            help="Dataset of tiles (data compose --spots), or a table of positions where there are no images.",
            autocompletion=complete_dataset,
        ),
    ],
) -> None:
    """Predict gene expression from tile embeddings; whole sections or patients are left out."""
    from rich.markup import escape

    from emvfm.studies.expression.results import files_of, provenance_of, remarks_of, table_of
    from emvfm.studies.expression.study import run_study

    study = run_study(dataset, config, call.workspace, console=call.console)
    remarks = remarks_of(study)
    detail = f"{study.question.name}; {len(study.spots)} spots, {len(study.folds)} folds by {study.group}"
    finish(
        call, "expression", config, provenance_of(study), {**study.to_json(), "remarks": remarks}, files_of(study),
        table_of(study), "", *(f"• {escape(line)}" for line in remarks), detail=detail,
    )  # fmt: skip


def register(bench: typer.Typer) -> None:
    command(bench, "expression", ExpressionOptions, panels=PANELS)(expression)
