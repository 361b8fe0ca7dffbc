"""Several folders of ``domain ood`` side by side; those of the reference system are read too."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.provenance import sha256_file
from emvfm.studies.outlier_options import OutlierCompareOptions
from emvfm.workspace import Workspace, read_json

__all__ = ["RunRow", "find_outlier_run", "read_runs"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RunRow:
    """One run against one set of outliers.

    Attributes
    ----------
    inside_rate, outside_rate
        Share of in-distribution (held-out, or fitted if `circular`) and of outlying images flagged.
    circular
        The threshold comes from the fitted images themselves, as in the reference.
    auroc, auroc_low, auroc_high, fpr95_out
        None where the run has no held-out images to compare with.
    inside_ratios, outside_ratios
        Scores over the threshold; empty where the threshold is not positive.
    """

    label: str
    folder: str
    backbone: str
    inside: str
    outside: str
    score: str
    layer: int | None
    n: tuple[int, int]
    threshold: float
    promised: float | None
    circular: bool
    inside_rate: float
    outside_rate: float
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None
    fpr95_out: float | None
    inside_ratios: Floats
    outside_ratios: Floats

    @property
    def median_ratio(self) -> float | None:
        """Median score of the outliers over the threshold."""
        return float(np.median(self.outside_ratios)) if len(self.outside_ratios) else None

    def to_json(self) -> dict[str, Any]:
        """Return all but the single scores as plain JSON values."""
        plain = asdict(self)
        plain.pop("inside_ratios")
        plain.pop("outside_ratios")
        return {**plain, "n": list(self.n), "median_ratio": self.median_ratio}


def find_outlier_run(workspace: Workspace, name: str) -> Path:
    """Return the folder of a run by path or (start of) name; a folder of the reference system has a summary.

    Raises
    ------
    MissingError
        There is no such folder, or nothing about outliers in it.
    """
    path = Path(name).expanduser()
    if (path / "summary.json").is_file() and (path / "distances.csv").is_file():
        return path.absolute()
    folder = workspace.find_run(name)
    if not (folder / "metrics.json").is_file() or "ood" not in folder.name:
        raise MissingError("not a result of `emvfm domain ood`", where=folder)
    return folder


def _table(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except FileNotFoundError:
        raise MissingError("no such file", where=path) from None


def _ratios(values: Sequence[float], threshold: float) -> Floats:
    return np.asarray(values, np.float64) / threshold if threshold > 0 else np.empty(0)


def _reference_row(folder: Path, summary: dict[str, Any], distances: Path, backbone: str) -> RunRow:
    threshold = float(summary["threshold"]["value"])
    rows = _table(distances)

    def own(dataset: str) -> Floats:
        return _ratios([float(row["distance"]) for row in rows if row["dataset"] == dataset], threshold)

    names = summary.get("names", ["id", "target"])
    return RunRow(
        label="",
        folder=str(folder),
        backbone=backbone,
        inside=names[0],
        outside=names[1],
        score="mahalanobis",
        layer=summary.get("layer"),
        n=(int(summary["num_id"]), int(summary["num_target"])),
        threshold=threshold,
        promised=None,
        circular=True,
        inside_rate=float(summary["id_outlier_rate"]),
        outside_rate=float(summary["target_outlier_rate"]),
        auroc=None,
        auroc_low=None,
        auroc_high=None,
        fpr95_out=None,
        inside_ratios=own("id"),
        outside_ratios=own("target"),
    )


def _study_rows(folder: Path, metrics: dict[str, Any], options: OutlierCompareOptions) -> list[RunRow]:
    wanted = (options.score, options.scale, metrics["layer"])
    results = [r for r in metrics["results"] if (r["score"], r["scale"], r["layer"]) == wanted]
    if not results:
        known = sorted({f"{r['score']} of {r['scale']}" for r in metrics["results"]})
        raise UsageError(
            "the run has no such score", where=folder.name, got=f"{wanted[0]} of {wanted[1]}",
            expected=", ".join(known),
        )  # fmt: skip
    (result,) = results
    key = tuple(str(part) for part in wanted)
    scores = [r for r in _table(folder / "scores.csv") if (r["score"], r["scale"], r["layer"]) == key]
    threshold = float(result["calibration"]["threshold"])
    held = [float(r["value"]) for r in scores if r["part"] == "test"]
    rows = []
    for outside, found in result["against"].items():
        values = [float(r["value"]) for r in scores if r["part"] == "outside" and r["dataset"] == outside]
        rows.append(
            RunRow(
                label="",
                folder=str(folder),
                backbone=metrics["backbone"],
                inside=result["inside"],
                outside=outside,
                score=options.score,
                layer=result["layer"],
                n=(found["n"][0], found["n"][1]),
                threshold=threshold,
                promised=result["calibration"]["promised"],
                circular=False,
                inside_rate=result["false_alarms"]["value"],
                outside_rate=found["flagged"]["value"],
                auroc=found["auroc"]["value"],
                auroc_low=found["auroc"]["low"],
                auroc_high=found["auroc"]["high"],
                fpr95_out=found["fpr95_out"]["value"],
                inside_ratios=_ratios(held, threshold),
                outside_ratios=_ratios(values, threshold),
            )
        )
    return rows


def _rows_of(folder: Path, options: OutlierCompareOptions) -> list[RunRow]:
    try:
        if not (folder / "metrics.json").is_file():
            return [_reference_row(folder, read_json(folder / "summary.json"), folder / "distances.csv", "")]
        metrics = read_json(folder / "metrics.json")
        if metrics.get("preset") == "reference":
            return [
                _reference_row(folder, result, folder / result["distances"], metrics["backbone"])
                for result in metrics["results"]
            ]
        if "ood_detection" in metrics:  # the reference keeps its other results in a file of this name
            return [_reference_row(folder, read_json(folder / "summary.json"), folder / "distances.csv", "")]
        return _study_rows(folder, metrics, options)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, UsageError | CorruptError):
            raise
        raise CorruptError("not a result of `emvfm domain ood`", where=folder, got=repr(error)) from None


def read_runs(
    workspace: Workspace, names: Sequence[str], options: OutlierCompareOptions
) -> tuple[list[RunRow], dict[str, str]]:
    """Return a row for each run and set of outliers, and the SHA-256 of what was read by folder.

    Raises
    ------
    UsageError
        Fewer than two runs, one twice, another number of labels, or a run without the score asked for.
    MissingError, CorruptError
        No such run, or its files are not what they should be.
    """
    folders = [find_outlier_run(workspace, name) for name in names]
    if len(folders) < 2:
        raise UsageError("nothing to compare with", got=", ".join(names), expected="two or more runs")
    if len(set(folders)) < len(folders):
        raise UsageError("a run occurs twice", got=", ".join(names))
    if options.labels and len(options.labels) != len(folders):
        raise UsageError("one label a run", where="--labels", got=len(options.labels), expected=len(folders))
    rows, digests = [], {}
    for number, folder in enumerate(folders):
        found = _rows_of(folder, options)
        file = folder / "metrics.json" if (folder / "metrics.json").is_file() else folder / "summary.json"
        digests[str(folder)] = sha256_file(file)
        base = options.labels[number] if options.labels else folder.name
        for row in found:
            several = len(found) > 1
            at = f", block {row.layer}" if several and len({r.layer for r in found}) > 1 else ""
            rows.append(RunRow(**{**vars(row), "label": f"{base}: {row.outside}{at}" if several else base}))
    return rows, digests
