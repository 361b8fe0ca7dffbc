"""``emvfm demo``: the main job from end to end on data it makes itself.

Two synthetic EM domains are written, composed, audited and embedded; heads are trained on each, on
both, and with LoRA; the train × test matrix and the Fréchet distance answer whether one model serves
both. All of it goes through the very functions that real data goes through.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emvfm.backbones.loading import load_backbone
from emvfm.backbones.options import BackboneOptions
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset
from emvfm.datasets.masks import read_mask
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.domain.results import FrechetComparison, compare_frechet
from emvfm.errors import MissingError
from emvfm.extraction.pipeline import embed_dataset
from emvfm.provenance import environment
from emvfm.report.distance_figures import values_with_nulls
from emvfm.report.figures import iou_matrix, overlay_grid
from emvfm.report.html import Page
from emvfm.segmentation.checkpoints import load_run
from emvfm.segmentation.config import EvalConfig, TrainConfig
from emvfm.segmentation.evaluation import PROTOCOL, Cell, evaluate
from emvfm.segmentation.metrics import block_labels
from emvfm.segmentation.runs import RunFolder
from emvfm.segmentation.training import train
from emvfm.workspace import Workspace, atomic_folder, write_bytes, write_json, write_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["DemoOptions", "DemoResult", "run_demo"]

NAMES = ("demo-a", "demo-b")
_SLICES, _SIZE, _CROP = 24, 256, 252
_LEAST_IOU = 0.3  # below it a model has not learnt its own domain


@dataclass(frozen=True)
class DemoOptions:
    """Weights for the backbone (None: the usual places) and the lengths of the trainings."""

    weights: Path | None = None
    frozen_steps: int = 200
    lora_steps: int = 60
    seed: int = 0


@dataclass(frozen=True)
class DemoResult:
    """What the demo found, and where its report is."""

    backbone: str
    trained: bool
    audits: dict[str, str]
    cells: tuple[Cell, ...]
    distance: FrechetComparison
    seconds: float
    report: Path

    @property
    def verdict(self) -> str:
        """One sentence: does one model serve both, judged at equal budgets."""
        alone = {name: _value(self.cells, name, name) for name in NAMES}
        both = {name: _value(self.cells, "+".join(NAMES), name) for name in NAMES}
        other = {
            name: _value(self.cells, other, name) for name, other in zip(NAMES, NAMES[::-1], strict=True)
        }
        if min(alone.values()) < _LEAST_IOU:
            own = " and ".join(f"{alone[name]:.2f} on {name}" for name in NAMES)
            return f"Nothing to compare: models trained on one domain score only {own} (foreground IoU)."
        worst = min(both[name] - alone[name] for name in NAMES)
        outcome = "serves both" if worst > -0.05 else "does not serve both equally well"
        parts = "; ".join(
            f"on {n} it scores {both[n]:.2f}, its own model {alone[n]:.2f}, the other's {other[n]:.2f}"
            for n in NAMES
        )
        return f"One model {outcome}: {parts} (foreground IoU)."

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "backbone": self.backbone,
            "trained_backbone": self.trained,
            "verdict": self.verdict,
            "audits": self.audits,
            "protocol": PROTOCOL,
            "results": [cell.to_json() for cell in self.cells],
            "frechet": self.distance.to_json(),
            "seconds": self.seconds,
            "report": str(self.report),
        }


def _value(cells: tuple[Cell, ...], trained_on: str, test: str, adaptation: str = "frozen") -> float:
    """Return the pooled IoU of one cell of the matrix."""
    found = (c for c in cells if (c.train, c.test, c.adaptation) == (trained_on, f"{test}:test", adaptation))
    return next(found).iou.value


def _compose(workspace: Workspace, seed: int) -> list[Dataset]:
    datasets = []
    for name, domain in zip(NAMES, ("a", "b"), strict=True):
        if not (workspace.datasets / name / "dataset.json").is_file():
            source = workspace.downloads / f"phantom-{domain}"
            if not (source / "phantom.json").is_file():
                with atomic_folder(source, replace=source.exists()) as folder:
                    shutil.rmtree(folder)
                    write_phantom(folder, domain, n_slices=_SLICES, size=_SIZE, seed=seed)
            compose(name, [source], workspace, ComposeOptions(domain=(name,), seed=seed))
        datasets.append(open_dataset(workspace, name))
    return datasets


def _choose_backbone(options: DemoOptions, workspace: Workspace) -> tuple[BackboneOptions, bool]:
    """Return DINOv2 ViT-S/14 with weights where there are some, else the same network untrained."""
    trained = BackboneOptions(backbone="dinov2_vits14", weights=options.weights)
    try:
        load_backbone(trained, workspace)
    except MissingError:
        if options.weights is not None:
            raise
        return replace(trained, untrained=True, init="kaiming"), False
    return trained, True


def _train_all(
    options: DemoOptions, backbone: BackboneOptions, workspace: Workspace, console: Console | None
) -> list[RunFolder]:
    base = TrainConfig(
        backbone=backbone.backbone,
        weights=backbone.weights,
        untrained=backbone.untrained,
        init=backbone.init,
        head="deconv",  # on tokens alone: the demo is about what a backbone carries
        lr=2e-3,
        steps=options.frozen_steps,
        evaluate_every=50,
        views=1,
        warmup=10,
        crop=_CROP,
        seed=options.seed,
    )
    runs = [
        train(replace(base, data=data), workspace, console=console)
        for data in ((NAMES[0],), (NAMES[1],), NAMES)
    ]
    adapted = replace(
        base,
        data=NAMES,
        lora=True,
        steps=options.lora_steps,
        head_steps=options.frozen_steps,  # so the head it begins with is that of the run before
    )
    return [*runs, train(adapted, workspace, console=console)]


def _distance(
    datasets: list[Dataset], backbone: BackboneOptions, workspace: Workspace, seed: int
) -> FrechetComparison:
    model = load_backbone(backbone, workspace)
    x, y = (embed_dataset(d, model, backbone, workspace).image_embeddings() for d in datasets)
    blocks = [block_labels([s.volume for s in d.samples], [s.z for s in d.samples]) for d in datasets]
    return compare_frechet(NAMES, x, y, *blocks, seed=seed)


def _overlays(run: RunFolder, datasets: list[Dataset], workspace: Workspace) -> bytes:
    segmenter = load_run(run.path, workspace)
    panels = []
    for dataset in datasets:
        for sample in dataset.split("test").samples[::2][:2]:
            image = read_image(dataset.image_path(sample))
            path = dataset.mask_path(sample)
            assert path is not None
            title = f"{dataset.name}, section {sample.z}"
            panels.append((image, read_mask(path), segmenter.predict(image) > 0.5, title))
    return overlay_grid(panels, 4)


def _matrix(cells: tuple[Cell, ...]) -> bytes:
    rows = list(dict.fromkeys((c.train, c.adaptation) for c in cells))
    tests = list(dict.fromkeys(c.test for c in cells))
    lookup = {((c.train, c.adaptation), c.test): c.iou for c in cells}

    def values(name: str) -> np.ndarray:
        return np.array(
            [[getattr(lookup[row, test], name) or np.nan for test in tests] for row in rows], float
        )

    names = [f"{train_set}, {adaptation}" for train_set, adaptation in rows]
    return iou_matrix(values("value"), names, tests, values("low"), values("high"))


def _page(result: DemoResult, overlays: bytes, runs: list[RunFolder], contact_sheets: list[bytes]) -> str:
    page = Page("emvfm demo", "Can one model serve two microscopy datasets?")
    page.verdict(result.verdict, "good" if "serves both:" in result.verdict else "caution")
    if not result.trained:
        page.verdict(_UNTRAINED, "caution")
    page.numbers(
        {
            "backbone": result.backbone,
            "Fréchet distance over halves": "—"
            if result.distance.ratio is None
            else f"{result.distance.ratio:.1f} ×",
            "seconds": round(result.seconds),
        }
    )
    page.section("Train × test", PROTOCOL)
    page.figure(
        _matrix(result.cells), "Foreground IoU with 95 % intervals.", "heat map of train against test sets"
    )
    columns = ["trained on", "adaptation", "test", "slices", "IoU", "low", "high", "IoU per image", "Dice"]
    page.table(
        columns,
        [
            [
                c.train,
                c.adaptation,
                c.test,
                len(c.images),
                c.iou.value,
                c.iou.low,
                c.iou.high,
                c.iou_per_image,
                c.dice.value,
            ]
            for c in result.cells
        ],
        caption=result.cells[0].iou.method,
    )
    page.figure(
        overlays, "What the head trained on both finds on test slices.", "overlays of truth and prediction"
    )
    page.section("How far apart the domains are", result.distance.verdict + ".")
    distance = {
        "label": " × ".join(NAMES),
        "value": result.distance.value,
        "null": list(result.distance.null),
        "low": result.distance.low,
        "high": result.distance.high,
    }
    page.figure(
        values_with_nulls([distance], "Fréchet distance"),
        "The distance against exchanges of blocks of slices.",
        "distance and null",
    )
    page.section(
        "The data, audited",
        "Masks are paired by the numbers in their names and checked against their images.",
    )
    for name, sheet in zip(NAMES, contact_sheets, strict=True):
        page.figure(sheet, f"{name}: audit {result.audits[name]}.", f"contact sheet of {name}")
    page.section("Training", "Runs of the demo; each folder repeats itself with `emvfm train --config`.")
    page.table(
        ["run", "steps", "seconds", "validation IoU", "head parameters", "adapter parameters"],
        [
            [r.path.name, *(r.metrics["train"][k] for k in ("steps", "seconds", "best_val_iou")),
             *(r.metrics["train"][k] for k in ("head_parameters", "adapter_parameters"))]
            for r in runs
        ],
    )  # fmt: skip
    page.provenance({"environment": environment(), "runs": [r.provenance for r in runs]})
    return page.render()


_UNTRAINED = (
    "The backbone is untrained: no DINOv2 weights are on this machine and the hub was not reached, so the network "
    "has random weights. The numbers show that everything works; they say nothing about DINOv2. "
    "`emvfm backbones show dinov2` says which file to put where."
)


def run_demo(
    options: DemoOptions,
    workspace: Workspace,
    *,
    say: Callable[[str], None] = lambda _: None,
    console: Console | None = None,
) -> DemoResult:
    """Run the demo in `workspace` and write its report; finished parts are not done again.

    Parameters
    ----------
    say
        Called with a line before each part.
    """
    start = time.perf_counter()
    say("1  making two synthetic EM domains, composing and auditing them")
    datasets = _compose(workspace, options.seed)
    backbone, trained = _choose_backbone(options, workspace)
    say(
        f"2  embedding {sum(map(len, datasets))} slices with "
        + ("DINOv2 ViT-S/14" if trained else "an untrained ViT-S/14")
    )
    distance = _distance(datasets, backbone, workspace, options.seed)
    say("3  training heads on frozen embeddings, and one with LoRA")
    runs = _train_all(options, backbone, workspace, console)
    say("4  scoring every model on every test set")
    scoring = EvalConfig(data=NAMES, seed=options.seed)
    cells = tuple(evaluate([run.path for run in runs], scoring, workspace))
    folder = workspace.runs / "demo"
    result = DemoResult(
        backbone=runs[0].provenance["backbone"],
        trained=trained,
        audits={d.name: str(d.meta.get("audit")) for d in datasets},
        cells=cells,
        distance=distance,
        seconds=time.perf_counter() - start,
        report=folder / "report.html",
    )
    say("5  drawing the report")
    overlays = _overlays(runs[2], datasets, workspace)
    sheets = [(d.root / "contact_sheet.png").read_bytes() for d in datasets]
    with atomic_folder(folder, replace=True) as temporary:
        write_json(temporary / "metrics.json", result.to_json())
        write_bytes(temporary / "figures" / "overlays.png", overlays)
        write_text(temporary / "report.html", _page(result, overlays, runs, sheets))
    return result
