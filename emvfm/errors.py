"""The errors a user can meet, each with the exit code of the command line.

An error is one line: what is wrong, where, what was found, what was expected, what to do next.
Every class also inherits the built-in a caller would expect to catch.
"""

from __future__ import annotations

__all__ = ["CorruptError", "EmvfmError", "MissingError", "RefusedError", "UsageError"]


class EmvfmError(Exception):
    """Something failed for a reason that can be told in one line (exit code 1).

    Parameters
    ----------
    what
        The problem, as a short clause without a full stop.
    where
        The file, option, dataset or shard it concerns.
    got, expected
        What was found there and what would have been right.
    todo
        The next action, as an imperative clause.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        todo: str | None = None,
    ) -> None:
        line = what if where is None else f"{where}: {what}"
        details = []
        if got is not None:
            details.append(f"got {got}")
        if expected is not None:
            details.append(f"expected {expected}")
        if details:
            line += " (" + ", ".join(details) + ")"
        if todo is not None:
            line += f"; {todo}"
        super().__init__(" ".join(line.split()))


class UsageError(EmvfmError, ValueError):
    """The call itself is wrong: an unknown option value, a bad configuration key (exit code 2)."""

    exit_code = 2


class MissingError(EmvfmError, FileNotFoundError):
    """Something named does not exist: data, weights, a run (exit code 3)."""

    exit_code = 3

    def __str__(self) -> str:  # OSError would print errno and file name instead of the message
        return str(self.args[0])


class RefusedError(EmvfmError, ValueError):
    """Data that would make a study wrong, refused by a check (exit code 4)."""

    exit_code = 4


class CorruptError(EmvfmError, ValueError):
    """A file is damaged or is not what its name says (exit code 1)."""
