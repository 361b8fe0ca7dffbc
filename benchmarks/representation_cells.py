"""The BBBC021 part of docs/results-representations.md: treatment and dose across plates, layers, likeness, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.document import Document
from benchmarks.representation_steps import CELLS, Steps, cell_backbones, cells, flags
from benchmarks.verdicts import between
from emvfm.report.representation_figures import group_bars, similarity_map
from emvfm.workspace import write_bytes

__all__ = ["TRAINED", "CellRuns", "run_cells", "write_cells"]

SMALL, TINY = "ViT-S/14", "ViT-Ti/16"
TRAINED = {SMALL: "ViT-S/14 (imgfocus)", TINY: "ViT-Ti/16"}
_BLOCKS = [word for block in range(12) for word in ("--layers", str(block))]
_VIEW = [*_BLOCKS, "--input-size", "112"]
_NATIVE = ",layers=null,input_size=native"  # what has no blocks sees the crop as it is
_RULE = ["--positives", "same treatment", "--group", "unit", "--draws", "999"]
TASKS = {
    "treatment": [*_RULE, "--exclude", "plate"],
    "dose": [*_RULE, "--exclude", "plate", "--where", "compound!=DMSO"],
    "careless": _RULE,
}
_CARELESS = ("pixel:intensity", "random:onehot=plate")
_FOLDS = {"treatment": ["--split", "plate", "--folds", "6"], "dose": ["--split", "unit", "--folds", "4"]}


@dataclass(frozen=True)
class CellRuns:
    """What the commands said.

    Attributes
    ----------
    counts
        Crops by treatment.
    retrieve, layers
        By task and backbone.
    compared
        Names of the rows of `geometry` and `similarity`, in their order.
    audits
        By task and kind of backbone.
    """

    counts: dict[str, int]
    retrieve: dict[tuple[str, str], dict[str, Any]]
    layers: dict[tuple[str, str], dict[str, Any]]
    geometry: dict[str, Any]
    similarity: dict[str, Any]
    blocks: dict[str, Any]
    compared: tuple[str, ...]
    audits: dict[tuple[str, str], dict[str, Any]]


def run_cells(steps: Steps, seeds: Sequence[int], crops: int) -> CellRuns:
    """Embed the cells and run every command on them."""
    counts = cells(steps.study, crops)
    backbones = cell_backbones(steps.study, seeds)
    retrieve = {
        (task, name): ["bench", "retrieve", CELLS, *_seen(backbone), *rule]
        for name, backbone in backbones.items()
        for task, rule in TASKS.items()
        if task != "careless" or name in (*TRAINED.values(), *_CARELESS)
    }
    # One command at a time fills the store of a backbone; the others read it.
    found = steps.all({key: words for key, words in retrieve.items() if key[0] == "treatment"})
    found |= steps.all({key: words for key, words in retrieve.items() if key[0] != "treatment"})
    asked = [*TRAINED.values(), f"{SMALL} untrained, seed {seeds[0]}", f"{TINY} untrained, seed {seeds[0]}"]
    layers = {
        (task, name): ["bench", "layers", CELLS, *_seen(backbones[name]), *TASKS[task], *_FOLDS[task]]
        for task in ("treatment", "dose")
        for name in (asked if task == "treatment" else TRAINED.values())
    }
    compared = [
        name for name in backbones if not name.startswith("random:onehot") and "Ti/16 untrained" not in name
    ]
    compared.append(f"{TINY} untrained, seed {seeds[0]}")

    def several(command: str, names: Sequence[str], *options: str) -> list[str]:
        return [
            "bench",
            command,
            CELLS,
            *(w for n in names for w in ("--backbone", backbones[n] + _NATIVE * _blind(n))),
            *_VIEW,
            *options,
        ]

    whole: dict[Any, list[str]] = {
        **layers,
        "geometry": several("geometry", compared, "--alike", "treatment", "--leave-out", "unit"),
        "similarity": several(
            "similarity", compared, "--measure", "cka", "--measure", "mutual-knn", "--leave-out", "unit"
        ),
        "blocks": several(
            "similarity",
            [*TRAINED.values()],
            "--all-layers",
            "--measure",
            "cka",
            "--permutations",
            "0",
            "--parts",
            "0",
        ),
    }
    for task in ("treatment", "dose"):
        for kind, trained in TRAINED.items():
            rivals = _rivals(backbones, kind, trained)
            words = [f"{name.replace(':', ' ')}:{found[task, name]['folder']}" for name in rivals]
            whole["audit", task, kind] = ["bench", "audit", *words]
    others = steps.all(whole)
    return CellRuns(
        counts,
        found,
        {key: others[key] for key in layers},
        others["geometry"],
        others["similarity"],
        others["blocks"],
        tuple(compared),
        {key[1:]: one for key, one in others.items() if key[0] == "audit"},
    )


def _blind(name: str) -> bool:
    """Return whether a backbone has no blocks to choose of."""
    return name.startswith(("pixel", "random"))


def _seen(backbone: str) -> list[str]:
    return [*flags(backbone), *(() if _blind(backbone) else _VIEW)]


def _rivals(backbones: dict[str, str], kind: str, trained: str) -> list[str]:
    own = [name for name in backbones if name.startswith(kind) and name != trained]
    return [trained, *own, *filter(_blind, backbones)]


def write_cells(page: Document, runs: CellRuns, images: Path) -> None:
    """Write what was found on the cells, and its pictures."""
    names = [name for task, name in runs.retrieve if task == "treatment"]
    said = ", ".join(f"{n} of {name.replace('uM', 'µM')}" for name, n in runs.counts.items())
    page.section(
        "BBBC021: treatment and dose across plates",
        f"Crops of single MCF-7 cells, drawn by seed 0 from every well of every plate ({said}), 68 px shown at 112 px; "
        "DNA stands in the blue slot, the two cytoskeleton channels, whose names are uncertain, in green and red. A query "
        "is a cell; cells of its own plate are no candidates; positives have its treatment. **Dose** asks the same "
        "among treated cells alone. Precision is averaged by plate and well, 14 of them, and these are resampled. "
        "Backbones: last block, mean of patches. ViT-S/14 (imgfocus) descends from DINOv2 by further training; its "
        "numbers are not DINOv2's. *Shuffled* has the trained weights in another order within each tensor. Intervals "
        "of mAP are wide since a random order scores differently by treatment; *normalised*, (mAP − E) "
        "/ (1 − E), is what to read.",
    )
    rows = []
    for name in names:
        one, dose = runs.retrieve["treatment", name], runs.retrieve["dose", name]
        rows.append([
            name, between(one["overall"]), between(one["normalised"], "+"), between(one["hits"]["1"]),
            between(dose["overall"]), between(dose["normalised"], "+"),
        ])  # fmt: skip
    one, dose = runs.retrieve["treatment", names[0]], runs.retrieve["dose", names[0]]
    rows.append(["random order", one["expected"], "0", one["expected_hits"]["1"], dose["expected"], "0"])
    page.table(["backbone", "treatment: mAP", "normalised", "R@1", "dose: mAP", "normalised"], rows)
    drawn = [_bar(name, runs.retrieve["treatment", name]) for name in names if name != "random:onehot=well"]
    write_bytes(
        images / "representations-treatment.png", group_bars(drawn, 0.05, "normalised precision of treatment")
    )
    page.picture(
        "images/representations-treatment.png", "normalised precision of treatment across plates by backbone"
    )
    _by_treatment(page, runs, names)
    page.text(
        "**Position is the label here.** DMSO stands in B02, 50 µM in B03, 15 µM in B04 and 5 µM in B05 of every plate, so "
        "`random:onehot=well` is right without looking, and no comparison on these crops can part treatment from well. "
        "Plate is held off by the exclusion; without it, knowing the plate alone is above a random order:"
    )
    page.table(
        ["backbone", "mAP, own plate barred", "own plate allowed", "random order, barred", "allowed"],
        [[name, between(runs.retrieve["treatment", name]["overall"]), between(one["overall"]),
          runs.retrieve["treatment", name]["expected"], one["expected"]]
         for (task, name), one in runs.retrieve.items() if task == "careless"],
    )  # fmt: skip
    _layers(page, runs, images)
    _likeness(page, runs, images)
    _audits(page, runs)


def _bar(name: str, found: dict[str, Any]) -> dict[str, Any]:
    value = found["normalised"]
    ends = {end: value[end] for end in ("value", "low", "high")}
    return {"group": name, **ends, "expected": 0.0, "n": value["n"], "q": None}


def _by_treatment(page: Document, runs: CellRuns, names: Sequence[str]) -> None:
    wells = {"B02": "DMSO", "B03": "50 µM", "B04": "15 µM", "B05": "5 µM"}
    rows = []
    for name in names:
        by_well: dict[str, list[float]] = {}
        for group in runs.retrieve["treatment", name]["groups"]:
            by_well.setdefault(group["group"].rpartition(" ")[2], []).append(group["normalised"])
        rows.append([name, *(f"{sum(own) / len(own):+.3f}" for own in (by_well[well] for well in wells))])
    page.text("Normalised precision of treatment, mean over plates:")
    counts = [group["group"].rpartition(" ")[2] for group in runs.retrieve["treatment", names[0]]["groups"]]
    page.table(["backbone", *(f"{drug} ({counts.count(well)} plates)" for well, drug in wells.items())], rows)


def _layers(page: Document, runs: CellRuns, images: Path) -> None:
    page.section(
        "All layers",
        "`bench layers`: twelve blocks, mean and class token, each from the one extraction above. For every fold (a plate; "
        "for dose one of four sets of wells) the layer is chosen by the others. *Hindsight* is by how much the best layer "
        "of all, chosen by the very cells it is scored on, is above that.",
    )
    rows = []
    for (task, name), one in runs.layers.items():
        values = [layer["score"]["value"] for layer in one["results"]]
        rows.append([
            name, task, between(one["nested"]), between(one["last"]), between(one["gain_over_last"], "+"),
            f"{min(values):.3f} to {max(values):.3f}", one["best_in_hindsight"], f"{one['optimism_of_hindsight']:+.3f}",
        ])  # fmt: skip
    page.table(
        [
            "backbone",
            "task",
            "nested mAP",
            "last block",
            "difference",
            "all layers",
            "best in hindsight",
            "hindsight",
        ],
        rows,
    )
    for kind, name in TRAINED.items():
        file = f"representations-layers-{kind.lower().replace('/', '-')}.png"
        source = Path(runs.layers["treatment", name]["folder"]) / "figures/layers.png"
        write_bytes(images / file, source.read_bytes())
        page.picture(f"images/{file}", f"mAP of treatment by block, {name}")


def _likeness(page: Document, runs: CellRuns, images: Path) -> None:
    page.section(
        "Geometry and similarity",
        "The same cells, last block. Alignment is of cells of one treatment; its scale, and that of uniformity, is of unit "
        "vectors, so that representations whose cells all point one way are near in everything.",
    )
    measures = ["participation ratio", "rankme", "two-nn dimension", "mean cosine", "uniformity", "alignment"]
    page.table(
        ["representation", "D", *measures],
        [[name, r["dimensions"], *(_short(r["measures"][m]) for m in measures)]
         for name, r in zip(runs.compared, runs.geometry["results"], strict=True)],
    )  # fmt: skip
    blocks = [f"{name}, block {block}" for name in TRAINED.values() for block in range(12)]
    for one, names, file in (
        (runs.similarity, list(runs.compared), "similarity"),
        (runs.blocks, blocks, "blocks"),
    ):
        picture = similarity_map(np.array(one["matrices"]["cka"], float), names, "linear CKA, debiased")
        write_bytes(images / f"representations-{file}.png", picture)
    page.text("Linear CKA, debiased, with its tree; then of all blocks of the two trained backbones:")
    page.picture("images/representations-similarity.png", "CKA of backbones and baselines")
    page.picture("images/representations-blocks.png", "CKA of all blocks of two trained backbones")
    first, *others = zip(runs.compared, runs.similarity["names"], strict=True)
    by_pair = {(r["measure"], r["b"]): r for r in runs.similarity["results"] if r["a"] == first[1]}
    measured = ("cka", "mutual-knn")
    page.text(
        f"Each against {first[0]}; wells and plates left out in turn; null: rows in random order, 95 % point:"
    )
    page.table(
        ["representation", "CKA", "null", "mutual neighbours", "null"],
        [[name, *(v for m in measured for v in (between(by_pair[m, key]["estimate"]), by_pair[m, key]["null_high"]))]
         for name, key in others],
    )  # fmt: skip


def _short(estimate: dict[str, Any]) -> str:
    value = estimate["value"]
    return "–" if value is None else f"{value:.3g}"


def _audits(page: Document, runs: CellRuns) -> None:
    page.section(
        "Verdicts",
        "`bench audit` of the runs above: paired differences over the same 14 plates and wells, Holm over the verdicts of "
        "an audit. Shuffled weights count among the untrained. *Best* is the best after the fact, taken "
        "anew in every draw, which favours it.",
    )
    for (task, kind), audit in runs.audits.items():
        page.text(f"{TRAINED[kind]}, {task}:")
        page.table(
            ["minus", "which", "difference", "p, Holm", "in words"],
            [[v["role"], f"{v['rival']}{', ' * bool(v['choice'])}{v['choice']}", between(v["estimate"], "+"),
              v["p_holm"], v["says"]] for v in audit["verdicts"]],
        )  # fmt: skip
