"""What a study's finished runs scored, gathered by place of the grid and test set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emvfm.datasets.catalog import parse_reference
from emvfm.errors import UsageError
from emvfm.segmentation.cells import Cell
from emvfm.segmentation.evaluation_files import result_key
from emvfm.segmentation.metrics import Counts
from emvfm.segmentation.runs import RunFolder
from emvfm.studies.grid.runner import Opened

__all__ = ["Row", "gather", "test_name"]


@dataclass(frozen=True)
class Row:
    """One run at one place of the grid, on one test set."""

    labels: Mapping[str, str]
    seed: int
    test: str
    run: RunFolder
    cell: Cell

    @property
    def arm(self) -> tuple[str, ...]:
        """The place without its seed, in the order of the axes."""
        return tuple(self.labels.values())

    @property
    def counts(self) -> list[Counts]:
        return [image.counts for image in self.cell.images]

    def value(self, metric: str) -> float:
        """Return foreground IoU or Dice, pooled over slices."""
        return self.cell.iou.value if metric == "iou" else self.cell.dice.value


def test_name(reference: str) -> str:
    """Return a test of a study as evaluation names it."""
    return reference if parse_reference(reference)[1] else f"{reference}:test"


def gather(study: Opened) -> list[Row]:
    """Return the rows of what is finished, in the order of the grid.

    Raises
    ------
    UsageError
        Nothing is finished.
    """
    rows: list[Row] = []
    by_key = {run.key: run for run in study.plan.runs}
    kept: dict[str, dict[str, Cell]] = {}
    for place in study.plan.places:
        record = study.folder.record(by_key[place.key], study.spec)
        if record is None:
            continue
        run = study.folder.run(record)
        if place.key not in kept:
            scores = run.metrics["eval"]
            keys = {test: result_key(test_name(test), study.spec.evaluate) for test in study.spec.tests}
            kept[place.key] = {test: Cell.from_json(scores[key]) for test, key in keys.items()}
        rows += [Row(place.labels, place.seed, test, run, cell) for test, cell in kept[place.key].items()]
    if not rows:
        raise UsageError("no run is finished", where=study.spec.name, todo="start it with `emvfm study run`")
    return rows
