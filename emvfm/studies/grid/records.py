"""The folder of a study: what was asked before it ran, which runs are done, and who is at work on which.

::

    studies/<name>/
      study.yaml          the file as it was when the study first ran
      registration.json   question and rule at each time they were stated, with what was finished by then
      records/<key>.json  a run of the plan: finished with its folder, or failed with its error
      claims/<key>.lock   held by the process that works on it; the system frees it when that dies
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from emvfm.config import to_dict
from emvfm.provenance import digest
from emvfm.segmentation.runs import RunFolder
from emvfm.studies.grid.plan import Plan, PlannedRun
from emvfm.studies.grid.spec import StudySpec
from emvfm.workspace import Workspace, read_json, write_json, write_text

__all__ = ["Record", "StudyFolder", "registered_text", "scoring_digest"]


@dataclass(frozen=True)
class Record:
    """What became of one run.

    Parameters
    ----------
    run
        Name of its folder in the workspace, None if it failed.
    error
        Why it failed, in one line.
    scored
        Digest of the tests and of how they were scored.
    seconds
        That this study spent on it; next to nothing where the run was there already.
    at
        Seconds since 1970.
    """

    key: str
    name: str
    state: Literal["finished", "failed"]
    run: str | None
    error: str | None
    scored: str
    seconds: float
    at: float


def scoring_digest(spec: StudySpec) -> str:
    """Return what decides how runs are scored."""
    return digest({"tests": spec.tests, "options": to_dict(spec.evaluate)})[:12]


def registered_text(spec: StudySpec) -> dict[str, Any]:
    """Return what a study has to state before it runs."""
    return {"question": spec.question, "rule": asdict(spec.rule), "evaluate": to_dict(spec.evaluate)}


@dataclass(frozen=True)
class StudyFolder:
    """Reading and writing of one study's files."""

    path: Path
    workspace: Workspace

    @classmethod
    def of(cls, spec: StudySpec, workspace: Workspace) -> StudyFolder:
        """Return the folder of a study, whether it is there or not."""
        return cls(workspace.root / "studies" / spec.name, workspace)

    def register(self, spec: StudySpec, plan: Plan) -> None:
        """Write down question and rule; a change after the first run is kept beside what stood there before."""
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / ".register.lock"):
            known = self.registrations()
            stated = registered_text(spec)
            if known and known[-1]["stated"] == digest(stated):
                return
            finished = sum(self.record(run, spec) is not None for run in plan.runs)
            entry = {
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "stated": digest(stated),
                "finished_runs": finished,
                **stated,
            }
            if not known:
                write_text(self.path / "study.yaml", spec.text)
            write_json(self.path / "registration.json", [*known, entry])

    def registrations(self) -> list[dict[str, Any]]:
        path = self.path / "registration.json"
        return read_json(path) if path.is_file() else []

    def _record_path(self, key: str) -> Path:
        return self.path / "records" / f"{key}.json"

    def keep(
        self, run: PlannedRun, spec: StudySpec, *, folder: str | None, error: str | None, seconds: float
    ) -> Record:
        """Write what became of a run."""
        state: Literal["finished", "failed"] = "failed" if error else "finished"
        scored, seconds = scoring_digest(spec), round(seconds, 2)
        record = Record(run.key, run.name, state, folder, error, scored, seconds, time.time())
        write_json(self._record_path(run.key), asdict(record))
        return record

    def last(self, run: PlannedRun) -> Record | None:
        """Return the last record of a run, whatever it says."""
        path = self._record_path(run.key)
        if not path.is_file():
            return None
        value = read_json(path)
        return Record(**{field.name: value[field.name] for field in fields(Record)})

    def record(self, run: PlannedRun, spec: StudySpec) -> Record | None:
        """Return the record of a run that is finished, scored as the study says, and still there."""
        record = self.last(run)
        if record is None or record.state != "finished" or record.scored != scoring_digest(spec):
            return None
        assert record.run is not None
        return record if (self.workspace.runs / record.run / "metrics.json").is_file() else None

    def run(self, record: Record) -> RunFolder:
        """Return the folder of a finished run."""
        assert record.run is not None
        return RunFolder(self.workspace.runs / record.run)

    @contextmanager
    def claim(self, keys: Sequence[str]) -> Iterator[bool]:
        """Yield whether this process has all of `keys` to itself for as long as the block lasts.

        Claims are locks of the operating system: they end with the process, however it ends.
        """
        folder = self.path / "claims"
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                for key in sorted(set(keys)):
                    held.enter_context(FileLock(folder / f"{key}.lock", blocking=False))
            except Timeout:
                held.close()
                yield False
                return
            yield True

    def claimed(self, run: PlannedRun) -> bool:
        """Return whether some process is at work on a run."""
        if not (self.path / "claims" / f"{run.key}.lock").is_file():
            return False
        with self.claim([run.key]) as free:
            return not free
