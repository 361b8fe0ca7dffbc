"""docs/results-audit.md: do trained backbones find mitochondria better than what has learnt nothing?

``nox -s audit -- --shared FOLDER`` trains a linear head on frozen tokens of each backbone, scores it, and audits the
runs, with the commands a user has. With ``--minutes`` it stops between two commands and the same call goes on.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.document import Document
from benchmarks.parts import StudyInParts
from benchmarks.study import FOLDS, WEIGHTS
from benchmarks.verdicts import between
from emvfm.segmentation.comparison import holm

COMMAND = "nox -s audit -- --shared FOLDER"
TINY = "vit_tiny_patch16_224_augreg_in21k_ft_in1k_fp16.safetensors"
SEEDS = 3
RECIPE = (
    "--slices", "18", "--head", "linear", "--views", "1", "--steps", "200", "--batch", "2", "--crop", "224",
    "--input-size", "x0.5",
)  # fmt: skip
#: Datasets whose test slices are one test set.
SETS = {"Lucchi (EPFL labels)": ("lucchi",), "VNC": ("vnc", *(f"vnc-fold{fold}" for fold in FOLDS))}


NOTES = (
    "ViT-S (imgfocus) descends from DINOv2-S by further training; its numbers are not DINOv2's.",
    "IoU at threshold 0.5, after few steps at one learning rate: a rival that wants others is undervalued by this.",
    "Seeds are of the head for trained backbones, of weights and head for untrained ones. Means are compared.",
    "Intervals are over blocks of slices, for these seeds and these heads.",
    "There is no structure baseline: it would be made of the masks, which are the answer.",
    "There is no confound baseline: one stack has no plate and no batch.",
    "The best simple baseline is taken after the fact, anew in every draw, which favours it.",
)


@dataclass(frozen=True)
class Model:
    """One thing that gives tokens, with the options of each of its seeds."""

    name: str
    options: tuple[tuple[str, ...], ...]


def _vit(name: str, backbone: str, weights: Path, seeds: int) -> list[Model]:
    trained = [
        ("--backbone", backbone, "--weights", str(weights), "--seed", str(seed)) for seed in range(seeds)
    ]
    raw = [
        ("--backbone", backbone, "--untrained", "--init-seed", str(s), "--seed", str(s)) for s in range(seeds)
    ]
    return [Model(name, tuple(trained)), Model(f"{name.partition(' (')[0]} untrained", tuple(raw))]


def families(weights: Path, seeds: int = SEEDS) -> dict[str, list[Model]]:
    """Return each trained backbone with its untrained twin, by name."""
    pairs = (
        _vit("ViT-Ti (ImageNet)", "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", weights / TINY, seeds),
        _vit("ViT-S (imgfocus)", "dinov2_vits14", weights / WEIGHTS, seeds),
    )
    return {pair[0].name: pair for pair in pairs}


SIMPLE = [Model(name, (("--backbone", name),)) for name in ("pixel:all", "random:projection", "random:noise")]


def compose(study: StudyInParts, names: Sequence[str]) -> None:
    """Make the datasets of a test set."""
    for name in names:
        if not (study.dataset(name) / "dataset.json").is_file():
            source = study.shared / "data" / ("lucchi++" if name == "lucchi" else "vnc")
            fold = ["--seed", name.removeprefix("vnc-fold")] if "fold" in name else []
            study.call("data", "compose", name, "--from", str(source), "--val", "0", *fold)


def trained(study: StudyInParts, model: Model, names: Sequence[str]) -> list[str]:
    """Train and score a model; return for each of its seeds the runs, with a comma between folds."""
    found = []
    for options in model.options:
        runs = []
        for name in names:
            _, run, _ = study.call("train", "--data", name, *RECIPE, *options)
            study.call("eval", run["run"], "--data", name, "--no-overlays", "--samples", "200")
            runs.append(run["run"])
        found.append(",".join(runs))
    return found


def audit(study: StudyInParts, models: Sequence[Model], names: Sequence[str]) -> dict[str, Any]:
    """Return what the audit says of one trained backbone on one test set."""
    named = [
        f"{model.name.replace(':', ' ')}:{run}" for model in models for run in trained(study, model, names)
    ]
    return study.call("bench", "audit", *named)[1]


def _spread(study: StudyInParts, model: Model, names: Sequence[str]) -> str:
    """Return mean ± deviation over seeds of the IoU of all test slices."""
    values = []
    for runs in trained(study, model, names):
        tp = wrong = 0
        for run, name in zip(runs.split(","), names, strict=True):
            _, found, _ = study.call("eval", run, "--data", name, "--no-overlays", "--samples", "200")
            for image in found["results"][0]["images"]:
                tp, wrong = tp + image["tp"], wrong + image["fp"] + image["fn"]
        values.append(tp / (tp + wrong))
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else "one seed"


def report(study: StudyInParts, page: Document, name: str, groups: dict[str, list[Model]], out: Path) -> None:
    """Add the section of one test set."""
    names = SETS[name]
    audits = {who: audit(study, [*models, *SIMPLE], names) for who, models in groups.items()}
    verdicts = [verdict for found in audits.values() for verdict in found["verdicts"]]
    units = next(iter(audits.values()))["runs"][0]["score"]["n"]
    page.section(name, _tested(names, units))
    scores: dict[str, list[Any]] = {}
    for who, found in audits.items():
        models = [*groups[who], *SIMPLE]
        spreads = {model.name.replace(":", " "): model for model in models}
        for run in found["runs"]:
            model = spreads[run["name"].partition(", mean of")[0]]
            spread = _spread(study, model, names)
            scores.setdefault(run["name"], [run["name"], run["role"], between(run["score"]), spread])
    page.table(["backbone", "role", "IoU", "± over seeds"], list(scores.values()))
    raised = holm([verdict["p_value"] for verdict in verdicts])
    page.table(
        ["model", "minus", "which", "difference of IoU", "p", "p, Holm over the table"],
        [
            [v["trained"].partition(",")[0], v["role"], v["rival"] + (f" ({v['choice']})" if v["choice"] else ""),
             between(v["estimate"], "+"), v["p_value"], p]
            for v, p in zip(verdicts, raised, strict=True)
        ],
    )  # fmt: skip
    page.bullets([verdict["says"] for verdict in verdicts])
    for who, found in audits.items():
        picture = f"audit-{names[0]}-{who.partition(' ')[0].lower()}.png"
        (out / "images").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(found["folder"]) / "figures" / "verdicts.png", out / "images" / picture)
        page.picture(f"images/{picture}", f"{name}: {who} minus its rivals")


def _tested(names: Sequence[str], units: int) -> str:
    if len(names) == 1:
        return (
            f"Trained on 18 slices of the training half, tested on 37 slices of the test half, in {units} blocks. "
            "The two halves are of one block of tissue of one animal."
        )
    return (
        f"Five folds of consecutive slices with a slice left free between training and test: each of the 20 slices is "
        f"tested once, by a head that has not seen it, in {units} blocks of two. Folds share training slices, and all "
        "is one stack of one animal; blocks are few and neighbours, so intervals are rather too narrow."
    )


def write(
    study: StudyInParts, page: Path, *, only: str | None = None, reduced: bool = False, seeds: int = SEEDS
) -> None:
    """Run what is missing and write the page; `only` one dataset, `reduced`: the smaller backbone alone."""
    groups = families(study.shared / "weights", seeds)
    flags = f" --only {only}" * (only is not None) + f" --seeds {seeds}" * (seeds != SEEDS)
    if reduced:
        groups, flags = dict(list(groups.items())[:1]), flags + " --reduced"
    document = Document(
        "Results: audit of segmentation",
        COMMAND + flags,
        "Does a trained backbone find mitochondria better than its own architecture with random weights, than "
        "statistics of pixels, than random numbers? A linear head on frozen tokens, no tuning: 200 steps, 18 slices, "
        "images at half size (a token is 28 to 32 px of the original), all rivals with the same recipe. These are "
        "scores of **coarse probes**, to be compared with each other and not with a segmentation that was meant as "
        "one: see [Results](results.md). What audits do: [Gene expression](expression.md#audits).",
    )
    if flags:
        document.text(
            "**Reduced**: not all datasets, backbones or seeds are here. The command without these options goes on from "
            "what was trained and scored."
        )
    document.bullets([note for note in NOTES if "imgfocus" not in note or not reduced])
    for name, names in SETS.items():
        if only in (None, names[0]):
            compose(study, names)
            report(study, document, name, groups, page.parent)
    document.write(page)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.audit_results", description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--root", type=Path, default=Path("emvfm-workspace"), help="workspace")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of results-audit.md")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no command after so many")
    parser.add_argument("--only", choices=[names[0] for names in SETS.values()], help="one dataset alone")
    parser.add_argument("--reduced", action="store_true", help="the smaller backbone alone")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of each backbone")
    given = parser.parse_args(arguments)
    study = StudyInParts(given.shared.resolve(), given.root.resolve(), 1, {}, minutes=given.minutes)
    write(study, given.out / "results-audit.md", only=given.only, reduced=given.reduced, seeds=given.seeds)


if __name__ == "__main__":
    main()
