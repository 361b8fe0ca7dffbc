"""A study in parts: what a command said is kept, and after some minutes the rest is left to the next call."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.study import Study
from emvfm.provenance import digest
from emvfm.workspace import read_json, write_json

__all__ = ["UNFINISHED", "StudyInParts"]

#: Exit code of a call that leaves something to the next one (EX_TEMPFAIL).
UNFINISHED = 75


@dataclass
class StudyInParts(Study):
    """A study whose commands run in this process, by the entry point a user has, each once.

    What they said is in ``answers/`` of the workspace; without that folder all are asked anew. A loaded torch serves all
    commands, which halves the time of small trainings.

    Attributes
    ----------
    minutes
        After so many no further command is begun.
    """

    minutes: float = float("inf")
    _start: float = field(default_factory=time.monotonic, repr=False)

    def call(self, *arguments: str, allowed: tuple[int, ...] = (0,)) -> tuple[int, dict[str, Any], str]:
        """Return exit code, JSON and stderr of a command, from its first run where there was one."""
        path = self.root / "answers" / f"{digest(list(arguments))[:20]}.json"
        if path.is_file():
            kept = read_json(path)
            folder = kept["said"].get("folder")
            if folder is None or Path(folder).is_dir():
                return kept["code"], kept["said"], kept["stderr"]
        if (time.monotonic() - self._start) / 60 > self.minutes:
            print(f"{self.minutes:g} minutes are over; the same command goes on", file=sys.stderr)
            raise SystemExit(UNFINISHED)
        code, said, stderr = self._ask(arguments, allowed)
        write_json(path, {"arguments": list(arguments), "code": code, "said": said, "stderr": stderr})
        return code, said, stderr

    def _ask(self, arguments: tuple[str, ...], allowed: tuple[int, ...]) -> tuple[int, dict[str, Any], str]:
        from typer.testing import CliRunner

        from emvfm.cli.app import app

        began = time.monotonic()
        done = CliRunner().invoke(app, [*arguments, "--root", str(self.root), "--json"])
        print(f"{time.monotonic() - began:.0f} s: {' '.join(arguments)[:150]}", file=sys.stderr, flush=True)
        if done.exit_code not in allowed:
            raise SystemExit(
                f"{' '.join(arguments)}: exit code {done.exit_code}\n{done.stderr or done.exception!r}"
            )
        return done.exit_code, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr.strip()
