"""What evaluation leaves in a run's folder, and how it knows that a result is there already.

::

    runs/<run>/
      metrics.json                            {"eval": {test set: scores}}
      evaluation/<test set>-slices.csv        one line a slice
      evaluation/<test set>-failures.csv      one line a missed or false object
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from emvfm.config import to_dict
from emvfm.datasets.manifest import Dataset
from emvfm.provenance import digest
from emvfm.segmentation.cells import Cell
from emvfm.segmentation.evaluation_options import EvalConfig
from emvfm.segmentation.failures import ObjectFailure
from emvfm.segmentation.runs import RunFolder
from emvfm.workspace import write_text

__all__ = ["csv_text", "file_name", "fingerprint_of", "keep_result", "recipe_of", "result_key"]

#: Raised when scores of the same options come out differently: what is kept is then made again.
_VERSION = 1


def recipe_of(run: RunFolder) -> str:
    """Return the digest of what decides the run's weights, but for its seed."""
    apart = ("seed", "device", "tensorboard")
    options = {key: value for key, value in to_dict(run.config).items() if key not in apart}
    data = [entry["digest"] for entry in run.provenance["data"]]
    return digest({"options": options, "data": data, "weights": run.provenance["weights"]})[:12]


def fingerprint_of(run: RunFolder, dataset: Dataset, config: EvalConfig) -> str:
    """Return the digest of all that decides the scores of a run on a test set."""
    options = {key: value for key, value in to_dict(config).items() if key != "data"}
    rows = [sample.id for sample in dataset.samples]
    parts = {"run": run.provenance["identity"], "data": dataset.digest, "rows": rows}
    return digest({**parts, "options": options, "version": _VERSION})


def result_key(test: str, config: EvalConfig) -> str:
    """Return the name of a result in ``metrics.json``: another way of predicting is another result."""
    ways = [] if config.threshold == 0.5 else [f"threshold {config.threshold}"]
    ways += [] if config.tta == "none" else [f"tta {config.tta}"]
    return f"{test} ({', '.join(ways)})" if ways else test


def file_name(key: str) -> str:
    """Return a result's name as the start of a file's."""
    plain = "".join("-" if c in ":/\\" else c for c in key if c not in "()").replace(", ", "-")
    return plain.replace(" ", "-").strip("-.")[-80:]


def csv_text(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Return a table with a line of names; None is an empty field."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def keep_result(run: RunFolder, key: str, cell: Cell, failures: Sequence[ObjectFailure] | None) -> None:
    """Write a result into the run's folder, in the place of one with the same key; None: objects weren't listed."""
    start = run.path / "evaluation" / file_name(key)
    rows = [image.to_json() for image in cell.images]
    write_text(start.with_name(f"{start.name}-slices.csv"), csv_text(rows, list(rows[0])))
    if failures is not None:
        names = [field.name for field in fields(ObjectFailure)]
        listed = csv_text([failure.to_json() for failure in failures], names)
        write_text(start.with_name(f"{start.name}-failures.csv"), listed)
    run.update_metrics("eval", {**run.metrics.get("eval", {}), key: cell.to_json()})
