"""docs/results-expression.md: gene expression of her2st and osmFISH, beside what any backbone must beat.

``nox -s expression -- --shared FOLDER`` composes the tiles if they are not there, runs the commands as a user would, and
reads what they said. What the store has is not embedded again, and no command is run twice; with ``--minutes`` the rest
is left to the next call.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.document import Document
from benchmarks.parts import StudyInParts
from benchmarks.study import WEIGHTS, Study
from benchmarks.verdicts import between, verdict_table

COMMAND = "nox -s expression -- --shared FOLDER"
TINY = "vit_tiny_patch16_224_augreg_in21k_ft_in1k_fp16.safetensors"
HEADS = ("--head", "ridge", "--head", "1nn", "--head", "knn", "--head", "pls")
_KEPT = ("independent", "depth", "left out", "too narrow")
SEEDS = ("--untrained-seeds", "3")


def _backbones(shared: Path) -> dict[str, list[str]]:
    return {
        "ViT-Ti of ImageNet": [
            "--backbone", "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", "--weights", str(shared / "weights" / TINY),
        ],
        "ViT-S (imgfocus)": ["--backbone", "dinov2_vits14", "--weights", str(shared / "weights" / WEIGHTS)],
    }  # fmt: skip


def _compose(study: Study) -> None:
    if not (study.dataset("her2st") / "dataset.json").is_file():
        source = str(study.shared / "data" / "her2st")
        study.call("data", "compose", "her2st", "--spots", source, "--tile", "112um")


def _cells(study: Study) -> Path:
    """Write one table of cells from the two of osmFISH."""
    path, source = study.root / "osmfish.csv", study.shared / "data" / "osmfish"

    def rows(name: str) -> list[dict[str, str]]:
        with (source / f"osmFISH_prep_{name}.txt").open(encoding="utf-8") as stream:
            return list(csv.DictReader(stream, delimiter="\t"))

    types = {row["CellID"]: row["ClusterName"] for row in rows("cell_metadata")}
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["spot", "x", "y", "type"])
        writer.writerows([r["ID"], r["X"], r["Y"], types[r["ID"]]] for r in rows("cell_coordinates"))
    return path


def _scores(page: Document, found: dict[str, Any]) -> None:
    heads = found["heads"]
    rows = []
    for i, model in enumerate(heads[0]["models"]):
        own = [head["models"][i] for head in heads]
        rows.append([model["name"], *(between(m["pearson"]) for m in own), between(own[0]["skill"], "+")])
    names = [head["head"]["name"] for head in heads]
    page.table(["model", *names, f"skill, {names[0]}"], rows)


def _verdicts(page: Document, found: dict[str, Any]) -> None:
    page.bullets(
        [f"{head['head']['name']}: {d['verdict']}" for head in found["heads"] for d in head["differences"]]
    )


def _audit(page: Document, study: Study, found: dict[str, Any]) -> None:
    _, audit, _ = study.call("bench", "audit", found["folder"])
    verdict_table(
        page, audit, ["minus", "which"],
        lambda v: [v["role"], f"{v['rival']}{', ' * bool(v['choice'])}{v['choice']}"],
    )  # fmt: skip


def _picture(page: Document, path: Path, found: dict[str, Any], name: str, said: str) -> None:
    """Lay the figure of all models and heads beside the page."""
    picture = f"expression-{name}.png"
    (path.parent / "images").mkdir(exist_ok=True)
    shutil.copyfile(Path(found["folder"]) / "figures" / "models.png", path.parent / "images" / picture)
    page.picture(f"images/{picture}", said)


def _embed(study: Study, backbone: Sequence[str], seeds: int) -> None:
    """Fill the store one backbone at a time, so that no command is long."""
    name = backbone[:2]
    for options in (backbone, *([*name, "--untrained", "--init-seed", str(seed)] for seed in range(seeds))):
        study.call("embed", "her2st", *options)


def _retrieval(page: Document, found: dict[str, Any]) -> None:
    head = next(head for head in found["heads"] if head["head"]["name"] == "1nn")
    page.text(
        "As retrieval: correlation over genes of a spot with its nearest spot of the other sections, and its share of "
        "the way from any spot to the best one.",
    )
    page.table(
        ["model", "nearest", "any spot", "the best", "share"],
        [
            [r["name"], between(r["found"]), r["blind"], r["best"], between(r["share"])]
            for r in head["retrieval"]
        ],
    )


def write(study: Study, page: Path, *, reduced: bool = False) -> None:
    """Run everything, or the smaller backbone alone, and write the page."""
    _compose(study)
    seeds = SEEDS
    backbones = _backbones(study.shared)
    if reduced:
        backbones = dict(list(backbones.items())[:1])
    counts = ["--counts", str(study.shared / "data" / "her2st" / "data" / "ST-cnts")]
    document = Document(
        "Results: gene expression",
        COMMAND + (" --reduced" if reduced else ""),
        "Five sections of breast cancer (her2st, Andersson et al. 2021): B4 of one patient, C2 to C5 of one tumour of "
        "another. So there are **two** independent units, and nothing here speaks of patients in general. Tiles of "
        "112 µm around each spot; 50 genes chosen by the training sections; Pearson correlation per gene over the "
        "spots of the section left out, mean over genes and folds, with intervals over blocks of spots and genes. "
        "What every row and column means: [Gene expression](expression.md). ViT-S (imgfocus) descends from DINOv2-S by "
        "further training; its numbers are not DINOv2's.",
    )
    for label, backbone in backbones.items():
        _embed(study, backbone, int(seeds[1]))
        _, sections, _ = study.call("bench", "expression", "her2st", *backbone, *counts, *HEADS, *seeds)
        _, patients, _ = study.call(
            "bench", "expression", "her2st", *backbone, *counts, *seeds, "--group", "patient"
        )
        document.section(f"{label}, one section left out")
        _scores(document, sections)
        short = label.partition(" ")[0].lower()
        _picture(document, page, sections, short, f"{label}: correlation with its intervals, by head")
        _verdicts(document, sections)
        _retrieval(document, sections)
        document.text("The audit of ridge:")
        _audit(document, study, sections)
        document.section(
            f"{label}, one patient left out", "Two folds: learned on C, tested on B, and the reverse."
        )
        _scores(document, patients)
        _verdicts(document, patients)
        own = [r for r in sections["remarks"] if any(w in r for w in _KEPT)]
        document.bullets(list(dict.fromkeys(own)))
    tiny = _backbones(study.shared)["ViT-Ti of ImageNet"]
    document.section(
        "The protocol decides the number",
        "The same tiles and ViT-Ti by two presets, one section left out. Counts are not divided by those of the spot, "
        "so depth stays in: every model scores higher, spacing alone included.",
    )
    for preset in ("hest", "hest-1nn"):
        _, found, _ = study.call("bench", "expression", "her2st", *tiny, *counts, *seeds, "--preset", preset)
        document.text(f"`--preset {preset}`:")
        _scores(document, found)
        _verdicts(document, found)
        document.bullets([r for r in found["remarks"] if "alone (log)" in r])
        if preset == "hest-1nn":
            _retrieval(document, found)
    cells = [
        "--counts",
        str(study.shared / "data" / "osmfish" / "osmFISH_prep_expression.txt"),
        "--cell-type",
        "type",
    ]
    _, found, _ = study.call(
        "bench", "expression", str(_cells(study)), *cells, "--genes", "33", "--detected", "0", "--block", "20",
    )  # fmt: skip
    document.section(
        "osmFISH: no image at all",
        "5 328 cells of one section of mouse cortex with 33 genes (Codeluppi et al. 2018), strips of the section left "
        "out. Types were called from the same 33 genes, so what knows types is circular: these numbers say how much an "
        "arrangement could tell, not that it does.",
    )
    _scores(document, found)
    _picture(document, page, found, "osmfish", "osmFISH: correlation with its intervals, by head")
    document.write(page)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--root", type=Path, default=Path("emvfm-workspace"))
    parser.add_argument("--page", type=Path, default=Path("docs/results-expression.md"))
    parser.add_argument("--reduced", action="store_true", help="the smaller backbone alone")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no command after so many")
    given = parser.parse_args(arguments)
    study = StudyInParts(given.shared.resolve(), given.root.resolve(), 1, {}, minutes=given.minutes)
    write(study, given.page, reduced=given.reduced)


if __name__ == "__main__":
    main()
