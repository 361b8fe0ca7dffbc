"""What a study's report says, gathered from its records, its runs and its data."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emvfm.config import to_dict
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.manifest import Dataset
from emvfm.errors import EmvfmError
from emvfm.provenance import environment
from emvfm.report.html import Tone
from emvfm.report.study_page import Figure, StudyPage, Table, render_study
from emvfm.segmentation.evaluation_files import file_name, result_key
from emvfm.studies.grid.answers import answer, claim_text, detail, number, sentence
from emvfm.studies.grid.materials import audit_effect
from emvfm.studies.grid.pictures import pictures_of
from emvfm.studies.grid.results import Row, gather, test_name
from emvfm.studies.grid.runner import Opened
from emvfm.studies.grid.summary import Arm, Compared, Summary, summary_of

__all__ = ["interval_cell", "jpeg", "study_report"]

_TONES: Mapping[str, Tone] = {"shown": "good", "refuted": "bad", "undecided": "caution"}
_MOST_OVERLAYS, _MOST_FINDINGS, _WIDEST = 8, 8, 1400


def interval_cell(value: float, low: float | None, high: float | None, sign: str = "") -> tuple[float, str]:
    """Return a cell of a table that shows an interval and sorts by its value."""
    ends = "" if low is None or high is None else f" [{number(low, sign)}, {number(high, sign)}]"
    return value, number(value, sign) + ends


def jpeg(path: Path) -> bytes:
    """Return a picture of images as JPEG, so that a page with several stays small."""
    from PIL import Image

    with Image.open(path) as picture:
        image = picture.convert("RGB")
        image.thumbnail((_WIDEST, 4 * _WIDEST))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=82)
    return stream.getvalue()


def study_report(study: Opened, file: Path, *, overlays: bool = True) -> str:
    """Return the page of what is finished of a study as HTML.

    Parameters
    ----------
    overlays
        Show images of the data with what was found in them.

    Raises
    ------
    UsageError
        Nothing is finished.
    EmvfmError
        The page is too large.
    """
    rows = gather(study)
    summary = summary_of(study, rows)
    rule = summary.rule
    findings = [(f"{_upper(sentence(rule, c))} ({detail(c)}).", _TONES[c.outcome]) for c in summary.compared]
    page = StudyPage(
        title=study.spec.name,
        question=study.spec.question,
        answer=answer(summary),
        tone="plain" if study.options.stand_in else _TONES[summary.outcome],
        claim=claim_text(rule),
        notes=study.spec.notes,
        numbers=_numbers(summary, rows),
        warnings=_warnings(study, summary),
        findings=findings if 1 < len(findings) <= _MOST_FINDINGS else [],
        comparisons=_comparisons(summary.compared) if summary.compared else None,
        arms=_arms(summary.arms, summary.metric),
        figures=[Figure(each.png, each.caption) for each in pictures_of(study, rows, summary)],
        overlays=_overlays(study, rows) if overlays else (),
        data=_data(study),
        weights=_weights(rows),
        runs=_runs(rows),
        failed=_failed(study),
        commands=_commands(study, file),
        provenance=_provenance(study, rows),
    )
    return render_study(page)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _numbers(summary: Summary, rows: Sequence[Row]) -> dict[str, Any]:
    runs = {row.run.path: row.run.metrics["train"] for row in rows}
    seconds = sum(each["seconds"] + each.get("extraction_seconds", 0) for each in runs.values())
    hours = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
    hours = f"{seconds / 3600:.1f} h" if seconds > 5400 else hours
    return {
        "runs finished": f"{summary.done} of {summary.total}",
        "comparisons": len(summary.compared),
        "seeds": len({row.seed for row in rows}),
        "test slices": sum({row.test: len(row.cell.images) for row in rows}.values()),
        "training and embedding": hours,
    }


def _warnings(study: Opened, summary: Summary) -> list[str]:
    found = []
    if study.options.stand_in:
        found.append(
            "These are stand-ins: tiny untrained networks on synthetic images. The page shows that the study runs; "
            "its numbers mean nothing."
        )
    if summary.done < summary.total:
        found.append(f"Unfinished: {summary.done} of {summary.total} runs. The answer may change.")
    stated = study.folder.registrations()
    late = [each for each in stated[1:] if each["finished_runs"]]
    if late:
        last = late[-1]
        found.append(
            f"The question, rule or scoring was changed on {last['time'][:10]}, after {last['finished_runs']} runs "
            "had finished; what stood there before is in registration.json."
        )
    few = sorted({each.test for each in summary.compared if each.blocks < 5})
    if few:
        found.append(
            f"Few blocks of test slices ({', '.join(few)}): intervals there are narrower than they should be, and "
            "p-values can't be small."
        )
    return found


def _comparisons(compared: Sequence[Compared]) -> Table:
    columns = ["comparison", "test", "seeds", "difference", "p, Holm", "p over seeds", "claim"]

    def p(value: float, smallest: float) -> tuple[float, str]:
        return value, f"{value:.2g} (≥ {smallest:.1g})"

    rows = [
        [
            c.name, c.test, len(c.seeds), interval_cell(c.difference.value, c.difference.low, c.difference.high, "+"),
            p(c.p_corrected, min(1.0, c.smallest * len(compared))), p(c.p_seeds, c.smallest_seeds), c.outcome,
        ]
        for c in compared
    ]  # fmt: skip
    return Table(columns, rows)


def _arms(arms: Sequence[Arm], metric: str) -> Table:
    name = {"iou": "IoU", "dice": "Dice"}[metric]
    columns = [*arms[0].labels, "test", "seeds", f"{name}, seeds and slices", f"{name}, seeds alone", "sd", "slices",
               "blocks"]  # fmt: skip
    rows = [
        [
            *a.labels.values(), a.test, a.over_seeds.n,
            interval_cell(a.over_both.value, a.over_both.low, a.over_both.high),
            interval_cell(a.over_seeds.mean, a.over_seeds.low, a.over_seeds.high),
            a.over_seeds.sd, a.over_both.n, a.blocks,
        ]
        for a in arms
    ]  # fmt: skip
    return Table(columns, rows)


def _overlays(study: Opened, rows: Sequence[Row]) -> list[Figure]:
    """Return pictures of the arms that the rule names, else of the first ones."""
    named = [place for c in study.spec.rule.compare for place in (c.first, c.second)]
    ranked = sorted(rows, key=lambda row: not any(place.items() <= row.labels.items() for place in named))
    found: list[Figure] = []
    for row in ranked:
        key = result_key(test_name(row.test), study.spec.evaluate)
        path = row.run.path / "figures" / f"{file_name(key)}.png"
        if row.seed == study.spec.seeds[0] and path.is_file() and len(found) < _MOST_OVERLAYS:
            found.append(Figure(jpeg(path), f"{', '.join(row.arm)}, on {row.test}."))
    return found


def _data(study: Opened) -> Table:
    columns = ["dataset", "pairing", "train", "val", "test", "audit", "effect", "digest", "licence"]
    rows: list[list[Any]] = []
    for name, recipe in study.spec.data.items():
        try:
            dataset: Dataset = open_dataset(study.workspace, name)
        except EmvfmError:
            rows.append([name, recipe.options.pairing, None, None, None, "not composed", None, "–", "–"])
            continue
        sizes = [len(dataset.split(split)) for split in ("train", "val", "test")]
        effect, digest = audit_effect(dataset), dataset.digest[:12]
        facts = [dataset.meta.get("audit"), effect, digest, dataset.meta.get("licence") or "–"]
        rows.append([name, dataset.meta.get("pairing"), *sizes, *facts])
    text = "Effect: by how many standard deviations masks fit their slices better than shuffled ones, over training stacks."
    return Table(columns, rows, text)


def _weights(rows: Sequence[Row]) -> Table:
    seen = {(row.run.provenance["backbone"], row.run.provenance["weights"] or "none") for row in rows}
    return Table(["backbone", "digest of the weights"], [list(each) for each in sorted(seen)])


def _runs(rows: Sequence[Row]) -> Table:
    columns = [*rows[0].labels, "seed", "test", "IoU", "Dice", "steps", "seconds", "run"]
    listed = []
    for row in rows:
        trained, iou = row.run.metrics["train"], row.cell.iou
        listed.append([
            *row.labels.values(), row.seed, row.test, interval_cell(iou.value, iou.low, iou.high),
            row.cell.dice.value, trained["steps"], float(trained["seconds"]), row.run.path.name,
        ])  # fmt: skip
    return Table(columns, listed)


def _failed(study: Opened) -> Table | None:
    last = [study.folder.last(run) for run in study.missing]
    rows = [[each.name, each.error] for each in last if each is not None and each.state == "failed"]
    return Table(["run", "error"], rows) if rows else None


def _commands(study: Opened, file: Path) -> list[list[str]]:
    more = " --stand-in" if study.options.stand_in else " --data-from FOLDER --weights-from FOLDER"
    return [
        ["run the study", f"emvfm study run {file}{more}"],
        [
            "write its tables",
            f"emvfm study summarize {file}" + (" --stand-in" if study.options.stand_in else ""),
        ],
        ["write this page", f"emvfm report {file}" + (" --stand-in" if study.options.stand_in else "")],
        ["repeat one run", "emvfm train --config RUN/config.yaml"],
    ]


def _provenance(study: Opened, rows: Sequence[Row]) -> dict[str, Any]:
    runs = {row.run.path.name: row.run for row in rows}
    machines: dict[str, Any] = {}
    for run in runs.values():
        known = {key: value for key, value in run.provenance["environment"].items() if key != "time"}
        machines.setdefault(str(sorted(known.items(), key=str)), known)
    return {
        "page": environment(),
        "runs_were_made_with": list(machines.values()),
        "registered": study.folder.registrations(),
        "scoring": to_dict(study.spec.evaluate),
        "runs": {name: run.provenance["identity"] for name, run in runs.items()},
        "study": study.spec.text.splitlines(),
    }
