"""The JUMP part of docs/results-representations.md: compounds, targets, corrections, and how much position does."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.representation_steps import CORRECTIONS, Steps, plate_baselines, plates

__all__ = ["MOVED", "SHOWN", "PlateRuns", "run_plates"]

CONTROLS = ["--controls", "control_type=negcon"]
SHOWN = "CellProfiler"
_REPLICATE = ["--preset", "replicability"]
_MATCH = ["--preset", "matching"]
_NAMES = {name: SHOWN if name == "none" else f"{SHOWN}, {name}" for name in CORRECTIONS}
#: What knows nothing but the position, by task; compounds with a common target never share a well.
_POSITION = {"replicate": "well", "match": "row and column", "relate": "row and column"}
MOVED = (SHOWN, f"{SHOWN}, sphere", "noise")


@dataclass(frozen=True)
class PlateRuns:
    """What the commands said, by row of the tables.

    Attributes
    ----------
    position
        Retrieval of the same position among controls, and of compounds with two wells, by question and row.
    unseen
        Retrieval against half of the controls, by what whitened it.
    audits
        By task.
    """

    replicate: dict[str, dict[str, Any]]
    match: dict[str, dict[str, Any]]
    relate: dict[str, dict[str, Any]]
    position: dict[tuple[str, str], dict[str, Any]]
    unseen: dict[str, dict[str, Any]]
    audits: dict[str, dict[str, Any]]


def _wells(path: str) -> tuple[list[str], list[list[str]]]:
    """Return the compounds with two wells on a plate, and two halves of the wells of negative controls, by seed 0."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    controls = [row["Metadata_Well"] for row in rows if row["Metadata_control_type"] == "negcon"]
    names = [row["Metadata_pert_iname"] for row in rows if row["Metadata_control_type"] != "negcon"]
    drawn = np.random.default_rng(0).permutation(sorted(controls)).tolist()
    half = len(drawn) // 2
    return sorted({name for name in names if names.count(name) > 1}), [drawn[:half], drawn[half:]]


def _any_of(column: str, values: Sequence[str]) -> str:
    return f"{column}=" + "|".join(f'"{value}"' for value in values)


def _unseen(source: list[str], halves: list[list[str]]) -> dict[str, list[str]]:
    """Return retrieval against half of the controls, whitened by the other half, by the same half, or not at all."""
    first, second = (f"control_type=negcon, {_any_of('well', half)}" for half in halves)
    rule = ["--positives", "same pert_iname", "--negatives", second, "--queries", "control_type!=negcon"]
    rule += ["--group", "pert_iname"]
    fitted = {"none": [], "others": ["--controls", first], "same": ["--controls", second]}
    return {
        name: [
            "bench",
            "retrieve",
            *source,
            *rule,
            *(["--correct", "sphere", *words, "--batch", "plate"] if words else []),
        ]
        for name, words in fitted.items()
    }


def run_plates(steps: Steps) -> PlateRuns:
    """Run retrieval, relations, position and audits on the three plates."""
    source = plates(steps.study)
    compounds = str(steps.study.shared / "data" / "jump-cp-pilot" / "compound_metadata.tsv")
    annotated = ["--annotations", compounds, "--on", "broad_sample"]  # two compounds have one name
    related = ["--entity", "pert_iname", "--related-by", "target_list", "--related-by", "moa_list"]
    tables = {
        name: [*source, *(["--correct", key, *CONTROLS, "--batch", "plate"] if key != "none" else CONTROLS)]
        for key, name in _NAMES.items()
    }
    tables |= {name: [*paths, *CONTROLS] for name, paths in plate_baselines(steps.study).items()}
    twice, halves = _wells(source[0])
    same_place = [
        "--where",
        "control_type=negcon",
        "--positives",
        "same well",
        "--exclude",
        "plate",
        "--draws",
        "999",
    ]
    away = [
        "--negatives",
        "control_type=negcon",
        "--queries",
        _any_of("pert_iname", twice),
        "--group",
        "pert_iname",
    ]
    questions = {
        "controls": same_place,
        "same": ["--positives", "same pert_iname, same well, different plate", *away],
        "other": ["--positives", "same pert_iname, different well, different plate", *away],
    }
    wanted: dict[tuple[str, str], list[str]] = {}
    tasks = {
        "replicate": ["retrieve", *_REPLICATE],
        "match": ["retrieve", *_MATCH, *annotated],
        "relate": ["relate", *annotated, *related],
    }
    for name, table in tables.items():
        for task, (command, *rule) in tasks.items():
            if name in (_POSITION[task], "noise", "constant", *_NAMES.values()):
                wanted[task, name] = ["bench", command, *table, *rule]
    for question, rule in questions.items():
        for name in MOVED:
            wanted[question, name] = ["bench", "retrieve", *tables[name], *rule]
    wanted |= {("unseen", name): words for name, words in _unseen(source, halves).items()}
    found = steps.all(wanted)

    def of(task: str) -> dict[str, dict[str, Any]]:
        return {name: one for (kind, name), one in found.items() if kind == task}

    audits = {task: _audit(steps, of(task), _POSITION[task]) for task in ("replicate", "match")}
    audits |= {f"{task}, corrected": _corrections(steps, of(task)) for task in ("replicate", "match")}
    position = {key: one for key, one in found.items() if key[0] in questions}
    unseen = of("unseen")
    words = [f"{name}:{one['folder']}" for name, one in unseen.items()]
    roles = ["--role", "none=baseline", "--role", "same=untrained"]
    words_of_place = [f"{where}:{position[where, SHOWN]['folder']}" for where in ("same", "other")]
    audits["position"] = steps.run(
        "bench", "audit", *words_of_place, "--role", "same=trained", "--role", "other=baseline"
    )
    audits["unseen"] = steps.run("bench", "audit", *words, *roles)
    return PlateRuns(of("replicate"), of("match"), of("relate"), position, unseen, audits)


def _audit(steps: Steps, runs: dict[str, dict[str, Any]], position: str) -> dict[str, Any]:
    roles = {SHOWN: "trained", "noise": "baseline", "constant": "confound", position: "confound"}
    words = [f"{name}:{runs[name]['folder']}" for name in roles]
    return steps.run("bench", "audit", *words, *(w for n, r in roles.items() for w in ("--role", f"{n}={r}")))


def _corrections(steps: Steps, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the paired differences of each correction from none."""
    words = [f"{key}:{runs[name]['folder']}" for key, name in _NAMES.items()]
    roles = [
        word for key in _NAMES for word in ("--role", f"{key}={'baseline' if key == 'none' else 'trained'}")
    ]
    return steps.run("bench", "audit", *words, *roles)
