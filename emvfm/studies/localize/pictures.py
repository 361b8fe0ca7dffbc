"""The figures of a localisation grid, as PNG bytes by path."""

from __future__ import annotations

from typing import Any

import numpy as np

from emvfm.report.localization_figures import (
    calibration_curves,
    class_scores,
    confusion_matrix,
    efficiency_curves,
    label_pairs,
    score_bars,
)
from emvfm.studies.localize.grid import Localization, MemberRun
from emvfm.studies.localize.results import TITLES, class_rows
from emvfm.studies.localize.titles import backbone_titles, run_titles

__all__ = ["pictures", "reliability"]

_BINS = 15
_CURVES = 6  # more hide each other


def reliability(labels: np.ndarray, scores: np.ndarray, bins: int = _BINS) -> dict[str, np.ndarray]:
    """Return mean score, share of positives and count of each bin of equal width over 0 to 1; NaN for empty ones.

    Parameters
    ----------
    labels, scores
        Any one shape; bool, and float in 0 to 1.
    """
    truth, values = np.ravel(labels).astype(float), np.ravel(scores)
    place = np.clip((values * bins).astype(np.intp), 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        said = np.bincount(place, weights=values, minlength=bins) / counts
        found = np.bincount(place, weights=truth, minlength=bins) / counts
    return {"said": said, "found": found, "counts": counts}


def _bars(found: Localization) -> bytes:
    single = found.task.folds.k == 1
    rows = []
    for run, title in zip(found.runs, backbone_titles(found.runs), strict=True):
        mean = run.run.mean(found.score)
        value = 0.0 if mean.mean is None else mean.mean
        low, high = run.interval.low, run.interval.high
        if not single and mean.std_ddof0 is not None:
            low, high = value - mean.std_ddof0, value + mean.std_ddof0
        folds = [] if single else [v for v in mean.values if v is not None]
        rows.append(
            {"backbone": title, "channels": run.member.channels, "value": value,
             "low": low, "high": high, "folds": folds}
        )  # fmt: skip
    spread = (
        "one split; bars: bootstrap interval over groups"
        if single
        else f"{found.task.folds.k} folds (points); bars: ± one standard deviation over folds, ddof 0"
    )
    return score_bars(rows, TITLES[found.score], spread)


def _curve(run: MemberRun, title: str) -> dict[str, Any]:
    predictions = run.run.predictions
    return {
        "label": title,
        "error": run.run.pooled.calibration_error,
        **reliability(predictions.labels, predictions.scores),
    }


def _efficiency(found: Localization) -> bytes | None:
    curves = []
    for run, title in zip(found.runs, run_titles(found.runs), strict=True):
        points = [p for p in run.efficiency if p.mean is not None and p.mean.mean is not None]
        if points:
            ends = [(p.interval.low, p.interval.high) if p.interval else (None, None) for p in points]
            curves.append(
                {"label": title, "groups": [p.groups for p in points],
                 "values": [p.mean.mean if p.mean else None for p in points],
                 "low": [e[0] for e in ends], "high": [e[1] for e in ends]}
            )  # fmt: skip
    name = found.task.group_name
    unit = "rows" if name is None else f"groups ({name})"
    return efficiency_curves(curves, TITLES[found.score], unit) if curves else None


def pictures(found: Localization) -> dict[str, bytes]:
    """Return the figures of a grid; those of single runs are of the best one."""
    best, titles = found.best, run_titles(found.runs)
    title = next(name for name, run in zip(titles, found.runs, strict=True) if run is best)
    predictions, names = best.run.predictions, best.run.names
    files = {
        "figures/scores.png": _bars(found),
        "figures/calibration.png": calibration_curves(
            [_curve(run, name) for run, name in zip(found.runs[:_CURVES], titles, strict=False)]
        ),
    }
    rows = [
        {
            "class": row["class"],
            "support": row["support"],
            "value": row["f1_mean"],
            "spread": row["f1_std_ddof0"],
        }
        for row in class_rows(best)
    ]
    kind = "F1 of a class" + (", mean over folds ± std (ddof 0)" if found.task.folds.k > 1 else "")
    files["figures/classes.png"] = class_scores(rows, kind, f"{title}: classes, with their positive rows")
    truth, decided = predictions.labels.astype(int), predictions.decided.astype(int)
    if found.task.single:
        counts = truth.T @ decided
        files["figures/confusion.png"] = confusion_matrix(counts, names, f"{title}: predicted of true")
    else:
        files["figures/label-pairs.png"] = label_pairs(truth.T @ truth, decided.T @ decided, names)
    curves = _efficiency(found)
    if curves is not None:
        files["figures/efficiency.png"] = curves
    return files
