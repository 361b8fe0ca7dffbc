"""What happened at each step, on disk: a CSV that grows by a line a step and never repeats one."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TextIO

from emvfm.errors import CorruptError
from emvfm.workspace import write_text

__all__ = ["Step", "StepLog", "read_steps"]


@dataclass(frozen=True)
class Step:
    """One optimiser step.

    Attributes
    ----------
    epoch
        Crops drawn so far over slices in the training data.
    lr
        Learning rate of the head.
    seconds
        Since the training began, in steps alone.
    images_per_second
        Crops of this step over its seconds.
    """

    step: int
    epoch: float
    loss: float
    lr: float
    seconds: float
    images_per_second: float


_NAMES = [field.name for field in fields(Step)]


class StepLog:
    """Appends steps to a file; what lies beyond the step that a training resumes at is cut off first.

    Lines are written whole, so that a killed process leaves at most a torn last line, which is cut off too.
    """

    def __init__(self, path: Path, done: int) -> None:
        kept = []
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[1:-1]
            kept = [line for line in lines if _number(line) is not None and _number(line) <= done]  # type: ignore[operator]
        write_text(path, "\n".join([",".join(_NAMES), *kept]) + "\n")
        self._file: TextIO = path.open("a", encoding="utf-8", newline="")

    def __enter__(self) -> StepLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, step: Step) -> None:
        """Append one step."""
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(
            [value if isinstance(value, int) else f"{value:.6g}" for value in astuple(step)]
        )
        self._file.write(line.getvalue())
        self._file.flush()


def _number(line: str) -> int | None:
    first = line.split(",", 1)[0]
    return int(first) if first.isdigit() and line.count(",") == len(_NAMES) - 1 else None


def read_steps(path: Path) -> list[Step]:
    """Return the steps of a file of `StepLog`; none if it is not there.

    Raises
    ------
    CorruptError
        It is no such file.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                Step(int(row["step"]), *(float(row[name]) for name in _NAMES[1:]))
                for row in csv.DictReader(file)
            ]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError("not a log of steps", where=path, got=error) from None
