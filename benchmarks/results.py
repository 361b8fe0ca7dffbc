"""The table of docs/results.md: what one model for two EM datasets costs, on real data, by public commands.

``python -m benchmarks.results --shared FOLDER`` composes Lucchi and VNC, trains on each, on both and on both
with Lucchi's masks paired by text sorting, scores every model on both test sets, and writes the page with
seeds, n and intervals. Everything goes through the command line, as a user would do it; finished parts are
not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.document import Document
from emvfm.datasets.manifest import load_dataset
from emvfm.provenance import sha256_file
from emvfm.report.figures import iou_matrix
from emvfm.segmentation.comparison import mean_of_runs, paired_difference
from emvfm.segmentation.metrics import Counts, Estimate, block_labels
from emvfm.workspace import write_bytes, write_json

TESTS = ("lucchi", "vnc")
WRONG = "lucchi-textsorted"
TRAINING_SETS = (("lucchi",), ("vnc",), ("lucchi", "vnc"), (WRONG, "vnc"))
TITLES = {
    ("lucchi",): "Lucchi",
    ("vnc",): "VNC",
    ("lucchi", "vnc"): "both",
    (WRONG, "vnc"): "both, Lucchi's masks sorted as text",
}
WEIGHTS = "dinov2_vits14_imgfocus_fp16.safetensors"
FOLDS = (1, 2, 3, 4)  # the other test blocks of VNC; the dataset `vnc` has block 0
COMMAND = "nox -s results -- --shared FOLDER"


@dataclass(frozen=True)
class Study:
    """Where the data and the workspace are, and which seeds are trained."""

    shared: Path
    root: Path
    seeds: tuple[int, ...]
    lora_seeds: tuple[int, ...]
    folds: bool

    def call(self, *arguments: str, allowed: tuple[int, ...] = (0,)) -> tuple[int, dict[str, Any], str]:
        """Run one emvfm command; return its exit code, its JSON and what it said on stderr."""
        command = [sys.executable, "-m", "emvfm", *arguments, "--root", str(self.root), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in allowed:
            raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr.strip()

    @property
    def backbone(self) -> list[str]:
        return ["--backbone", "dinov2_vits14", "--weights", str(self.shared / "weights" / WEIGHTS)]


def compose(study: Study) -> str:
    """Make the three datasets; return what the audit said when it refused the text-sorted one."""
    data = study.shared / "data"
    for name, folder in (("lucchi", "lucchi++"), ("vnc", "vnc")):
        if not (study.root / "datasets" / name / "dataset.json").is_file():
            study.call("data", "compose", name, "--from", str(data / folder), "--val", "0")
    for fold in FOLDS:
        if not (study.root / "datasets" / f"vnc-fold{fold}" / "dataset.json").is_file():
            source = ["--from", str(data / "vnc"), "--val", "0", "--seed", str(fold)]
            study.call("data", "compose", f"vnc-fold{fold}", *source)
    wrong = [
        "data",
        "compose",
        WRONG,
        "--from",
        str(data / "lucchi++"),
        "--pairing",
        "text-sorted",
        "--val",
        "0",
    ]
    if not (study.root / "datasets" / WRONG / "dataset.json").is_file():
        _, _, refusal = study.call(*wrong, allowed=(4,))
        study.call(*wrong, "--force")
        write_json(study.root / "refusal.json", {"said": refusal})
    path = study.root / "refusal.json"
    return json.loads(path.read_text())["said"] if path.is_file() else "refused"


def train(study: Study) -> dict[tuple[tuple[str, ...], bool], list[dict[str, Any]]]:
    """Train every row of the table; return its runs, one a seed."""
    rows: dict[tuple[tuple[str, ...], bool], list[dict[str, Any]]] = {}
    for lora, seeds in ((False, study.seeds), (True, study.lora_seeds)):
        for seed in seeds:
            for data in TRAINING_SETS:
                names = [part for name in data for part in ("--data", name)]
                options = [*(["--lora"] if lora else []), *(["--force"] if WRONG in data else [])]
                _, run, _ = study.call("train", *study.backbone, *names, "--seed", str(seed), *options)
                rows.setdefault((data, lora), []).append(run)
                print(f"{run['run']}: {run['metrics']['seconds']:.0f} s", file=sys.stderr, flush=True)
    return rows


def train_folds(study: Study) -> dict[str, str]:
    """Train a frozen head on VNC once for each test block; return the run of each dataset."""
    names = ["vnc", *(f"vnc-fold{fold}" for fold in FOLDS)]
    return {
        name: study.call("train", *study.backbone, "--data", name, "--seed", str(study.seeds[0]))[1]["run"]
        for name in names
    }


def score(study: Study, runs: Sequence[str]) -> dict[tuple[str, str], list[Counts]]:
    """Score runs on both test sets; return the counts of each slice by run and test set."""
    tests = [part for name in TESTS for part in ("--data", name)]
    _, result, _ = study.call("eval", *runs, *tests)
    return {
        (cell["run"], cell["test"].split(":")[0]): [
            Counts(image["tp"], image["fp"], image["fn"], image["tn"]) for image in cell["images"]
        ]
        for cell in result["results"]
    }


def blocks_of(study: Study, name: str) -> list[int]:
    """Return the block of each test slice of a dataset."""
    samples = load_dataset(study.root / "datasets" / name).split("test").annotated().samples
    return block_labels([s.volume for s in samples], [s.z for s in samples])


def interval(estimate: Estimate, sign: str = "") -> str:
    """Return an estimate as text."""
    text = f"{estimate.value:{sign}.3f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _adaptation(lora: bool) -> str:
    return "LoRA r16" if lora else "frozen"


def _data_section(page: Document, study: Study, refusal: str) -> None:
    page.section("Data", "Sections are split in blocks with a gap; test sections are never neighbours of training "
                 "sections. Lucchi (EPFL labels) is every third section of the published stacks, laid out and "
                 "named as Lucchi++ but with the original EPFL masks, rebuilt from polygons.")  # fmt: skip
    rows = []
    for name in (*TESTS, WRONG):
        dataset = load_dataset(study.root / "datasets" / name)
        sizes = [len(dataset.split(split)) for split in ("train", "val", "test", "gap")]
        _, report, _ = study.call("data", "audit", name, allowed=(0, 4))
        audit = report["audits"][0] if report else {"sentence": "refused"}
        rows.append([name, *sizes, dataset.digest[:12], audit["sentence"]])
    page.table(["dataset", "train", "val", "test", "gap", "digest", "audit"], rows)
    page.text("What `emvfm data compose` answers to the text-sorted pairing (exit code 4):")
    page.code([refusal.splitlines()[-1].replace(str(study.root), "WORKSPACE")], "text")


def _matrix_section(
    page: Document, study: Study, rows: dict[Any, list[dict[str, Any]]], counts: dict[tuple[str, str], list[Counts]],
    images: Path,
) -> None:  # fmt: skip
    blocks = {name: blocks_of(study, name) for name in TESTS}

    def runs(row: tuple[tuple[str, ...], bool], test: str) -> list[list[Counts]]:
        return [counts[run["run"], test] for run in rows[row]]

    page.section(
        "Train × test",
        "Foreground IoU of mitochondria at native resolution, counts pooled over the test slices of a run, mean over "
        "seeds; brackets: 95 % percentile bootstrap of seeds and blocks of consecutive slices together. "
        f"Test slices: {', '.join(f'{len(b)} of {n} in {len(set(b))} blocks' for n, b in blocks.items())}; "
        "of two blocks an interval is no more than the distance between them. "
        "Every run of a kind has the same number of steps and crops, and its last step counts: no slice was used to "
        "choose anything. The recipe was chosen earlier, on validation blocks cut from the training sections.",
    )
    table, values = [], []
    for row, group in rows.items():
        estimates = [mean_of_runs(runs(row, test), blocks[test]) for test in TESTS]
        values.append(estimates)
        seeds = ", ".join(
            " / ".join(f"{sum(counts[run['run'], t], Counts()).iou:.3f}" for t in TESTS) for run in group
        )
        cells = [interval(e) for e in estimates]
        table.append([TITLES[row[0]], _adaptation(row[1]), len(group), *cells, seeds])
    page.table(
        ["trained on", "backbone", "seeds", "test on Lucchi", "test on VNC", "each seed (Lucchi / VNC)"],
        table,
    )

    def grid(end: str) -> np.ndarray[Any, Any]:
        return np.array(
            [[np.nan if getattr(e, end) is None else getattr(e, end) for e in row] for row in values]
        )

    labels = [f"{TITLES[data]}, {_adaptation(lora)}" for data, lora in rows]
    picture = iou_matrix(grid("value"), labels, ["Lucchi", "VNC"], grid("low"), grid("high"))
    write_bytes(images / "results-matrix.png", picture)
    page.picture("images/results-matrix.png", "train × test matrix of foreground IoU")
    page.section("One model for both", "Differences of the same seeds on the same slices; a collapse would be large and "
                 "negative.")  # fmt: skip
    together, wrong = ("lucchi", "vnc"), (WRONG, "vnc")
    compared = []
    for lora in sorted({lora for _, lora in rows}):
        for test in TESTS:
            for what, other in (("both − alone", (test,)), ("both − both text-sorted", wrong)):
                e = paired_difference(runs((together, lora), test), runs((other, lora), test), blocks[test])
                compared.append([what, _adaptation(lora), test, len(rows[together, lora]), interval(e, "+")])
    for data in TRAINING_SETS:
        if (data, True) in rows:
            n = len(rows[data, True])
            for test in TESTS:
                frozen = runs((data, False), test)[:n]
                e = paired_difference(runs((data, True), test), frozen, blocks[test])
                compared.append([f"LoRA − frozen, {TITLES[data]}", "", test, n, interval(e, "+")])
    page.table(["difference", "backbone", "test", "seeds", "IoU [95 %]"], compared)
    frozen = dict(zip(rows, values, strict=True))
    bars = [
        ("Lucchi alone, on Lucchi", frozen[("lucchi",), False][0].value, "≥ 0.70", 0.70, 1),
        ("VNC alone, on VNC", frozen[("vnc",), False][1].value, "≥ 0.75", 0.75, 1),
        ("both − alone, on Lucchi", frozen[together, False][0].value - frozen[("lucchi",), False][0].value,
         "≥ −0.05", -0.05, 1),
        ("both − alone, on VNC", frozen[together, False][1].value - frozen[("vnc",), False][1].value,
         "≥ −0.05", -0.05, 1),
        ("both text-sorted, on Lucchi", frozen[wrong, False][0].value, "< 0.15", 0.15, -1),
    ]  # fmt: skip
    page.section("Set against what was expected", "Frozen backbone, means over seeds.")
    page.table(
        ["what", "measured", "expected", "met"],
        [
            [what, value, text, "yes" if sign * (value - bar) >= 0 else "no"]
            for what, value, text, bar, sign in bars
        ],
    )


def _folds_section(page: Document, study: Study, runs: dict[str, str]) -> None:
    page.section(
        "VNC by test block",
        "Every fifth of the stack is the test block once (a gap of one section on each side, frozen backbone, "
        f"training seed {study.seeds[0]}): what one block says about another.",
    )
    table, counts, blocks = [], [], []
    for fold, (name, run) in enumerate(runs.items()):
        samples = load_dataset(study.root / "datasets" / name).split("test").annotated().samples
        _, result, _ = study.call("eval", run, "--data", name)
        cell = result["results"][0]
        found = [Counts(i["tp"], i["fp"], i["fn"], i["tn"]) for i in cell["images"]]
        total = sum(found, Counts())
        sections = f"{samples[0].z}–{samples[-1].z}"
        truth, positive = total.tp + total.fn, total.tp + total.fp
        n_train = len(load_dataset(study.root / "datasets" / name).split("train"))
        share = f"{truth / (positive + total.fn + total.tn):.1%}"
        scores = [total.iou, total.tp / truth, total.tp / positive]
        table.append([sections, n_train, len(found), share, *scores])
        counts += found
        blocks += [fold] * len(found)
    columns = ["test sections", "train", "test", "foreground", "IoU", "recall", "precision"]
    page.table(columns, table)
    page.text(f"All sections pooled, each scored by the model that did not see its block: IoU "
              f"{interval(mean_of_runs([counts], blocks))} (5 blocks resampled).")  # fmt: skip


def _cost_section(page: Document, rows: dict[Any, list[dict[str, Any]]]) -> None:
    page.section(
        "Time and memory",
        "Seconds of training without validation, peak resident memory of the process, means over seeds; "
        "embedding is paid once for all runs. Other programs shared the cores at times: seconds are upper bounds.",
    )
    table = []
    for (data, lora), group in rows.items():
        metrics = [run["metrics"] for run in group]

        def mean(key: str, metrics: list[dict[str, Any]] = metrics) -> float:
            return float(np.mean([m[key] for m in metrics]))

        parameters = (metrics[0]["head_parameters"] + metrics[0]["adapter_parameters"]) / 1e6
        cost = [f"{mean('seconds'):.0f}", f"{mean('peak_memory_mb') / 1000:.1f}", f"{parameters:.2f}"]
        table.append(
            [TITLES[data], _adaptation(lora), metrics[0]["train_slices"], metrics[0]["steps"], *cost]
        )
    page.table(
        [
            "trained on",
            "backbone",
            "slices",
            "steps",
            "seconds",
            "peak GB",
            "trained parameters (M)",
        ],
        table,
    )


def _distance_section(page: Document, study: Study) -> None:
    page.section(
        "How far apart the datasets are",
        "Fréchet distance of image embeddings (mean of patches, last layer), with exchanges of blocks of slices as the "
        "null, a block jackknife interval, and the distance between halves of one dataset as the unit.",
    )
    table = []
    for pair in (("lucchi", "vnc"), ("lucchi:train", "lucchi:test")):
        _, result, _ = study.call("domain", "fd", *pair, *study.backbone)
        r = result["results"][0]
        value = f"{r['value']:.1f}" + ("" if r["low"] is None else f" [{r['low']:.1f}, {r['high']:.1f}]")
        table.append([" × ".join(pair), " + ".join(map(str, r["n"])), " + ".join(map(str, r["blocks"])), value,
                      "–" if r["ratio"] is None else f"{r['ratio']:.1f}", f"{r['p_value']:.3g}", r["verdict"]])  # fmt: skip
    page.table(["pair", "n", "blocks", "FD", "ratio to halves", "p", "in words"], table)


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.results", description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--root", type=Path, default=Path("emvfm-workspace"), help="workspace")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the frozen rows")
    parser.add_argument("--lora-seeds", type=int, nargs="*", default=[0], help="of the LoRA rows")
    parser.add_argument(
        "--folds", action=argparse.BooleanOptionalAction, default=True, help="all test blocks of VNC"
    )
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of results.md")
    given = parser.parse_args()
    study = Study(
        given.shared.resolve(), given.root.resolve(), tuple(given.seeds), tuple(given.lora_seeds), given.folds
    )
    refusal = compose(study)
    rows = train(study)
    counts = score(study, [run["run"] for group in rows.values() for run in group])
    first = next(iter(rows.values()))[0]
    weights = study.shared / "weights" / WEIGHTS
    page = Document(
        "Results",
        COMMAND,
        f"Backbone: {first['backbone']}, a ViT-S/14 descended from DINOv2 by further training; these are not DINOv2's "
        f"numbers. Weights: `{WEIGHTS}`, sha256 `{sha256_file(weights)[:16]}…`.",
    )
    _data_section(page, study, refusal)
    _matrix_section(page, study, rows, counts, given.out / "images")
    if study.folds:
        _folds_section(page, study, train_folds(study))
    _cost_section(page, rows)
    _distance_section(page, study)
    page.write(given.out / "results.md")


if __name__ == "__main__":
    main()
