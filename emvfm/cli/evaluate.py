"""``emvfm eval``: runs × test sets at native resolution."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_run
from emvfm.segmentation.evaluation_options import EvalConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emvfm.segmentation.cells import Cell
    from emvfm.segmentation.evaluation import Panel
    from emvfm.segmentation.intervals import Estimate
    from emvfm.segmentation.seeds import Difference, RecipeScore

__all__ = ["register"]

#: Name of a score → title of its column, digits.
_BASIC = {
    "dice": ("Dice", 3),
    "iou_per_image": ("IoU per image", 3),
    "average_precision": ("average precision", 3),
    "calibration_error": ("calibration error", 4),
    "brier": ("Brier", 4),
    "iou_resized": ("IoU resized", 3),
}
_FULL = {
    "boundary_f1": ("boundary F1", 3),
    "hd95_px": ("HD95 px", 1),
    "hd95_nm": ("HD95 nm", 0),
    "assd_nm": ("ASSD nm", 1),
    "pq": ("PQ", 3),
    "ap50": ("AP50", 3),
    "ap75": ("AP75", 3),
    "count_error": ("count error", 3),
}
#: Shown with their intervals; those of the others would not fit on a line and are in the JSON.
_BRACKETED = ("dice", "iou_per_image")
_WORST = 5


def _text(estimate: Estimate, digits: int = 3) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _new_table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def _matrix(cells: Sequence[Cell]) -> Any:
    tests = list(dict.fromkeys(cell.test for cell in cells))
    table = _new_table("foreground IoU, pooled", "trained on", "adaptation", "seed", *tests)
    for run in dict.fromkeys(cell.run for cell in cells):
        row = {cell.test: cell for cell in cells if cell.run == run}
        first = next(iter(row.values()))
        table.add_row(first.train, first.adaptation, str(first.seed), *(_text(row[t].iou) for t in tests))
    return table


def _means(scores: Sequence[RecipeScore]) -> list[Any]:
    """Return a table of means over seeds, if there is a recipe with several."""
    if all(len(score.seeds) < 2 for score in scores):
        return []
    table = _new_table(
        "\nmean over seeds", "recipe", "seeds", "test", "foreground IoU", "± over seeds", "Dice"
    )
    for score in scores:
        spread = "–" if score.spread is None else f"{score.spread:.3f}"
        seeds = ", ".join(map(str, score.seeds))
        table.add_row(score.name, seeds, score.test, _text(score.iou), spread, _text(score.dice))
    return [table, f"[dim]brackets: {scores[0].iou.level:.0%}, {scores[0].iou.method}[/]"]


def _differences(found: Sequence[Difference]) -> list[Any]:
    if not found:
        return []
    columns = ("recipe", "test", "difference", "p", "p corrected")
    table = _new_table(f"\nforeground IoU minus that of: {found[0].second}", *columns)
    for each in found:
        numbers = (_text(each.difference), f"{each.p_value:.2g}", f"{each.p_corrected:.2g}")
        table.add_row(each.first, each.test, *numbers)
    methods = dict.fromkeys(each.method for each in found)
    return [table, *(f"[dim]p: {method}; corrected by Holm[/]" for method in methods)]


def _further(cells: Sequence[Cell], columns: dict[str, tuple[str, int]]) -> list[Any]:
    """Return a table with the scores of `columns` that any cell has, a row a cell."""
    rows = [{"dice": cell.dice, **cell.scores} for cell in cells]
    shown = {name: look for name, look in columns.items() if any(name in row for row in rows)}
    if not shown:
        return []
    titles = (title for title, _ in shown.values())
    table = _new_table("", "trained on", "adaptation", "seed", "test", *titles)
    for cell, row in zip(cells, rows, strict=True):
        texts = []
        for name, (_, digits) in shown.items():
            if name not in row:
                texts.append("–")
            elif name in _BRACKETED:
                texts.append(_text(row[name], digits))
            else:
                texts.append(f"{row[name].value:.{digits}f}")
        table.add_row(cell.train, cell.adaptation, str(cell.seed), cell.test, *texts)
    return [table]


def _notes(cells: Sequence[Cell]) -> list[str]:
    notes = [
        "backbone: " + "; ".join(dict.fromkeys(cell.backbone for cell in cells)),
        f"[dim]brackets: {cells[0].iou.level:.0%} {cells[0].iou.method}[/]",
    ]
    for cell in cells:
        if len(cell.per_source) > 1:
            parts = ", ".join(f"{name} {_text(e)}" for name, e in cell.per_source.items())
            notes.append(f"{cell.run} on {cell.test}: {parts}; mean of sources {cell.macro:.3f}")
    chosen = {cell.run: cell for cell in cells if cell.chosen_on is not None}
    notes += [f"{run}: threshold {c.threshold:.3f}, chosen on {c.chosen_on}" for run, c in chosen.items()]
    return notes


def _worst(cells: Sequence[Cell]) -> list[str]:
    lines = []
    for cell in cells:
        if len(cell.images) > _WORST:
            images = sorted(cell.images, key=lambda image: image.counts.iou)[:_WORST]
            listed = ", ".join(f"{image.id} {image.counts.iou:.2f}" for image in images)
            lines.append(f"[dim]worst slices of {cell.test} for {cell.run}:[/] {listed}")
    return lines


def _draw(panels: Sequence[Panel]) -> bytes:
    from emvfm.report.figures import overlay_grid

    return overlay_grid(panels, len(panels))


def _figures(
    cells: Sequence[Cell], means: Sequence[RecipeScore], found: Sequence[Difference]
) -> dict[str, bytes]:
    """Return file name → PNG; curves only of the first cells where more could not be told apart."""
    import numpy as np

    from emvfm.report.figures import iou_matrix
    from emvfm.report.segmentation_figures import MOST, differences, precision_recall, reliability

    shown = cells[:MOST]
    names = {(score.recipe, score.test): score.name for score in means}
    labels = [f"{names[cell.recipe, cell.test]}, seed {cell.seed}, on {cell.test}" for cell in shown]
    curves = [
        {"label": label, "area": cell.scores["average_precision"].value, "at": cell.threshold, **cell.curve}
        for label, cell in zip(labels, shown, strict=True)
    ]
    bins = [
        {"label": label, "rows": cell.reliability, "error": cell.scores["calibration_error"].value}
        for label, cell in zip(labels, shown, strict=True)
    ]
    rows, tests = (list(dict.fromkeys(getattr(s, key) for s in means)) for key in ("name", "test"))
    values = np.full((3, len(rows), len(tests)), np.nan)
    for score in means:
        ends = [np.nan if end is None else end for end in (score.iou.low, score.iou.high)]
        values[:, rows.index(score.name), tests.index(score.test)] = (score.iou.value, *ends)
    pictures = {
        "precision-recall.png": precision_recall(curves),
        "reliability.png": reliability(bins),
        "matrix.png": iou_matrix(values[0], rows, tests, values[1], values[2]),
    }
    if found:
        bars = [
            {
                "label": f"{each.first} on {each.test}",
                "value": each.difference.value,
                "low": each.difference.low,
                "high": each.difference.high,
                "note": f"p = {each.p_corrected:.2g}"
                + (", too few blocks" if "too few" in each.method else ""),
            }
            for each in found
        ]
        measure = f"foreground IoU minus that of: {found[0].second}"
        pictures["differences.png"] = differences(bars, measure)
    return pictures


def _slices(cells: Sequence[Cell]) -> str:
    """Return all slices of all cells as CSV, worst first within a cell."""
    from emvfm.segmentation.evaluation_files import csv_text

    rows = [
        {"run": cell.run, "test": cell.test, **image.to_json()}
        for cell in cells
        for image in sorted(cell.images, key=lambda image: image.counts.iou)
    ]
    return csv_text(rows, list(dict.fromkeys(name for row in rows for name in row)))


def _places(folders: Sequence[Path], overlays: bool, written: Sequence[Path | None]) -> list[str]:
    """Return where files are: those asked for, and what is kept with the runs."""
    from rich.markup import escape

    own = "evaluation/ (scores of each slice)"
    own += ", figures/ (worst, median and best slice)" if overlays else ""
    where = escape(folders[0].name) if len(folders) == 1 else "each run's folder"
    asked = [escape(str(path)) for path in written if path is not None]
    return [f"[dim]kept in {where}: {own}[/]", *([f"[dim]written: {', '.join(asked)}[/]"] if asked else [])]


def register(app: typer.Typer) -> None:
    @command(app, "eval", EvalConfig)
    def evaluate(
        call: Call,
        config: EvalConfig,
        runs: Annotated[
            list[str], typer.Argument(help="Runs, by name or folder.", autocompletion=complete_run)
        ],
        out: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
        table: Annotated[
            Path | None, typer.Option("--csv", help="Also write the scores of each slice to this file.")
        ] = None,
        figures: Annotated[
            Path | None, typer.Option(help="Draw matrix, precision-recall and reliability into this folder.")
        ] = None,
        overlays: Annotated[
            bool, typer.Option(help="Draw the worst, median and best slice of each cell.")
        ] = True,
        again: Annotated[bool, typer.Option("--again", help="Score anew what was scored before.")] = False,
    ) -> None:
        """Score runs on test sets: the train × test matrix, at native resolution, with intervals."""
        from emvfm.segmentation.evaluation import PROTOCOL
        from emvfm.segmentation.evaluation import evaluate as evaluate_runs
        from emvfm.segmentation.seeds import compare_recipes, mean_over_seeds
        from emvfm.workspace import write_bytes, write_json, write_text

        folders = [call.workspace.find_run(name) for name in runs]
        draw = _draw if overlays else None
        cells = evaluate_runs(folders, config, call.workspace, again=again, draw=draw, console=call.console)
        means, found = mean_over_seeds(cells, config), compare_recipes(cells, config)
        protocols = list(dict.fromkeys(cell.protocol for cell in cells))
        result = {
            "protocol": protocols[0]
            if len(protocols) == 1
            else f"{PROTOCOL}; thresholds differ, see each result",
            "results": [cell.to_json() for cell in cells],
            "means": [score.to_json() for score in means],
            "differences": [each.to_json() for each in found],
        }
        if out is not None:
            write_json(out, result)
        if table is not None:
            write_text(table, _slices(cells))
        for name, picture in (_figures(cells, means, found) if figures is not None else {}).items():
            assert figures is not None
            write_bytes(figures / name, picture)
        more = [
            *_further(cells, _BASIC),
            *(_further(cells, _FULL) if config.metrics == "full" else []),
        ]
        parts = [_matrix(cells), *_means(means), *more, *_differences(found)]
        places = _places(folders, overlays, (out, table, figures))
        call.result(result, *parts, *_notes(cells), *_worst(cells), *places)
