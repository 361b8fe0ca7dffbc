"""docs/results-domains.md: Lucchi and VNC as three backbones see them, all layers, with every null.

``nox -s domains -- --shared FOLDER`` composes the datasets if they are not there, runs the domain commands as a user
would, and reads their tables. What a command has computed before is not computed again.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.document import Document
from benchmarks.study import WEIGHTS, Study
from emvfm.workspace import read_json

COMMAND = "nox -s domains -- --shared FOLDER"
TINY = "vit_tiny_patch16_224_augreg_in21k_ft_in1k_fp16.safetensors"
PAIRS = (("lucchi", "vnc"), ("lucchi:train", "lucchi:test"))


@dataclass(frozen=True)
class Seen:
    """The tables of one backbone's runs, by command and pair."""

    label: str
    folders: dict[tuple[str, tuple[str, ...]], Path]

    def table(self, command: str, pair: tuple[str, ...], name: str) -> list[dict[str, str]]:
        """Return the rows of a CSV file that a command wrote."""
        with (self.folders[command, pair] / name).open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))


def look(study: Study, backbone: Sequence[str]) -> Seen:
    """Run every command on both pairs of datasets."""
    folders: dict[tuple[str, tuple[str, ...]], Path] = {}
    label = ""
    for pair in PAIRS:
        for command in ("fd", "kd", "probe", "ood"):
            _, found, _ = study.call("domain", command, *pair, *backbone, "--all-layers")
            folders[command, pair], label = Path(found["folder"]), found["backbone"]
    return Seen(label, folders)


def _interval(row: dict[str, str], name: str, form: str = ".3f") -> str:
    def text(value: str) -> str:
        return format(float(value), form)

    ends = row.get(f"{name}_low"), row.get(f"{name}_high")
    return text(row[name]) + (f" [{text(ends[0])}, {text(ends[1])}]" if all(ends) else "")  # type: ignore[arg-type]


def _dependence(page: Document, seen: Sequence[Seen]) -> None:
    page.section(
        "How far to trust p-values here",
        "Every null exchanges blocks of slices as if they were independent. Beside the blocks stands over how many slices "
        "embeddings depend on each other (integrated autocorrelation time along the stacks, the longest of all layers). "
        "Where blocks are shorter than is needed, p-values and intervals on this page are too small by an unknown amount, "
        "and the distance between halves of one dataset is the better yardstick.",
    )
    rows = []
    for backbone in seen:
        for pair in PAIRS:
            for found in read_json(backbone.folders["fd", pair] / "metrics.json")["dependence"]:
                cells = (
                    f"{found[key]:.1f}" if found[key] is not None else "–" for key in ("block", "length")
                )
                rows.append([backbone.label, found["name"], found["blocks"], *cells, found["needed"], found["longest"],
                             "yes" if found["enough"] else "no"])  # fmt: skip
    page.table(
        ["backbone", "dataset", "blocks", "slices a block", "slices of dependence", "slices a block needs",
         "longest stack", "enough"], rows,
    )  # fmt: skip


def _distances(page: Document, seen: Sequence[Seen]) -> None:
    page.section(
        "How far apart",
        "Fréchet distance and cubic kernel distance (unbiased) of image embeddings (mean of patches), by block of the "
        "transformer. Ratio: distance between halves of the two over distance between halves of one of them, at equal "
        "n, for the kernel distance both. p: 999 exchanges of blocks of slices; brackets: block jackknife.",
    )
    rows = []
    for backbone in seen:
        for pair in PAIRS:
            kernels = {
                r["layer"]: r
                for r in backbone.table("kd", pair, "distances.csv")
                if r["measure"] == "polynomial"
            }
            for r in backbone.table("fd", pair, "distances.csv"):
                k = kernels[r["layer"]]
                value = f"{float(r['value']):.4g} [{float(r['low']):.4g}, {float(r['high']):.4g}]"
                rows.append([
                    backbone.label, " × ".join(pair), r["layer"], f"{r['n_a']} + {r['n_b']}",
                    f"{r['blocks_a']} + {r['blocks_b']}", value, float(r["ratio_to_halves"] or "nan"), float(r["p_value"]),
                    f"{float(k['between_halves']):.3g} / {float(k['within_halves']):.3g}", float(k["p_value"]),
                ])  # fmt: skip
    page.table(
        [
            "backbone",
            "pair",
            "block",
            "n",
            "blocks of slices",
            "FD",
            "ratio to halves",
            "p",
            "KD between / within",
            "p",
        ],
        rows,
    )


def _domain_probe(page: Document, seen: Sequence[Seen]) -> None:
    page.section(
        "Can a classifier tell them apart",
        "Linear probe on image embeddings, tested on blocks of slices that it has not seen, nor their neighbours; "
        "p: exchanges of whole parts, the pipeline refitted each time.",
    )
    rows = [
        [b.label, r["datasets"], r["layer"], r["n"], r["blocks"], _interval(r, "balanced_accuracy"), _interval(r, "auroc"),
         float(r["p_value"])]
        for b in seen for pair in PAIRS for r in b.table("probe", pair, "domain.csv") if r["classifier"] == "linear"
    ]  # fmt: skip
    page.table(
        ["backbone", "pair", "block", "n", "blocks of slices", "balanced accuracy", "AUROC", "p"], rows
    )


def _task_probe(page: Document, seen: Sequence[Seen]) -> None:
    page.section(
        "Does the task carry over",
        "A linear probe for mitochondria on single patches (foreground at least 0.8 of a patch against at most 0.2): "
        "AUROC within a dataset on blocks it has not seen, and on the other dataset.",
    )
    rows = []
    for backbone in seen:
        cells = {
            (r["layer"], r["train"], r["test"]): r for r in backbone.table("probe", PAIRS[0], "task.csv")
        }
        for layer in dict.fromkeys(key[0] for key in cells):
            a, b = PAIRS[0]
            order = ((a, a), (b, a), (b, b), (a, b))
            rows.append([backbone.label, layer, *(_interval(cells[layer, *cell], "auroc") for cell in order)])
    page.table(["backbone", "block", "Lucchi → Lucchi", "VNC → Lucchi", "VNC → VNC", "Lucchi → VNC"], rows)


def _outliers(page: Document, seen: Sequence[Seen]) -> None:
    page.section(
        "Are VNC's sections outliers to Lucchi",
        "Image level, last block; fitted on one part of the first dataset, threshold from another, tested on a third. "
        "Promised: the rate of false alarms that so many calibration blocks can promise at the least.",
    )
    rows = []
    for backbone in seen:
        for pair in PAIRS:
            table = backbone.table("ood", pair, "comparison.csv")
            last = max(int(r["layer"]) for r in table)
            rows += [
                [backbone.label, " against ".join(reversed(pair)), r["score"], f"{r['n_inside']} + {r['n_outside']}",
                 f"{r['blocks_inside']} + {r['blocks_outside']}", _interval(r, "auroc"), _interval(r, "fpr95_out"),
                 float(r["flagged"]), float(r["false_alarms"]), float(r["promised"])]
                for r in table if int(r["layer"]) == last and r["score"] in ("mahalanobis", "knn", "cosine", "norm")
            ]  # fmt: skip
    page.table(
        [
            "backbone",
            "outliers",
            "score",
            "n",
            "blocks of slices",
            "AUROC",
            "FPR95",
            "flagged",
            "false alarms",
            "promised",
        ],
        rows,
    )


def _picture(page: Document, seen: Seen, out: Path) -> Callable[[str, tuple[str, ...], str, str], None]:
    def add(command: str, pair: tuple[str, ...], figure: str, caption: str) -> None:
        source = seen.folders[command, pair] / "figures" / figure
        name = f"domains-{command}-{figure}"
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, out / name)
        page.text(f"![{caption}](images/{name})")

    return add


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.domain_results", description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--root", type=Path, default=Path("emvfm-workspace"), help="workspace")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of results-domains.md")
    given = parser.parse_args()
    study = Study(given.shared.resolve(), given.root.resolve(), jobs=1, kinds={})
    for name, folder in (("lucchi", "lucchi++"), ("vnc", "vnc")):
        if not (study.root / "datasets" / name / "dataset.json").is_file():
            study.call("data", "compose", name, "--from", str(study.shared / "data" / folder), "--val", "0")
    weights = study.shared / "weights"
    backbones: list[list[Any]] = [
        ["--backbone", "dinov2_vits14", "--weights", str(weights / WEIGHTS)],
        ["--backbone", "timm:vit_tiny_patch16_224", "--weights", str(weights / TINY)],
        ["--backbone", "dinov2_vits14", "--untrained", "--init", "kaiming"],
    ]
    seen = [look(study, backbone) for backbone in backbones]
    page = Document(
        "Results: domains",
        COMMAND,
        "Two stacks of mitochondria, Lucchi (EPFL labels, every third section) and VNC, through two trained backbones and "
        "an untrained one; and the two published halves of Lucchi, as a pair that should be alike. ViT-S/14 (imgfocus) "
        "descends from DINOv2 by further training; its numbers are not DINOv2's.",
    )
    picture = _picture(page, seen[0], given.out / "images")
    _dependence(page, seen)
    _distances(page, seen)
    picture("fd", PAIRS[0], "fd-layers.png", "Fréchet distance of Lucchi and VNC by layer, against its null")
    _domain_probe(page, seen)
    _task_probe(page, seen)
    picture("probe", PAIRS[0], "layers.png", "Both probes by layer")
    _outliers(page, seen)
    picture("ood", PAIRS[0], "scores-image.png", "Outlier scores of Lucchi's parts and of VNC")
    page.write(given.out / "results-domains.md")


if __name__ == "__main__":
    main()
