"""The runs behind docs/results.md: which there are, trained and scored by the command line as a user would do it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emvfm.datasets.manifest import load_dataset
from emvfm.segmentation.metrics import Counts, block_labels
from emvfm.workspace import write_json

__all__ = ["FOLDS", "TESTS", "WEIGHTS", "WRONG", "Row", "Study", "title"]

TESTS = ("lucchi", "vnc")
WRONG = "lucchi-textsorted"
WEIGHTS = "dinov2_vits14_imgfocus_fp16.safetensors"
FOLDS = (1, 2, 3, 4)  # the other test blocks of VNC; the dataset `vnc` has block 0

_TITLES = {
    ("lucchi",): "Lucchi",
    ("vnc",): "VNC",
    ("lucchi", "vnc"): "both",
    (WRONG, "vnc"): "both, Lucchi's masks sorted as text",
}


def title(data: Sequence[str]) -> str:
    """Return what a training set is called on the page."""
    return _TITLES.get(tuple(data), ", ".join(data))


@dataclass(frozen=True)
class Row:
    """One kind of training: on which data, what is trained, and on how many slices of each dataset at most.

    Attributes
    ----------
    kind
        A key of `Study.kinds`.
    """

    data: tuple[str, ...]
    kind: str
    slices: int | None = None


@dataclass
class Study:
    """Where data and workspace are, and how many processes train at a time.

    Attributes
    ----------
    kinds
        Options of ``emvfm train`` by what is trained.
    """

    shared: Path
    root: Path
    jobs: int
    kinds: dict[str, tuple[str, ...]]
    counts: dict[tuple[str, str], list[Counts]] = field(default_factory=dict)

    def call(self, *arguments: str, allowed: tuple[int, ...] = (0,)) -> tuple[int, dict[str, Any], str]:
        """Run one emvfm command; return its exit code, its JSON and what it said on stderr."""
        command = [sys.executable, "-m", "emvfm", *arguments, "--root", str(self.root), "--json"]
        environment = dict(os.environ)
        if self.jobs > 1:
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.jobs))
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode not in allowed:
            raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr.strip()

    @property
    def backbone(self) -> list[str]:
        return ["--backbone", "dinov2_vits14", "--weights", str(self.shared / "weights" / WEIGHTS)]

    def dataset(self, name: str) -> Path:
        return self.root / "datasets" / name

    def compose(self) -> str:
        """Make the datasets; return what the audit said when it refused the text-sorted one."""
        data = self.shared / "data"
        for name, folder in (("lucchi", "lucchi++"), ("vnc", "vnc")):
            if not (self.dataset(name) / "dataset.json").is_file():
                self.call("data", "compose", name, "--from", str(data / folder), "--val", "0")
        for fold in FOLDS:
            if not (self.dataset(f"vnc-fold{fold}") / "dataset.json").is_file():
                source = ["--from", str(data / "vnc"), "--val", "0", "--seed", str(fold)]
                self.call("data", "compose", f"vnc-fold{fold}", *source)
        wrong = ["data", "compose", WRONG, "--from", str(data / "lucchi++"), "--pairing", "text-sorted"]
        path = self.root / "refusal.json"
        if not (self.dataset(WRONG) / "dataset.json").is_file():
            _, _, refusal = self.call(*wrong, "--val", "0", allowed=(4,))
            self.call(*wrong, "--val", "0", "--force")
            write_json(path, {"said": refusal})
        return json.loads(path.read_text())["said"] if path.is_file() else "refused"

    def train(self, wanted: Sequence[tuple[Row, int]]) -> Iterator[tuple[Row, int, dict[str, Any]]]:
        """Train rows with seeds, some at a time; yield each with what the command said, in the order given."""

        def trained(row: Row, seed: int) -> dict[str, Any]:
            names = [part for name in row.data for part in ("--data", name)]
            backbone = [] if "--backbone" in self.kinds[row.kind] else self.backbone
            few = [] if row.slices is None else ["--slices", str(row.slices)]
            force = ["--force"] if WRONG in row.data else []
            options = [*backbone, *self.kinds[row.kind], *names, *few, *force]
            _, run, _ = self.call("train", *options, "--seed", str(seed))
            print(f"{run['run']}: {run['metrics']['seconds']:.0f} s", file=sys.stderr, flush=True)
            return run

        with ThreadPoolExecutor(self.jobs) as pool:
            waiting = [(row, seed, pool.submit(trained, row, seed)) for row, seed in wanted]
            for row, seed, future in waiting:
                yield row, seed, future.result()

    def score(self, runs: Sequence[str], tests: Sequence[str]) -> None:
        """Score runs on test sets, and keep the counts of each slice by run and test set."""
        names = [part for name in tests for part in ("--data", name)]
        with ThreadPoolExecutor(self.jobs) as pool:
            for _, result, _ in pool.map(lambda run: self.call("eval", run, *names), runs):
                for cell in result["results"]:
                    counts = [Counts(i["tp"], i["fp"], i["fn"], i["tn"]) for i in cell["images"]]
                    self.counts[cell["run"], cell["test"].split(":")[0]] = counts

    def blocks(self, name: str) -> list[int]:
        """Return the block of each test slice of a dataset."""
        samples = load_dataset(self.dataset(name)).split("test").annotated().samples
        return block_labels([s.volume for s in samples], [s.z for s in samples])
