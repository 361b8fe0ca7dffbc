"""What a report says of runs that belong to no study: their scores, curves and overlays, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emvfm.errors import UsageError
from emvfm.provenance import environment
from emvfm.report.figures import iou_matrix
from emvfm.report.study_figures import Curve, learning_curves
from emvfm.report.study_page import Figure, StudyPage, Table, render_study
from emvfm.segmentation.cells import Cell
from emvfm.segmentation.evaluation_files import file_name
from emvfm.segmentation.history import read_steps
from emvfm.segmentation.runs import RunFolder
from emvfm.studies.grid.answers import number
from emvfm.studies.grid.reports import interval_cell, jpeg

__all__ = ["run_report"]

_MOST_OVERLAYS = 8


def run_report(folders: Sequence[Path], *, overlays: bool = True) -> str:
    """Return the page of runs as HTML, with all test sets that they were scored on.

    Parameters
    ----------
    overlays
        Show images of the data with what was found in them.

    Raises
    ------
    UsageError
        None of the runs was scored.
    """
    runs = [RunFolder(folder) for folder in folders]
    cells = {
        run.path.name: {k: Cell.from_json(v) for k, v in run.metrics.get("eval", {}).items()} for run in runs
    }
    if not any(cells.values()):
        raise UsageError("no scores to report", where=runs[0].path.name, todo="score it with `emvfm eval`")
    listed = [(run, key, cell) for run in runs for key, cell in cells[run.path.name].items()]
    best = max(listed, key=lambda each: each[2].iou.value)[2]
    many = len(listed) > 1
    answer = (
        f"{'The highest score is' if many else 'It scores'} {number(best.iou.value)} foreground IoU on {best.test}"
        + (f", {best.iou.level:.0%} interval ".replace("%", " %") + f"{number(best.iou.low)} to {number(best.iou.high)}"
           if best.iou.low is not None and best.iou.high is not None else "")
        + f", by {best.adaptation} trained on {best.train}."
    )  # fmt: skip
    page = StudyPage(
        title="Runs" if len(runs) > 1 else runs[0].path.name,
        question=f"Foreground of {', '.join(dict.fromkeys(cell.test for _, _, cell in listed))}",
        answer=answer,
        tone="plain",
        claim="These runs belong to no study: no question and no rule were stated before they ran, so that "
        "differences between them are observations. `emvfm study` settles questions.",
        numbers={
            "runs": len(runs),
            "scores": len(listed),
            "seeds": len({cell.seed for _, _, cell in listed}),
        },
        arms=None,
        runs=_table(listed),
        figures=_figures(runs, cells),
        overlays=_overlays(listed) if overlays else (),
        data=_data(runs),
        weights=Table(
            ["backbone", "digest of the weights"],
            sorted({(r.provenance["backbone"], r.provenance["weights"] or "none") for r in runs}),
        ),
        commands=[
            [f"repeat {run.path.name}", f"emvfm train --config {run.path / 'config.yaml'}"] for run in runs
        ],
        provenance={"page": environment(), "runs": {run.path.name: run.provenance for run in runs}},
    )
    return render_study(page)


def _table(listed: Sequence[tuple[RunFolder, str, Cell]]) -> Table:
    columns = [
        "trained on",
        "adaptation",
        "head",
        "seed",
        "test",
        "slices",
        "IoU",
        "Dice",
        "steps",
        "seconds",
        "run",
    ]
    rows = []
    for run, key, cell in listed:
        trained: dict[str, Any] = run.metrics.get("train", {})
        scores = [interval_cell(e.value, e.low, e.high) for e in (cell.iou, cell.dice)]
        rows.append([
            cell.train, cell.adaptation, cell.head, cell.seed, key, len(cell.images), *scores,
            trained.get("steps"), trained.get("seconds"), run.path.name,
        ])  # fmt: skip
    return Table(columns, rows)


def _data(runs: Sequence[RunFolder]) -> Table:
    seen = {
        (d["name"], d["digest"][:12], d["audit"] or "none") for run in runs for d in run.provenance["data"]
    }
    return Table(["dataset", "digest", "audit"], sorted(seen))


def _figures(runs: Sequence[RunFolder], cells: dict[str, dict[str, Cell]]) -> list[Figure]:
    import numpy as np

    tests = list(dict.fromkeys(key for own in cells.values() for key in own))
    values = np.full((3, len(runs), len(tests)), np.nan)
    for i, run in enumerate(runs):
        for key, cell in cells[run.path.name].items():
            ends = [np.nan if end is None else end for end in (cell.iou.low, cell.iou.high)]
            values[:, i, tests.index(key)] = (cell.iou.value, *ends)
    names = [f"{i + 1}: {_name(cells[run.path.name], run)}" for i, run in enumerate(runs)]
    found = [
        Figure(
            iou_matrix(values[0], names, tests, values[1], values[2]),
            "Foreground IoU of each run, with intervals.",
        )
    ]
    curves = []
    for name, run in zip(names, runs, strict=True):
        steps = read_steps(run.steps_path)
        judged = [(row["step"], row["val_iou"]) for row in run.history() if row.get("val_iou") is not None]
        curves.append(Curve(name, [s.step for s in steps], [s.loss for s in steps], judged))
    if any(len(curve.steps) for curve in curves):
        found.append(Figure(learning_curves(curves), "Loss of every run over its steps."))
    return found


def _name(own: dict[str, Cell], run: RunFolder) -> str:
    if not own:
        return run.path.name
    cell = next(iter(own.values()))
    return f"{cell.train}, {cell.adaptation}, seed {cell.seed}"


def _overlays(listed: Sequence[tuple[RunFolder, str, Cell]]) -> list[Figure]:
    found: list[Figure] = []
    for run, key, cell in listed:
        path = run.path / "figures" / f"{file_name(key)}.png"
        if path.is_file() and len(found) < _MOST_OVERLAYS:
            found.append(Figure(jpeg(path), f"{cell.train}, {cell.adaptation}, seed {cell.seed}, on {key}."))
    return found
