"""The JUMP part of docs/results-representations.md, written from finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scipy.stats import kstest

from benchmarks.document import Document
from benchmarks.representation_plates import MOVED, SHOWN, PlateRuns
from benchmarks.verdicts import between
from emvfm.workspace import write_bytes

__all__ = ["write_plates"]


def _uniform(found: dict[str, Any]) -> tuple[str, str]:
    values = [group["p_value"] for group in found["groups"]]
    share = sum(value <= 0.05 for value in values) / len(values)
    return f"{share:.1%}", f"{kstest(values, 'uniform').pvalue:.2g}"


def _retrieval(page: Document, runs: dict[str, dict[str, Any]], what: str) -> None:
    rows = []
    for name, one in runs.items():
        rows.append([
            name, between(one["overall"]), one["expected"], between(one["normalised"]), between(one["hits"]["1"]),
            f"{one['below_alpha']} of {len(one['groups'])}", _uniform(one)[0],
        ])  # fmt: skip
    page.table(
        ["features", "mAP", "random order", "normalised", "R@1", f"{what}, q ≤ 0.05", "p ≤ 0.05"], rows
    )


def _verdicts(page: Document, audit: dict[str, Any]) -> None:
    page.bullets([verdict["says"] for verdict in audit["verdicts"]])


def _differences(page: Document, audit: dict[str, Any]) -> None:
    page.text("Less no correction, on the same groups, Holm over all of them:")
    page.table(
        ["correction", "mAP − none", "p, Holm"],
        [[v["trained"], between(v["estimate"], "+"), v["p_holm"]] for v in audit["verdicts"]],
    )


def write_plates(page: Document, runs: PlateRuns, images: Path) -> None:
    """Write what was found, and the picture of positive controls."""
    whole = runs.replicate[SHOWN]
    page.section(
        "JUMP pilot: replicates of a compound",
        "`bench retrieve BR*.csv.gz --preset replicability`: wells of a compound against the negative controls (DMSO); "
        "904 CellProfiler features, normalised to the controls of their plate by those who published them. `noise` is 64 "
        "normal numbers a well, `constant` the same for all, `well` and `row and column` code the position and nothing "
        "else. Corrections are fitted on the controls of each plate.",
    )
    _retrieval(page, runs.replicate, "compounds")
    share, fit = _uniform(runs.replicate["noise"])
    page.text(
        f"Of noise, {share} of the compounds have p ≤ 0.05, and Kolmogorov and Smirnov's test against uniform p-values "
        f"gives {fit}. Constant features score {runs.replicate['constant']['overall']['value']:.3f}, a random order "
        f"{runs.replicate['constant']['expected']:.3f}."
    )
    _differences(page, runs.audits["replicate, corrected"])
    _unseen_controls(page, runs)
    page.text("`bench audit` of CellProfiler, uncorrected:")
    _verdicts(page, runs.audits["replicate"])
    page.section(
        "The eight positive controls",
        "Compounds on every plate of JUMP, by the same runs; intervals over 3 or 6 queries are rough. All "
        f"{len(whole['groups'])} compounds are in `groups.csv` of the run.",
    )
    _controls(page, runs)
    write_bytes(
        images / "representations-controls.png", (Path(whole["folder"]) / "figures/bars.png").read_bytes()
    )
    page.picture("images/representations-controls.png", "mAP of the eight positive controls and mean of all")
    _position(page, runs)
    page.section(
        "Compounds with a common target",
        "`--preset matching`: the median of a compound's wells against those of compounds without the target; one answer a "
        "target. Compounds that share a target stand in different wells, so `well` knows nothing here.",
    )
    _retrieval(page, runs.match, "targets")
    _differences(page, runs.audits["match, corrected"])
    page.text("`bench audit`:")
    _verdicts(page, runs.audits["match"])
    _relations(page, runs.relate)


def _unseen_controls(page: Document, runs: PlateRuns) -> None:
    page.text(
        "**Who fits a correction should not be who it is scored against.** The controls above are both. Here 32 wells of "
        "controls a plate are the negatives, and the whitening is fitted on the other 32, or on the very same:"
    )
    titles = {
        "none": "none",
        "others": "sphere, fitted on the other controls",
        "same": "sphere, on the same controls",
    }
    page.table(
        ["correction", "mAP", "random order"],
        [
            [title, between(runs.unseen[name]["overall"]), runs.unseen[name]["expected"]]
            for name, title in titles.items()
        ],
    )
    differences = {v["rival"]: between(v["estimate"], "+") for v in runs.audits["unseen"]["verdicts"]}
    page.text(
        f"Fitted on the other controls, sphere is {differences['none']} from none, and {differences['same']} from what "
        "fitting on the same controls gives, on the same compounds."
    )


def _controls(page: Document, runs: PlateRuns) -> None:
    columns = (SHOWN, f"{SHOWN}, sphere", f"{SHOWN}, tvn", "noise", "constant")
    by_name = {
        column: {group["group"]: group for group in runs.replicate[column]["groups"]} for column in columns
    }
    rows = []
    for name in runs.replicate[SHOWN]["shown"]:
        own = by_name[SHOWN][name]
        others = [by_name[column][name]["precision"]["value"] for column in columns[1:]]
        rows.append(
            [name, own["precision"]["n"], between(own["precision"]), f"{own['q_value']:.2g}", *others]
        )
    page.table(["compound", "queries", f"{SHOWN}, mAP", "q", *columns[1:]], rows)


def _position(page: Document, runs: PlateRuns) -> None:
    page.section(
        "How much of that is position",
        "Every plate has the same map, so a replicate on another plate stands in the same well. Two measurements. First, "
        "**negative controls alone**: 64 wells of DMSO a plate, the positive is the well at the same position of another "
        "plate; what does not carry position scores a random order. Second, **compounds with two wells a plate**: the "
        "same queries, against the controls, once with the replicates at the same position as positives and once with "
        "those at the other; each has two positives, so a random order scores both alike.",
    )
    rows = []
    for name in MOVED:
        alone, same, other = (runs.position[question, name] for question in ("controls", "same", "other"))
        rows.append([
            name, f"{between(alone['hits']['1'])} ({alone['expected_hits']['1']:.3f})",
            f"{between(alone['overall'])} ({alone['expected']:.3f})",
            f"{between(same['overall'])} ({same['expected']:.3f})",
            f"{between(other['overall'])} ({other['expected']:.3f})",
        ])  # fmt: skip
    n = len(runs.position["same", SHOWN]["groups"])
    page.table(
        ["features", "controls: R@1", "controls: mAP", f"{n} compounds, same position", "other position"],
        rows,
    )
    (apart,) = runs.audits["position"]["verdicts"]
    page.text(
        f"The same position less the other, of {SHOWN}, on the same queries, compounds resampled: "
        f"{between(apart['estimate'], '+')}, p {apart['p_value']:.2g}."
    )
    page.text(
        "In parentheses a random order. Whitening is fitted on the very controls that the first two columns ask, and makes "
        "few rows of many features nearly orthogonal to each other: that they no longer find their position is no proof "
        "that it is gone, as the other columns show."
    )


def _relations(page: Document, runs: dict[str, dict[str, Any]]) -> None:
    page.section(
        "Known relations",
        "`bench relate`: pairs of compounds that share a target or a mechanism, recalled at both ends of the similarities "
        "of all pairs (0.1: the 0.05 at either end; a random map recalls 0.1). Intervals resample compounds.",
    )
    keys = sorted({(r["source"], r["expected"]) for r in runs[SHOWN]["results"]})
    rows = []
    for name, one in runs.items():
        by_key = {(r["source"], r["expected"]): r for r in one["results"]}
        rows.append([name, *(between(by_key[key]["both"]) if key in by_key else None for key in keys)])
    page.table(["features", *(f"{source}, {share:g}" for source, share in keys)], rows)
    counts = {
        r["source"]: f"{r['source']}: {r['n_pairs']} pairs of {r['n_entities']} compounds"
        for r in runs[SHOWN]["results"]
    }
    page.text("; ".join(counts.values()) + ".")
