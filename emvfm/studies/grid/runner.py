"""Carrying a study out: what is missing is run, by one process or several, and survives their death."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from emvfm.datasets.catalog import parse_reference
from emvfm.errors import UsageError
from emvfm.segmentation.evaluation import Panel, evaluate
from emvfm.segmentation.runs import RunFolder
from emvfm.segmentation.training import train
from emvfm.studies.grid.materials import needs_force, prepare_data, with_weights
from emvfm.studies.grid.options import StudyOptions
from emvfm.studies.grid.plan import Plan, PlannedRun, make_plan, restricted
from emvfm.studies.grid.reading import load_study
from emvfm.studies.grid.records import Record, StudyFolder
from emvfm.studies.grid.spec import StudySpec
from emvfm.studies.grid.standing_in import stand_in, stand_in_workspace, write_phantoms
from emvfm.workspace import Workspace

__all__ = ["Opened", "Progress", "open_study", "run_study"]

_PAUSE = 0.5  # seconds, while all that is left is in other hands


@dataclass(frozen=True)
class Opened:
    """A study ready to be carried out or summed up.

    Parameters
    ----------
    plan
        Of the runs that ``--only`` leaves.
    whole
        The plan of the whole study.
    """

    spec: StudySpec
    plan: Plan
    whole: Plan
    folder: StudyFolder
    workspace: Workspace
    options: StudyOptions

    @property
    def missing(self) -> list[PlannedRun]:
        """Runs that have no finished record."""
        return [run for run in self.plan.runs if self.folder.record(run, self.spec) is None]


@dataclass(frozen=True)
class Progress:
    """A run that has just ended, with how many are done of how many."""

    record: Record
    scores: dict[str, float]
    done: int
    total: int

    @property
    def line(self) -> str:
        """The one line that is said of it."""
        head = f"[{self.done}/{self.total}] {self.record.name}"
        if self.record.error:
            return f"{head}: failed: {self.record.error}"
        scores = ", ".join(f"{value:.3f} on {test}" for test, value in self.scores.items())
        return f"{head}: IoU {scores} in {self.record.seconds:.0f} s"


def open_study(path: Path, workspace: Workspace, options: StudyOptions) -> Opened:
    """Read a study and plan it; nothing is written.

    Raises
    ------
    MissingError, UsageError
        See `load_study`, `make_plan` and `restricted`.
    """
    spec = load_study(path)
    if options.stand_in:
        workspace = stand_in_workspace(workspace)
        spec = stand_in(spec, workspace.downloads)
    whole = make_plan(spec)
    plan = restricted(whole, options.only) if options.only else whole
    return Opened(spec, plan, whole, StudyFolder.of(spec, workspace), workspace, options)


def run_study(
    path: Path,
    workspace: Workspace,
    options: StudyOptions,
    *,
    say: Callable[[Progress], None] = lambda _: None,
    console: Any = None,
) -> Opened:
    """Run what is missing of a study; call it again, or at the same time elsewhere, and it goes on from there.

    A run that fails is recorded with its error, and tried again by the next call.

    Raises
    ------
    MissingError, RefusedError, UsageError
        The study can't begin; see `open_study` and `prepare_data`. What fails later is in the records.
    """
    study = open_study(path, workspace, options)
    if options.stand_in:
        write_phantoms(study.workspace.downloads)
    study.folder.register(study.spec, study.whole)
    needed = {parse_reference(name)[0] for run in study.plan.runs for name in run.config.data}
    needed |= {parse_reference(name)[0] for name in study.spec.tests}
    prepare_data(study.spec, study.workspace, options.data_from, needed=needed, console=console)
    if options.jobs == 1:
        _work(study, say, console, parent=None)
        return study
    context = multiprocessing.get_context("spawn")
    cores = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // options.jobs))
    results: Any = context.Queue()
    arguments = (path, workspace.root, replace(options, jobs=1), os.getpid(), results)
    workers = [context.Process(target=_worker, args=arguments) for _ in range(options.jobs)]
    try:
        for worker in workers:
            worker.start()
        _listen(workers, results, say)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
        os.environ.pop("OMP_NUM_THREADS") if cores is None else os.environ.update(OMP_NUM_THREADS=cores)
    return study


def _listen(workers: Sequence[Any], results: Any, say: Callable[[Progress], None]) -> None:
    from queue import Empty

    while True:
        alive = any(worker.is_alive() for worker in workers)
        try:
            say(results.get(timeout=_PAUSE))
        except Empty:
            if not alive:
                return


def _worker(path: Path, root: Path, options: StudyOptions, parent: int, results: Any) -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    _work(open_study(path, Workspace(root), options), results.put, None, parent)


def _work(study: Opened, say: Callable[[Progress], None], console: Any, parent: int | None) -> None:
    """Go through what is missing until nothing is, leaving to others what they have claimed."""
    began = time.time()
    given_up: set[str] = set()
    while pending := [run for run in study.missing if run.key not in given_up]:
        moved = False
        for run in pending:
            if parent is not None and os.getppid() != parent:
                return  # whoever started this is gone: nobody waits for more
            last = study.folder.last(run)
            if last is not None and last.state == "failed" and last.at >= began:
                given_up.add(run.key)  # another process has just seen it fail
                continue
            keys = [run.key] if run.start is None else [run.key, run.start]
            with study.folder.claim(keys) as mine:
                if mine and study.folder.record(run, study.spec) is None:
                    progress = _carry_out(study, run, console)
                    if progress is None:
                        continue
                    say(progress)
                    moved = True
                    if progress.record.state == "failed":
                        given_up.add(run.key)
        if not moved:
            time.sleep(_PAUSE)


def _carry_out(study: Opened, run: PlannedRun, console: Any) -> Progress | None:
    """Train and score one run and write its record; None if somebody trains that very run outside the study."""
    spec, workspace, start = study.spec, study.workspace, time.perf_counter()
    folder: RunFolder | None = None
    error, scores = None, {}
    try:
        config = with_weights(run.config, study.options.weights_from, workspace)
        force = needs_force(spec, config.data)
        draw = None if study.options.stand_in else _curve
        folder = train(config, workspace, force=force, draw=draw, console=console)
        scoring = replace(spec.evaluate, data=spec.tests)
        sides = [place for compared in spec.rule.compare for place in (compared.first, compared.second)]
        sides = sides[:1] if study.options.stand_in else sides
        named = any(place.items() <= run.labels.items() for place in sides)
        shown = named and run.config.seed == spec.seeds[0]
        cells = evaluate(
            [folder.path], scoring, workspace, draw=_overlays if shown else None, console=console
        )
        scores = {cell.test.removesuffix(":test"): cell.iou.value for cell in cells}
    except Exception as problem:  # whatever it is, the other runs go on
        if isinstance(problem, UsageError) and isinstance(problem.__context__, Timeout):
            return None
        error = " ".join(str(problem).split()) or type(problem).__name__
    record = study.folder.keep(
        run, spec, folder=None if error or folder is None else folder.path.name, error=error,
        seconds=time.perf_counter() - start,
    )  # fmt: skip
    left = len(study.missing)
    return Progress(record, scores, len(study.plan.runs) - left, len(study.plan.runs))


def _curve(*arguments: Any) -> bytes:
    from emvfm.report.training_figures import learning_curve

    return learning_curve(*arguments)


def _overlays(panels: Sequence[Panel]) -> bytes:
    from emvfm.report.figures import overlay_grid

    return overlay_grid(panels, len(panels))
