"""``emvfm eval``: runs × test sets at native resolution."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_run
from emvfm.segmentation.config import EvalConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emvfm.segmentation.evaluation import Cell, Panel
    from emvfm.segmentation.metrics import Estimate

__all__ = ["register"]


def _text(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _tables(cells: list[Cell]) -> list[object]:
    from rich.table import Table

    tests = list(dict.fromkeys(cell.test for cell in cells))
    table = Table(box=None, padding=(0, 2, 0, 0), title="foreground IoU, pooled", title_justify="left")
    for column in ("trained on", "adaptation", "seed", *tests):
        table.add_column(column)
    for run in dict.fromkeys(cell.run for cell in cells):
        row = {cell.test: cell for cell in cells if cell.run == run}
        first = next(iter(row.values()))
        table.add_row(first.train, first.adaptation, str(first.seed), *(_text(row[t].iou) for t in tests))
    first = cells[0]
    notes = [
        "backbone: " + "; ".join(dict.fromkeys(cell.backbone for cell in cells)),
        f"[dim]brackets: {first.iou.level:.0%} {first.iou.method}[/]",
    ]
    several = [cell for cell in cells if len(cell.per_source) > 1]
    for cell in several:
        parts = ", ".join(f"{name} {_text(e)}" for name, e in cell.per_source.items())
        notes.append(f"{cell.run} on {cell.test}: {parts}; mean of sources {cell.macro:.3f}")
    return [table, *notes]


def _draw(panels: Sequence[Panel]) -> bytes:
    from emvfm.report.figures import overlay_grid

    return overlay_grid(panels, len(panels))


def register(app: typer.Typer) -> None:
    @command(app, "eval", EvalConfig)
    def evaluate(
        call: Call,
        config: EvalConfig,
        runs: Annotated[
            list[str], typer.Argument(help="Runs, by name or folder.", autocompletion=complete_run)
        ],
        out: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
        overlays: Annotated[
            bool, typer.Option(help="Draw the worst, median and best slice of each cell.")
        ] = True,
    ) -> None:
        """Score runs on test sets: the train × test matrix, at native resolution, with intervals."""
        from emvfm.segmentation.evaluation import PROTOCOL
        from emvfm.segmentation.evaluation import evaluate as evaluate_runs
        from emvfm.workspace import write_json

        folders = [call.workspace.find_run(name) for name in runs]
        draw = _draw if overlays else None
        cells = evaluate_runs(folders, config, call.workspace, draw=draw, console=call.console)
        result = {"protocol": PROTOCOL, "results": [cell.to_json() for cell in cells]}
        if out is not None:
            write_json(out, result)
        call.result(result, *_tables(cells))
