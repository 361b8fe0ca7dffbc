"""What a run will take: seconds of runs like it where some are finished, else operations over this machine's speed."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emvfm.backbones.cost import Cost, count_cost
from emvfm.backbones.options import CostOptions
from emvfm.backbones.registry import find_spec
from emvfm.datasets.catalog import list_datasets, open_dataset, parse_reference
from emvfm.datasets.manifest import Dataset
from emvfm.errors import EmvfmError
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.heads import build_head
from emvfm.segmentation.recipe import UNET, adaptation_of, resolved
from emvfm.segmentation.runs import RunFolder
from emvfm.studies.grid.plan import PlannedRun
from emvfm.workspace import Workspace

__all__ = ["CostEstimate", "estimate_runs", "finished_rates", "kind_of"]

#: Share of a matrix product's speed that a training step reaches; of a run with tiny parts much less.
_EFFICIENCY = 0.35
_SLICES, _AREA = 100, 1024 * 768  # of a dataset that is not composed yet
_WHOLE = 1008  # side that stands for whole images (--crop 0)
_OVERHEAD = 5.0  # seconds to read, build, score and write


@dataclass(frozen=True)
class CostEstimate:
    """Seconds of a run, and where they come from: ``measured``, ``counted`` or ``unknown``."""

    seconds: float | None
    source: str


def kind_of(config: TrainConfig) -> tuple[Any, ...]:
    """Return what decides how long a step takes."""
    whole = resolved(config, 1)
    names = ("head", "width", "batch", "accumulate", "crop", "input_size", "pixel_size", "fuse", "precision",
             "layers", "lora_rank", "unet_width")  # fmt: skip
    return (find_name(config), adaptation_of(config), *(getattr(whole, name) for name in names))


def find_name(config: TrainConfig) -> str:
    """Return the backbone's full name."""
    return UNET if config.backbone == UNET else find_spec(config.backbone).name


def finished_rates(workspace: Workspace) -> dict[tuple[Any, ...], float]:
    """Return the median of seconds a step of the workspace's finished runs, by kind."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for path in sorted(workspace.runs.glob("*/metrics.json")):
        run = RunFolder(path.parent)
        try:
            trained = run.metrics.get("train", {})
            if trained.get("steps"):
                found.setdefault(kind_of(run.config), []).append(trained["seconds"] / trained["steps"])
        except (EmvfmError, KeyError, OSError):
            continue  # a folder of another kind, or of an older version
    return {kind: float(np.median(rates)) for kind, rates in found.items()}


@functools.cache
def _speed(device: str, precision: str) -> float:
    """Return billions of operations a second of a matrix product in this precision here."""
    import torch

    from emvfm.backbones.precision import choose_device, choose_precision

    chosen = choose_device(device)
    kind = torch.bfloat16 if choose_precision(precision, chosen) == "bfloat16" else torch.float32
    a = torch.rand(1024, 1024, device=chosen).to(kind)
    a @ a
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best / 1e9


@functools.cache
def _cost(backbone: str, head: str, width: int, layers: int, side: int, rank: int) -> Cost:
    options = CostOptions(image=side, head=head, head_width=width, head_layers=layers, lora_rank=rank)

    def build(spec: Any) -> Any:
        return build_head(head, layers * spec.width, layers=layers, patch=spec.patch, width=width)

    return count_cost(find_spec(backbone), options, build)


@dataclass(frozen=True)
class _Amount:
    """Slices of a run's data and of its tests, and the mean of their pixels."""

    train: int
    test: int
    area: float


def _amount(
    config: TrainConfig,
    tests: Sequence[str],
    known: Mapping[str, Dataset],
    sizes: Mapping[str, Mapping[str, int]],
) -> _Amount:
    def found(name: str) -> Dataset | None:
        return known.get(parse_reference(name)[0])

    def slices(name: str, *splits: str) -> int:
        dataset, expected = found(name), sizes.get(parse_reference(name)[0])
        if dataset is not None:
            return len(dataset.split(*splits).annotated())
        return _SLICES if expected is None else sum(expected.get(split, 0) for split in splits)

    train = [slices(name, "train", "val") for name in config.data]
    if config.slices is not None:
        train = [min(n, config.slices) for n in train]
    samples = [s for name in config.data if (dataset := found(name)) for s in dataset.samples]
    area = float(np.mean([s.height * s.width for s in samples])) if samples else float(_AREA)
    return _Amount(max(1, sum(train)), sum(slices(name, "test") for name in tests), area)


def _scale(config: TrainConfig) -> float:
    size = config.input_size
    return (float(size[1:]) ** 2 if size.startswith("x") else 1.0) * (config.scale or 1.0) ** 2


def _steps(config: TrainConfig, amount: _Amount) -> int:
    """Return the optimiser steps; by the paper's protocol no more than these."""
    return resolved(config, amount.train).steps or 0


def _counted(config: TrainConfig, amount: _Amount, rate: float | None, *, embeds: bool) -> float:
    whole = resolved(config, amount.train)
    adaptation, spec = adaptation_of(config), find_spec(config.backbone)
    layers = len(whole.layers) if whole.layers else 4
    side = whole.crop or _WHOLE
    cost = _cost(spec.name, whole.head, whole.width, layers, side, whole.lora_rank)
    flow = _speed(config.device, config.precision) * _EFFICIENCY
    trained = flow if adaptation != "frozen" else _speed(config.device, "float32") * _EFFICIENCY
    image = (cost.gflops + cost.head_gflops) * amount.area * _scale(config) / side**2
    images = amount.test if embeds or adaptation != "frozen" else 0
    images += amount.train * whole.views if embeds and adaptation == "frozen" else 0
    step = cost.steps[adaptation].gflops * (whole.batch or 1) * whole.accumulate / trained
    return (rate or step) * _steps(config, amount) + images * image / flow + _OVERHEAD


def estimate_runs(
    runs: Sequence[PlannedRun],
    tests: Sequence[str],
    workspace: Workspace,
    sizes: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, CostEstimate]:
    """Return the seconds that each run may take, by its key.

    Embeddings are counted for the first of the runs that share them. Seconds a step are those of finished runs
    of the same kind; else the operations of `count_cost` over what a matrix product reaches on this device, good
    to a factor of a few, and an upper bound where a run may stop early. `sizes` are slices a split of datasets that are
    not composed yet; of others 100 are assumed. A warm start that is not in the plan is counted with the run that
    begins with it.
    """
    rates, seen = finished_rates(workspace), set[tuple[str, str]]()
    names = {parse_reference(name)[0] for run in runs for name in (*run.config.data, *tests)}
    there = set(list_datasets(workspace))
    known = {name: open_dataset(workspace, name) for name in names & there}
    planned, found = {run.key for run in runs}, dict[str, CostEstimate]()
    for run in runs:
        config, amount = run.config, _amount(run.config, tests, known, sizes or {})
        rate = rates.get(kind_of(config))
        if config.backbone == UNET:
            seconds = None if rate is None else rate * _steps(config, amount) + _OVERHEAD
            found[run.key] = CostEstimate(seconds, "unknown" if rate is None else "measured")
            continue
        shared = {(run.store, name) for name in config.data}
        seconds = _counted(config, amount, rate, embeds=not shared <= seen)
        if run.start is not None and run.start not in planned:
            start = replace(config, lora=False, full=False, steps=config.head_steps, batch=None)
            seconds += _counted(start, amount, rates.get(kind_of(start)), embeds=not shared <= seen)
        if adaptation_of(config) == "frozen" or run.start is not None:
            seen |= shared
        found[run.key] = CostEstimate(seconds, "counted" if rate is None else "measured")
    return found
