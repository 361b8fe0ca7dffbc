"""``emvfm study``: a grid of runs with a question, from one file: run, status, summarize, plot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from emvfm.cli.command import Call, command
from emvfm.studies.grid.options import StudyOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from emvfm.studies.grid.costs import CostEstimate
    from emvfm.studies.grid.materials import Weights
    from emvfm.studies.grid.plan import PlannedRun
    from emvfm.studies.grid.runner import Opened

__all__ = ["register"]

_File = Annotated[Path, typer.Argument(help="The study's YAML file.", show_default=False)]
_MOST = 60  # runs of a plan that are listed; --json lists all


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column)
    return table


def _needed(runs: Sequence[PlannedRun], study: Opened) -> dict[str, Weights]:
    from emvfm.studies.grid.materials import weights_of

    found = {}
    for run in runs:
        weights = weights_of(run.config, study.options.weights_from, study.workspace)
        if weights is not None:
            found[f"{weights.backbone} {run.config.weights or ''}"] = weights
    return found


def _where(weights: Weights) -> str:
    if weights.untrained:
        return "untrained on purpose"
    if weights.path is not None:
        return str(weights.path)
    return f"MISSING: {weights.page or 'no public place is known'}" + f" ({weights.licence})"


def _plan(call: Call, study: Opened) -> None:
    """Print what a study would do."""
    from rich.markup import escape

    from emvfm.studies.grid.answers import claim_text
    from emvfm.studies.grid.costs import estimate_runs
    from emvfm.studies.grid.materials import expected_sizes

    missing = study.missing
    with call.console.status("estimating"):
        sizes = expected_sizes(study.spec, study.workspace, study.options.data_from)
        costs = estimate_runs(missing, study.spec.tests, study.workspace, sizes)
    weights = _needed(missing, study)
    known = [each.seconds for each in costs.values() if each.seconds is not None]
    value = {
        "study": study.spec.name,
        "question": study.spec.question,
        "claim": claim_text(study.spec.rule),
        "places": len(study.plan.places),
        "runs": len(study.plan.runs),
        "missing": len(missing),
        "stores": study.plan.stores,
        "seconds": sum(known),
        "weights": [
            {"backbone": each.backbone, "there": each.there, "path": each.path, "page": each.page}
            for each in weights.values()
        ],
        "plan": [
            {
                "key": run.key, "labels": dict(run.labels), "seed": run.config.seed, "store": run.store,
                "data": run.config.data, "done": run.key not in costs,
                "seconds": costs[run.key].seconds if run.key in costs else None,
                "estimate": costs[run.key].source if run.key in costs else None,
            }
            for run in study.plan.runs
        ],
    }  # fmt: skip
    needed = _table("weights", "where")
    for each in weights.values():
        needed.add_row(each.backbone, escape(_where(each)))
    lost = sum(not each.there for each in weights.values())
    distinct = len(study.plan.runs)
    call.result(
        value,
        f"[bold]{escape(study.spec.name)}[/]: {escape(study.spec.question)}",
        escape(claim_text(study.spec.rule)),
        "",
        _runs_table(study, costs),
        "",
        needed,
        "",
        f"{len(study.plan.places)} places of the grid, {distinct} runs, {len(missing)} of them missing; "
        f"they share the embeddings of {study.plan.stores} stores; at most about {_duration(sum(known))} on this machine"
        + (f"; [bold]{lost} of {len(weights)} weights are missing[/]" if lost else ""),
    )


def _runs_table(study: Opened, costs: Mapping[str, CostEstimate]) -> Any:
    table = _table("#", *study.spec.axes, "seed", "store", "state", "estimate", "from")
    for n, run in enumerate(study.plan.runs[:_MOST], start=1):
        cost = costs.get(run.key)
        state = "done" if cost is None else "missing"
        estimate = ("", "") if cost is None else (_duration(cost.seconds), cost.source)
        labels = run.labels.values()
        table.add_row(str(n), *labels, str(run.config.seed), run.store[:6], state, *estimate)
    if len(study.plan.runs) > _MOST:
        table.add_row("…", f"and {len(study.plan.runs) - _MOST} more (--json lists all)")
    return table


def _closing(study: Opened) -> dict[str, Any]:
    """Return what stands at the end of a run: how far it is, and what failed."""
    last = {run.key: study.folder.last(run) for run in study.missing}
    failed = [each for each in last.values() if each is not None and each.state == "failed"]
    return {
        "study": study.spec.name,
        "folder": str(study.folder.path),
        "runs": len(study.plan.runs),
        "finished": len(study.plan.runs) - len(last),
        "failed": [{"run": each.name, "error": each.error} for each in failed],
    }


def _register_run(study: typer.Typer) -> None:
    @command(study, "run", StudyOptions)
    def run(
        call: Call,
        config: StudyOptions,
        file: _File,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Only print the plan, its weights and its cost.")
        ] = False,
    ) -> None:
        """Run what is missing of a study; resumes by itself, and several calls at once share the work."""
        from rich.markup import escape

        from emvfm.studies.grid.runner import open_study, run_study

        if dry_run:
            _plan(call, open_study(file, call.workspace, config))
            return
        console = call.console
        done = run_study(
            file, call.workspace, config,
            say=lambda progress: console.print(escape(progress.line)),
            console=console if console.is_terminal else None,
        )  # fmt: skip
        value = _closing(done)
        text = f"{value['finished']} of {value['runs']} runs are finished, {len(value['failed'])} failed"
        next_ = f"next: emvfm report {file}" + (" --stand-in" if config.stand_in else "")
        call.result(value, escape(text), escape(value["folder"]), escape(next_))
        if value["failed"]:
            raise typer.Exit(1)


def _register_status(study: typer.Typer) -> None:
    @command(study, "status", StudyOptions)
    def status(
        call: Call,
        config: StudyOptions,
        file: _File,
        watch: Annotated[bool, typer.Option("--watch", help="Stay, and look every two seconds.")] = False,
    ) -> None:
        """Say which runs of a study are finished, at work, failed, or waiting."""
        import time

        from emvfm.studies.grid.runner import open_study

        opened = open_study(file, call.workspace, config)
        if watch and not call.json:
            from rich.console import Console
            from rich.live import Live

            with Live(console=Console(highlight=False), refresh_per_second=1) as live:
                while True:
                    value = _state(opened)
                    live.update(_state_table(value))
                    if not value["counts"]["waiting"] and not value["counts"]["at work"]:
                        return
                    time.sleep(2)
        value = _state(opened)
        call.result(value, _state_table(value), _count_text(value))


def _state(study: Opened) -> dict[str, Any]:
    states = []
    for run in study.plan.runs:
        record, last = study.folder.record(run, study.spec), study.folder.last(run)
        state, note = "waiting", ""
        if record is not None:
            state, note = "finished", f"{record.run}"
        elif study.folder.claimed(run):
            state = "at work"
        elif last is not None and last.state == "failed":
            state, note = "failed", last.error or ""
        seconds = None if record is None else record.seconds
        states.append({"run": run.name, "key": run.key, "state": state, "note": note, "seconds": seconds})
    kinds = ("finished", "at work", "failed", "waiting")
    counts = {kind: sum(each["state"] == kind for each in states) for kind in kinds}
    return {"study": study.spec.name, "counts": counts, "runs": states}


def _count_text(value: dict[str, Any]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in value["counts"].items() if n)


def _state_table(value: dict[str, Any]) -> Any:
    from rich.markup import escape

    table = _table("run", "state", "seconds", "")
    colours = {"finished": "green", "at work": "cyan", "failed": "red", "waiting": "dim"}
    for each in value["runs"]:
        seconds = "" if each["seconds"] is None else f"{each['seconds']:.0f}"
        colour = colours[each["state"]]
        table.add_row(escape(each["run"]), f"[{colour}]{each['state']}[/]", seconds, escape(each["note"]))
    return table


def _register_summarize(study: typer.Typer) -> None:
    @command(study, "summarize", StudyOptions)
    def summarize(
        call: Call,
        config: StudyOptions,
        file: _File,
        preset: Annotated[
            Literal["reference"] | None,
            typer.Option(help="reference: run_metrics.csv and summary.csv with the reference's columns."),
        ] = None,
        to: Annotated[Path | None, typer.Option(help="Folder for the tables, else the study's own.")] = None,
    ) -> None:
        """Answer the question, and write the tables as CSV, Markdown and LaTeX."""
        from rich.markup import escape

        from emvfm.segmentation.evaluation_files import csv_text
        from emvfm.studies.grid.answers import answer, claim_text, detail, sentence
        from emvfm.studies.grid.exports import reference_runs, reference_summary, summary_files
        from emvfm.studies.grid.results import gather
        from emvfm.studies.grid.summary import summary_of
        from emvfm.workspace import write_json, write_text

        opened = _opened(file, call, config)
        rows = gather(opened)
        summary = summary_of(opened, rows)
        said = [opened.spec.question, claim_text(opened.spec.rule), answer(summary)]
        folder = to or opened.folder.path / "tables"
        if preset == "reference":
            runs = reference_runs(rows)
            tables = {"run_metrics.csv": runs, "summary.csv": reference_summary(runs)}
            files = {name: csv_text(table, list(table[0])) for name, table in tables.items()}
            write_json(folder / "summary.json", tables["summary.csv"])
        else:
            files = summary_files(rows, summary, said)
        for name, text in files.items():
            write_text(folder / name, text)
        value = {"folder": str(folder), "answer": said[-1], **summary.to_json()}
        lines = [
            f"{sentence(summary.rule, c)}; {detail(c)}; p = {c.p_corrected:.2g} (Holm)"
            for c in summary.compared
        ]
        call.result(
            value, *map(escape, said), *(f"[dim]•[/] {escape(line)}" for line in lines),
            "", _arms_table(summary), f"[dim]{escape(str(folder))}: {', '.join(files)}[/]",
        )  # fmt: skip


def _opened(file: Path, call: Call, config: StudyOptions) -> Opened:
    from emvfm.studies.grid.runner import open_study

    return open_study(file, call.workspace, replace(config, jobs=1))


def _arms_table(summary: Any) -> Any:
    from emvfm.studies.grid.answers import number

    arms = summary.arms
    table = _table(*arms[0].labels, "test", summary.metric, "± over seeds (ddof 1)", "interval", "seeds")
    for arm in arms:
        sd, both = arm.over_seeds.sd, arm.over_both
        spread = "–" if sd is None else number(sd)
        ends = "–" if both.low is None else f"{number(both.low)} to {number(both.high)}"
        mean = number(arm.over_seeds.mean)
        table.add_row(*arm.labels.values(), arm.test, mean, spread, ends, str(arm.over_seeds.n))
    return table


def _register_plot(study: typer.Typer) -> None:
    @command(study, "plot", StudyOptions)
    def plot(
        call: Call,
        config: StudyOptions,
        file: _File,
        to: Annotated[Path | None, typer.Option(help="Folder for the figures, else the study's own.")] = None,
    ) -> None:
        """Draw bars with intervals, seeds in pairs, the trend, the train × test matrix, learning curves."""
        from rich.markup import escape

        from emvfm.studies.grid.pictures import draw_study
        from emvfm.workspace import write_bytes

        opened = _opened(file, call, config)
        folder = to or opened.folder.path / "figures"
        pictures = draw_study(opened)
        for picture in pictures:
            write_bytes(folder / picture.file, picture.png)
        value = {"folder": str(folder), "figures": [picture.file for picture in pictures]}
        call.result(value, *(escape(f"{p.file}: {p.caption}") for p in pictures), escape(str(folder)))


def register(app: typer.Typer) -> None:
    study = typer.Typer(
        help="Grids of runs with a question, from one file: planned, run, summed up.", no_args_is_help=True
    )
    for add in (_register_run, _register_status, _register_summarize, _register_plot):
        add(study)
    app.add_typer(study, name="study")
