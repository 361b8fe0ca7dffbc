"""docs/results-localization.md: labels of real microscopy read from embeddings, beside untrained twins and pixels.

``nox -s localization -- --shared FOLDER`` composes the datasets, runs ``bench localize`` and ``bench audit`` as a user
would, and reads what they wrote. Stores are filled once, and a command whose record lies under ``localization/`` of
the workspace is not run again: remove that folder after a change of the program.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.document import Document
from benchmarks.localization_heads import heads
from benchmarks.localization_steps import BENCHES, PIXELS, SEEDS, Bench, Work, compose_all, opencell
from benchmarks.localization_texts import CLOSING, INTRODUCTION, TEXTS
from benchmarks.study import Study
from benchmarks.verdicts import between, verdict_table
from emvfm.localization.simulation import expected_leak
from emvfm.report.localization_figures import score_bars
from emvfm.workspace import write_bytes

COMMAND = "nox -s localization -- --shared FOLDER"


def _title(backbone: str) -> str:
    """Return what a member is called on the page."""
    if "untrained" in backbone:
        return f"ViT-S/14, untrained, seed {backbone.rpartition(' ')[2]}"
    if backbone.startswith("dinov2_vits14"):
        return "ViT-S/14 (imgfocus)"
    return "ViT-Ti/16 (timm)" if backbone.startswith("timm:") else backbone


def _means(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mean["metric"]: mean for mean in run["means"]}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _scores(page: Document, found: dict[str, Any]) -> None:
    score = found["score"]
    others = [name for name in ("macro_f1_present", "micro_f1", "macro_ap", "macro_auroc", "calibration_error")
              if name != score]  # fmt: skip
    several = found["task"]["folds"]["k"] > 1
    rows = []
    for run in found["runs"]:
        means, interval = _means(run), run["interval"]
        own = means[score]
        spread = [f"{_number(own['std_ddof0'])} / {_number(own['std_ddof1'])}"] if several else []
        rows.append(
            [_title(run["backbone"]), run["channels"] or "as they are", run["width"],
             between({**interval, "value": own["mean"]}), *spread,
             *(_number(means[name]["mean"]) for name in others)]
        )  # fmt: skip
    called = {"macro_f1_present": "macro F1", "micro_f1": "micro F1", "macro_ap": "macro AP",
              "macro_auroc": "AUROC", "calibration_error": "ECE"}  # fmt: skip
    page.table(
        ["backbone", "channels", "features", f"{called[score]} [95 %]", *(["std, ddof 0 / 1"] if several else []),
         *(called[name] for name in others)], rows,
    )  # fmt: skip


def _bars(found: dict[str, Any]) -> bytes:
    """Draw the trained backbones and pixels with intervals, the untrained as the mean of their seeds."""
    rows: list[dict[str, Any]] = []
    untrained: dict[str, list[float]] = {}
    for run in found["runs"]:
        title, value = _title(run["backbone"]), _means(run)[found["score"]]["mean"] or 0.0
        if "untrained" in title:
            untrained.setdefault(run["channels"], []).append(value)
            continue
        ends = {"low": run["interval"]["low"], "high": run["interval"]["high"]}
        rows.append({"backbone": title, "channels": run["channels"], "value": value, **ends, "folds": []})
    for way, values in untrained.items():
        name = f"ViT-S/14, untrained, {len(values)} seeds" if len(values) > 1 else "ViT-S/14, untrained"
        beside = [i for i, row in enumerate(rows) if row["channels"] == way and row["backbone"] != PIXELS]
        place = max(beside, default=-1) + 1
        rows.insert(place, {"backbone": name, "channels": way, "value": statistics.fmean(values), "low": None,
                            "high": None, "folds": values})  # fmt: skip
    called = "macro average precision" if found["score"] == "macro_ap" else "macro F1"
    return score_bars(rows, called, "bars: 95 % interval over groups; untrained: mean and each seed")


def chance_ap(folds: Sequence[dict[str, Any]]) -> float:
    """Return the macro average precision to expect of rows in random order, mean over folds.

    Of n rows with P positives it is the mean over ranks k of (1 + (k - 1)(P - 1) / (n - 1)) / k: far above the share
    of positives where n is small.
    """
    means = []
    for fold in folds:
        n = fold["scores"]["n"]
        ranks = np.arange(1, n + 1)
        positives = [c["support"] for c in fold["scores"]["classes"] if c["support"]]
        means.append(
            np.mean([((1 + (ranks - 1) * (p - 1) / max(n - 1, 1)) / ranks).mean() for p in positives])
        )
    return float(np.mean(means))


def _protocol(page: Document, found: dict[str, Any]) -> None:
    task, first = found["task"], found["runs"][0]
    counts = ", ".join(f"{n} {name}" for name, n in zip(task["classes"], task["positives"], strict=True))
    unit = f"groups of {task['group']}" if task["group"] else "rows, each for itself"
    floor, score = found["floor"], found["score"]
    chance = (
        f"chance: macro AP {chance_ap(first['runs']):.3f} (what a random order of each fold's rows gives on average)"
        if score == "macro_ap"
        else f"without looking: macro F1 {floor['macro_f1_present']:.3f}, exact match {floor['exact_match']:.3f} "
        "(the best constant answers)"
    )
    page.bullets(
        [f"n = {task['n']} ({counts}), {task['groups']} {unit}", first["pooled"]["protocol"],
         f"intervals: {first['interval']['protocol']}", *task["remarks"], chance]
    )  # fmt: skip


def _audit(page: Document, work: Work, found: dict[str, Any]) -> None:
    audit = work.once("bench", "audit", found["folder"])
    twins = len({run["backbone"] for run in found["runs"] if "untrained" in run["backbone"]})
    page.text(
        f"Paired differences in macro F1, {audit['protocol']}; each way of channels against its own untrained twins, "
        f"seed {audit['seed']}:"
    )

    def compared(v: Mapping[str, Any]) -> list[str]:
        name, _, way = v["trained"].partition(" · ")
        untrained = "ViT-S/14, untrained" + (f", mean of {twins} seeds" if twins > 1 else "")
        return [_title(name), way or "as they are", PIXELS if v["role"] == "baseline" else untrained]

    verdict_table(page, audit, ["trained", "channels", "minus"], compared)
    for role, rival in (("untrained", "untrained ViT-S/14"), ("baseline", PIXELS)):
        own = [v for v in audit["verdicts"] if v["role"] == role]
        above, below = (
            sum(v["p_holm"] < 0.05 and sign * v["estimate"]["value"] > 0 for v in own) for sign in (1, -1)
        )
        page.text(
            f"After Holm's correction {above} of {len(own)} are above {rival} and {below} below it (p < 0.05)."
        )


def _against_pixels(page: Document, found: dict[str, Any]) -> None:
    several = found["task"]["folds"]["k"] > 1
    rows = []
    for c in found["comparisons"]:
        name, _, way = c["names"][0].partition(" · ")
        if "untrained" in name and not several:
            continue
        one = c["proteins"]
        tests = [] if not several else [
            _number(c["corrected"]["p_value"] if c["corrected"] else None),
            _number(c["signed_ranks"]["p_value"] if c["signed_ranks"] else None),
        ]  # fmt: skip
        rows.append([_title(name), way or "as they are", between(one, "+"),
                     _number(one["p_value"]), *tests, _number(c["p_holm"])])  # fmt: skip
    page.text(
        f"Each minus {PIXELS} on the same rows and folds: a bootstrap over groups"
        + (", the corrected resampled t of Nadeau and Bengio with Holm's correction over all rows of the table, and "
           "Wilcoxon's signed ranks:" if several else ", with Holm's correction:")
    )  # fmt: skip
    tests = ["corrected t", "Wilcoxon"] if several else []
    page.table(["backbone", "channels", "difference [95 %]", "p, bootstrap", *tests, "p, Holm"], rows)


def _sizes(page: Document, work: Work, bench: Bench, found: dict[str, Any]) -> None:
    """Say what another input size does to one backbone."""
    rows = []
    for size in (bench.size, *bench.sizes):
        runs = found["runs"] if size == bench.size else work.resized(bench, size)["runs"]
        for run in runs:
            if _title(run["backbone"]) == "ViT-S/14 (imgfocus)" and run["channels"] in ("replicate", "map"):
                own = run["interval"]
                rows.append(["ViT-S/14 (imgfocus)", run["channels"], f"{size} px",
                             between(own)])  # fmt: skip
    page.text("How much hangs on the size at which cells are shown:")
    page.table(["backbone", "channels", "size", "macro F1 [95 %]"], rows)


def _bench(page: Document, work: Work, bench: Bench, images: Path) -> dict[str, Any]:
    found = work.grid(bench)
    text = TEXTS[bench.name]
    page.section(text.title, text.what)
    _protocol(page, found)
    _scores(page, found)
    write_bytes(images / f"localization-{bench.name}.png", _bars(found))
    page.picture(f"images/localization-{bench.name}.png", f"{text.title}: backbones and ways of channels")
    if bench.sizes:
        _sizes(page, work, bench, found)
    if bench.audited:
        _audit(page, work, found)
    else:
        _against_pixels(page, found)
    page.text(f"**The trap.** {text.trap}")
    return found


def _leaks(page: Document, work: Work, images: Path) -> None:
    source = work.study.shared / "data" / "opencell" / "localization_annotations.csv"
    asked = (
        "--label-table", str(source), "--label-key", "target_name", "--labels", "annotation_name",
        "--grades", "annotation_grade", "--grade", "2", "--group", "protein", "--ungrouped",
        "--score", "macro_f1_all", "--thresholds", "fixed",
    )  # fmt: skip
    nearest = ("--head", "knn", "--neighbours", "1", "--no-standardise", "--distance", "euclidean")
    rows, bars = [], []
    kinds: list[tuple[str, dict[str, float], tuple[str, ...], Sequence[int]]] = [
        ("nearest neighbour, identity alone", {}, nearest, work.seeds),
        ("logreg, labels and identity", {"signal": 0.5, "identity": 1.0, "noise": 0.5}, ("--head", "logreg"), (0,)),
    ]  # fmt: skip
    for title, drawn, head, seeds in kinds:
        for seed in seeds:
            table, labels = opencell(work, seed, **drawn)
            found = work.once("bench", "localize", str(table), *asked, *head)
            leak = found["runs"][0]["leak"]
            expected = expected_leak(labels, leak["folds"]["seen_rows"])
            added, known = leak["overstatement"], not drawn
            whole, apart = leak["grouped"], leak["ungrouped"]
            rows.append(
                [title, seed, f"{whole['mean']:.3f} ± {whole['std_ddof0']:.3f} / {whole['std_ddof1']:.3f}",
                 f"{apart['mean']:.3f} ± {apart['std_ddof0']:.3f} / {apart['std_ddof1']:.3f}",
                 between(added, "+"),
                 f"{expected.grouped:.3f} → {expected.ungrouped:.3f} ({expected.overstatement:+.3f})" if known else "–"]
            )  # fmt: skip
            if seed == seeds[0]:
                bars += [
                    {"backbone": title, "channels": name, "value": one["mean"],
                     "low": one["mean"] - one["std_ddof0"], "high": one["mean"] + one["std_ddof0"],
                     "folds": one["values"]}
                    for name, one in (("whole proteins", whole), ("proteins cut apart", apart))
                ]  # fmt: skip
    text, task = TEXTS["opencell"], found["task"]
    page.section(text.title, text.what)
    rows_of = f"n = {task['n']} rows of {task['groups']} proteins, {len(task['classes'])} labels"
    seen = (
        f"{leak['folds']['seen_rows']:.0%} of the rows have a sibling in training when proteins are cut apart"
    )
    page.bullets([f"{rows_of}, {task['labels_per_row']:.2f} a row; {seen}", *task["remarks"]])
    page.table(
        ["head, embeddings", "seed", "whole proteins ± std, ddof 0 / 1", "cut apart ± std, ddof 0 / 1",
         "overstated by [95 % over proteins]", "closed form"], rows,
    )  # fmt: skip
    spread = "5 folds (points); bars: ± one standard deviation over folds, ddof 0"
    write_bytes(images / "localization-opencell.png", score_bars(bars, "macro F1, all classes", spread))
    page.picture(
        "images/localization-opencell.png", "What cutting proteins apart adds on simulated embeddings"
    )
    page.text(f"**The trap.** {text.trap}")


def write(study: Study, page: Path, *, reduced: bool = False, without: Sequence[str] = ()) -> None:
    """Run everything, or less with one untrained twin or without some sets, and write the page with its figures."""
    work = Work(study, SEEDS[:1] if reduced else SEEDS)
    compose_all(work)
    said = " --reduced" * reduced + "".join(f" --without {name}" for name in without)
    document = Document("Results: localisation", COMMAND + said, INTRODUCTION)
    if without:
        titles = ", ".join(TEXTS[name].title for name in without)
        document.text(f"Left out when this page was written: {titles}.")
    images = page.parent / "images"
    for bench in BENCHES:
        if bench.name not in without:
            _bench(document, work, bench, images)
    if "heads" not in without:
        heads(document, work, [bench for bench in BENCHES if bench.name not in without], _title)
    _leaks(document, work, images)
    document.section("What this shows and what it cannot")
    document.bullets([sentence for name, sentence in CLOSING if name not in without])
    document.write(page)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--root", type=Path, default=Path("emvfm-workspace"))
    parser.add_argument("--out", type=Path, default=Path("docs/results-localization.md"))
    parser.add_argument("--reduced", action="store_true", help="one untrained twin")
    sets = [*(bench.name for bench in BENCHES), "heads"]
    parser.add_argument(
        "--without", action="append", default=[], choices=sets, help="leave a set out; repeatable"
    )
    given = parser.parse_args(arguments)
    study = Study(given.shared.resolve(), given.root.resolve(), 1, {})
    write(study, given.out, reduced=given.reduced, without=given.without)


if __name__ == "__main__":
    main()
