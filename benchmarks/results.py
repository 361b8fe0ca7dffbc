"""The page docs/results.md: mitochondria in two EM datasets, by a frozen backbone, by LoRA, and by a U-Net.

``python -m benchmarks.results --shared FOLDER`` composes Lucchi and VNC, trains on each, on both, and on fewer and
fewer slices; scores every model on test sections; and writes the page with seeds, n and intervals. Everything goes
through the command line, as a user would do it; finished parts are not done again. What wrong pairs do to a model
for both is the question of ``studies/mispairing.yaml``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.document import Document
from benchmarks.study import FOLDS, TESTS, WEIGHTS, WRONG, Row, Study, title
from benchmarks.verdicts import between
from emvfm.datasets.manifest import load_dataset
from emvfm.provenance import sha256_file
from emvfm.report.figures import iou_matrix, trends
from emvfm.segmentation.comparison import mean_of_runs, paired_difference
from emvfm.segmentation.metrics import Counts, Estimate
from emvfm.workspace import write_bytes

COMMAND = "nox -s results -- --shared FOLDER"
FROZEN, TOKENS, LORA, UNET = "frozen", "frozen, tokens alone", "LoRA", "U-Net"
# 16 pixels of the image to a token, so that the head sees the image at half its size, as the U-Net does.
_HEAD = ("--input-size", "x0.875", "--crop", "392", "--views", "8")
_HEAD_STEPS = "420"  # LoRA begins from the frozen run where it asks for as many
KINDS: dict[str, tuple[str, ...]] = {
    FROZEN: (*_HEAD, "--steps", _HEAD_STEPS),
    TOKENS: ("--head", "deconv", "--lr", "0.002", "--crop", "448", "--steps", "600"),
    LORA: (*_HEAD, "--head-steps", _HEAD_STEPS, "--lora", "--steps", "150"),
    # Half the size and a narrow net: what a processor trains in the minutes that the frozen head takes.
    UNET: (
        "--backbone",
        "unet",
        "--unet-width",
        "16",
        "--input-size",
        "x0.5",
        "--crop",
        "224",
        "--steps",
        "540",
    ),
}
TOGETHER = ("lucchi", "vnc")
ROWS = (*(Row((name,), kind) for kind in KINDS for name in TESTS), Row(TOGETHER, FROZEN))
FEW = (1, 2, 4, 8, 16, 32)
CURVES = tuple(Row(("lucchi",), kind, n) for kind in (FROZEN, UNET) for n in FEW)
FOLD_KINDS = (FROZEN,)
#: What was expected: row, test set, least mean IoU.
BARS = (
    (Row(("lucchi",), FROZEN), "lucchi", 0.76),
    (Row(("lucchi",), LORA), "lucchi", 0.82),
    (Row(("vnc",), FROZEN), "vnc", 0.80),
    (Row(("vnc",), LORA), "vnc", 0.80),
)


@dataclass(frozen=True)
class Trained:
    """What ``emvfm train`` said of each run, a list a row in the order of seeds."""

    study: Study
    runs: dict[Row, list[dict[str, Any]]]

    def counts(self, row: Row, test: str) -> list[list[Counts]]:
        return [self.study.counts[run["run"], test] for run in self.runs[row]]

    def estimate(self, row: Row, test: str) -> Estimate:
        return mean_of_runs(self.counts(row, test), self.study.blocks(test))

    def difference(self, first: Row, second: Row, test: str) -> tuple[int, Estimate]:
        """Return over how many seeds two rows are compared, and by how much the first scores more."""
        both = min(len(self.runs[first]), len(self.runs[second]))
        one, other = (self.counts(row, test)[:both] for row in (first, second))
        return both, paired_difference(one, other, self.study.blocks(test))


def train(study: Study, given: argparse.Namespace) -> Trained:
    """Train and score every row of the tables."""
    own = {LORA: given.lora_seeds, TOKENS: given.tokens_seeds}
    seeds = {row: own.get(row.kind, given.seeds) for row in ROWS if row.data != TOGETHER}
    seeds |= {Row(TOGETHER, FROZEN): given.both_seeds} | dict.fromkeys(CURVES, given.curve_seeds)
    order = sorted({seed for each in seeds.values() for seed in each})
    wanted = [(row, seed) for seed in order for row, each in seeds.items() if seed in each]
    runs: dict[Row, list[dict[str, Any]]] = {}
    for row, _, run in study.train(wanted):
        runs.setdefault(row, []).append(run)
    study.score([run["run"] for group in runs.values() for run in group], TESTS)
    return Trained(study, runs)


def _data_section(page: Document, study: Study, refusal: str) -> None:
    page.section("Data", "Sections are split in blocks with a gap; test sections are never neighbours of training "
                 "sections. Lucchi (EPFL labels) is every third section of the published stacks, laid out and "
                 "named as Lucchi++ but with the original EPFL masks, rebuilt from polygons.")  # fmt: skip
    rows = []
    for name in (*TESTS, WRONG):
        dataset = load_dataset(study.dataset(name))
        sizes = [len(dataset.split(split)) for split in ("train", "val", "test", "gap")]
        _, report, _ = study.call("data", "audit", name, allowed=(0, 4))
        audit = report["audits"][0] if report else {"sentence": "refused"}
        rows.append([name, *sizes, dataset.digest[:12], audit["sentence"]])
    page.table(["dataset", "train", "val", "test", "gap", "digest", "audit"], rows)
    page.text("What `emvfm data compose` answers to the text-sorted pairing (exit code 4):")
    page.code([refusal.splitlines()[-1].replace(str(study.root), "WORKSPACE")], "text")


def _matrix_section(page: Document, trained: Trained, images: Path) -> None:
    blocks = {name: trained.study.blocks(name) for name in TESTS}
    page.section(
        "Train × test",
        "Foreground IoU of mitochondria at native resolution, threshold 0.5, counts pooled over the test slices of a "
        "run, mean over seeds; brackets: 95 % percentile bootstrap of seeds and blocks of consecutive slices together. "
        f"Test slices: {', '.join(f'{len(b)} of {n} in {len(set(b))} blocks' for n, b in blocks.items())}; "
        "of two blocks an interval is no more than the distance between them. Every run of a kind has the same number "
        "of steps and crops, and its last step counts: no slice was used to choose anything. The recipes were chosen "
        "earlier, on the training sections alone: trained on their left halves, scored on their right halves "
        "([Segmentation](segmentation.md)).",
    )
    said = {
        FROZEN: "the backbone as it is; a head on tokens of four blocks that also sees the pixels.",
        TOKENS: "a head on the same blocks without pixels: what the backbone alone carries.",
        LORA: "the first, with an adapter trained in the backbone, begun from the frozen run.",
        UNET: "no backbone; a plain U-Net from scratch, on the same slices.",
    }
    page.bullets([f"**{kind}** (`{' '.join(KINDS[kind])}`): {text}" for kind, text in said.items()])
    rows = [row for row in ROWS if row in trained.runs]
    values = [[trained.estimate(row, test) for test in TESTS] for row in rows]
    table = []
    for row, estimates in zip(rows, values, strict=True):
        pooled = [[sum(c, Counts()).iou for c in trained.counts(row, test)] for test in TESTS]
        each = ", ".join(f"{a:.3f} / {b:.3f}" for a, b in zip(*pooled, strict=True))
        table.append(
            [title(row.data), row.kind, len(pooled[0]), *(between(e.to_json()) for e in estimates), each]
        )
    page.table(
        ["trained on", "model", "seeds", "test on Lucchi", "test on VNC", "each seed (Lucchi / VNC)"], table
    )

    def grid(end: str) -> np.ndarray[Any, Any]:
        return np.array([[np.nan if (v := getattr(e, end)) is None else v for e in row] for row in values])

    labels = [f"{title(row.data)}, {row.kind}" for row in rows]
    picture = iou_matrix(grid("value"), labels, ["Lucchi", "VNC"], grid("low"), grid("high"))
    write_bytes(images / "results-matrix.png", picture)
    page.picture("images/results-matrix.png", "train × test matrix of foreground IoU")


def _comparison_section(page: Document, trained: Trained) -> None:
    page.section("Differences", "Of the same seeds on the same slices, IoU with 95 % intervals as above.")
    pairs: list[tuple[str, Row, Row, str]] = []
    for name in TESTS:
        alone = {kind: Row((name,), kind) for kind in KINDS}
        pairs += [
            (f"{LORA} − {FROZEN}, {title((name,))}", alone[LORA], alone[FROZEN], name),
            (f"{FROZEN} − {UNET}, {title((name,))}", alone[FROZEN], alone[UNET], name),
            (f"{LORA} − {UNET}, {title((name,))}", alone[LORA], alone[UNET], name),
            (f"pixels beside tokens − tokens alone, {title((name,))}", alone[FROZEN], alone[TOKENS], name),
        ]
    for name in TESTS:
        pairs.append((f"both − {title((name,))} alone", Row(TOGETHER, FROZEN), Row((name,), FROZEN), name))
    table = []
    for what, first, second, test in pairs:
        if first in trained.runs and second in trained.runs:
            n, difference = trained.difference(first, second, test)
            table.append([what, title((test,)), n, between(difference.to_json(), "+")])
    page.table(["difference", "test", "seeds", "IoU [95 %]"], table)


def _bars_section(page: Document, trained: Trained) -> None:
    page.section("Set against what was expected", "Means over seeds.")
    table: list[list[Any]] = []
    for row, test, bar in BARS:
        if row in trained.runs:
            value = trained.estimate(row, test).value
            table.append([f"{title(row.data)} alone, {row.kind}", value, f"≥ {bar:.2f}", _met(value >= bar)])
    for name in TESTS:
        rows = [Row((name,), kind) for kind in (FROZEN, LORA, UNET)]
        if all(row in trained.runs for row in rows):
            *ours, theirs = (trained.estimate(row, name).value for row in rows)
            table.append([f"{title((name,))}: better of frozen and LoRA − U-Net", f"{max(ours) - theirs:+.3f}", "≥ 0",
                          _met(max(ours) >= theirs)])  # fmt: skip
    for name in TESTS:
        together, alone = Row(TOGETHER, FROZEN), Row((name,), FROZEN)
        if together in trained.runs and alone in trained.runs:
            _, apart = trained.difference(together, alone, name)
            table.append(
                [
                    f"both − alone, on {title((name,))}",
                    f"{apart.value:+.3f}",
                    "≥ −0.05",
                    _met(apart.value >= -0.05),
                ]
            )
    page.table(["what", "measured", "expected", "met"], table)


def _met(yes: bool) -> str:
    return "yes" if yes else "no"


def _curve_section(page: Document, trained: Trained, images: Path) -> None:
    whole = len(load_dataset(trained.study.dataset("lucchi")).split("train"))
    kinds = (FROZEN, UNET)
    points: dict[int, dict[str, Row]] = {
        n: {kind: Row(("lucchi",), kind, n if n in FEW else None) for kind in kinds} for n in (*FEW, whole)
    }
    found = {
        n: {kind: trained.estimate(row, "lucchi") for kind, row in rows.items()} for n, rows in points.items()
    }
    page.section(
        "Few slices",
        "Lucchi, evenly spaced training slices, the same steps whatever their number, all test slices; brackets as "
        "above, of blocks of slices alone where there is one seed.",
    )
    page.table(
        ["training slices", "seeds", *kinds],
        [
            [n, len(trained.runs[points[n][FROZEN]]), *(between(found[n][kind].to_json()) for kind in kinds)]
            for n in points
        ],
    )
    curves = {
        kind: [(float(n), (e := found[n][kind]).value, e.low, e.high) for n in points] for kind in kinds
    }
    write_bytes(images / "results-slices.png", trends(curves, "training slices", "foreground IoU", log=True))
    page.picture("images/results-slices.png", "foreground IoU over the number of training slices")


def _folds_section(page: Document, study: Study, seed: int) -> None:
    page.section(
        "VNC by test block",
        f"Every fifth of the stack is the test block once (a gap of one section on each side, training seed {seed}): what "
        "one block says about another.",
    )
    names = ["vnc", *(f"vnc-fold{fold}" for fold in FOLDS)]
    rows = [Row((name,), kind) for kind in FOLD_KINDS for name in names]
    runs = {row: run["run"] for row, _, run in study.train([(row, seed) for row in rows])}
    for row, run in runs.items():
        study.score([run], row.data)
    table, pooled = [], {kind: [] for kind in FOLD_KINDS}  # type: ignore[var-annotated]
    for name in names:
        dataset = load_dataset(study.dataset(name))
        samples = dataset.split("test").annotated().samples
        totals = []
        for kind in FOLD_KINDS:
            counts = study.counts[runs[Row((name,), kind)], name]
            pooled[kind].append(counts)
            totals.append(sum(counts, Counts()))
        first = totals[0]
        share = f"{(first.tp + first.fn) / (first.tp + first.fp + first.fn + first.tn):.1%}"
        table.append(
            [
                f"{samples[0].z}–{samples[-1].z}",
                len(dataset.split("train")),
                len(samples),
                share,
                *(t.iou for t in totals),
            ]
        )
    page.table(["test sections", "train", "test", "foreground", *FOLD_KINDS], table)
    block = [fold for fold, counts in enumerate(pooled[FROZEN]) for _ in counts]
    means = [
        between(mean_of_runs([[c for part in pooled[kind] for c in part]], block).to_json())
        for kind in FOLD_KINDS
    ]
    page.text("All sections pooled, each scored by the model that did not see its block (5 blocks resampled): "
              + "; ".join(f"{kind} {mean}" for kind, mean in zip(FOLD_KINDS, means, strict=True)) + ".")  # fmt: skip


def _cost_section(page: Document, trained: Trained) -> None:
    page.section(
        "Time and memory",
        "Seconds of training without validation and peak resident memory of the process, means over seeds; embedding is "
        "paid once for all runs, and LoRA's seconds come on top of those of the frozen run it begins from. "
        f"{trained.study.jobs} runs at a time shared the cores, and at times other programs: seconds are upper bounds.",
    )
    table = []
    for row in ROWS:
        if row not in trained.runs:
            continue
        metrics = [run["metrics"] for run in trained.runs[row]]

        def mean(key: str, metrics: list[dict[str, Any]] = metrics) -> float:
            return float(np.mean([m[key] for m in metrics]))

        parameters = (metrics[0]["head_parameters"] + metrics[0]["adapter_parameters"]) / 1e6
        cost = [f"{mean('seconds'):.0f}", f"{mean('peak_memory_mib') / 1024:.1f}", f"{parameters:.2f}"]
        table.append([title(row.data), row.kind, metrics[0]["train_slices"], metrics[0]["steps"], *cost])
    page.table(
        ["trained on", "model", "slices", "steps", "seconds", "peak GiB", "trained parameters (M)"], table
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the tables")
    parser.add_argument("--lora-seeds", type=int, nargs="*", default=[0, 1, 2], help="of LoRA")
    parser.add_argument("--tokens-seeds", type=int, nargs="*", default=[0, 1, 2], help="of tokens alone")
    parser.add_argument("--both-seeds", type=int, nargs="*", default=[0, 1, 2], help="of training on both")
    parser.add_argument("--curve-seeds", type=int, nargs="*", default=[0], help="of the curve over slices")
    parser.add_argument("--jobs", type=int, default=2, help="runs trained at a time")
    parser.add_argument(
        "--folds", action=argparse.BooleanOptionalAction, default=True, help="all test blocks of VNC"
    )
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of results.md")
    given = parser.parse_args()
    study = Study(given.shared.resolve(), given.root.resolve(), given.jobs, KINDS)
    refusal = study.compose()
    trained = train(study, given)
    backbone = trained.runs[ROWS[0]][0]["backbone"]
    weights = study.shared / "weights" / WEIGHTS
    page = Document(
        "Results",
        COMMAND,
        f"Backbone: {backbone}, a ViT-S/14 descended from DINOv2 by further training; these are not DINOv2's "
        f"numbers. Weights: `{WEIGHTS}`, sha256 `{sha256_file(weights)[:16]}…`.",
    )
    _data_section(page, study, refusal)
    _matrix_section(page, trained, given.out / "images")
    _comparison_section(page, trained)
    _bars_section(page, trained)
    if given.curve_seeds:
        _curve_section(page, trained, given.out / "images")
    if given.folds:
        _folds_section(page, study, given.seeds[0])
    _cost_section(page, trained)
    _distance_section(page, study)
    page.write(given.out / "results.md")


if __name__ == "__main__":
    main()
