"""A task scored by every block and pooling of one extraction, and a layer chosen without what it is scored on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError
from emvfm.representations.estimates import Estimate, from_replicates
from emvfm.studies.bench.corrections import plan_of
from emvfm.studies.bench.layer_task import Beside
from emvfm.studies.bench.layer_tasks import WITHIN_FOLDS, task_of
from emvfm.studies.bench.options import LayersOptions
from emvfm.studies.bench.preparation import refined
from emvfm.studies.bench.tables import csv_text, printed, rich_table, strict
from emvfm.studies.profiles import Profiles, open_layers
from emvfm.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LayerScore", "LayerStudy", "open_blocks", "study_layers"]

Floats = NDArray[np.float64]


def open_blocks(
    workspace: Workspace, reference: str, options: LayersOptions, console: Console | None = None
) -> list[Profiles]:
    """Open a dataset at all blocks (or those of ``--layers``) and poolings, embedded once, and refine each."""
    from emvfm.backbones.loading import load_backbone
    from emvfm.studies.profile_tables import is_table

    if is_table(reference):
        raise UsageError("a table has no layers", where=reference, expected="a dataset")
    if options.layers is None:
        options = replace(options, layers=tuple(range(load_backbone(options, workspace).depth)))
    poolings = tuple(dict.fromkeys(options.pools))
    opened = open_layers(workspace, reference, options, poolings, console)
    if options.task not in WITHIN_FOLDS:
        return [refined(one, options) for one in opened]
    if options.correct != "none" and options.aggregate:
        raise UsageError(
            "a correction within folds comes after any average", where="--aggregate", got=", ".join(options.aggregate),
            todo="leave out --aggregate or --correct",
        )  # fmt: skip
    return [refined(one, replace(options, correct="none")) for one in opened]


@dataclass(frozen=True)
class LayerScore:
    """One block and pooling.

    Attributes
    ----------
    score
        Of all items; it says how good the layer is, not how good a chosen one would be.
    inner
        For each fold the score without it, by which layers are chosen.
    chosen
        Folds that chose it.
    """

    layer: int | None
    pooling: str
    score: Estimate
    inner: tuple[float, ...]
    chosen: int

    @property
    def name(self) -> str:
        return f"block {self.layer}, {self.pooling}"

    def to_json(self) -> dict[str, Any]:
        return {
            "layer": self.layer, "pooling": self.pooling, "score": self.score.to_json(),
            "inner": [strict(v) for v in self.inner], "folds_that_chose_it": self.chosen,
        }  # fmt: skip


@dataclass(frozen=True)
class LayerStudy:
    """All layers, and the nested estimate.

    Attributes
    ----------
    scores
        By layer and pooling.
    nested
        Each fold scored by the layer that the others chose.
    last
        The last block, with the pooling that comes first in the options.
    gain
        Nested less last, on the same items.
    best, optimism
        Highest score of any layer, chosen by the very items it is scored on, and how much that is above nested.
    beside
        What knows no image, scored once.
    correction
        How rows were corrected, in words.
    """

    backbone: str
    task: str
    metric: str
    chance: float | None
    unit_name: str
    scores: tuple[LayerScore, ...]
    nested: Estimate
    last: Estimate
    gain: Estimate
    best: str
    optimism: float
    folds: int
    items: int
    digests: dict[str, str]
    seed: int
    beside: tuple[Beside, ...] = ()
    correction: str = "none"

    def to_json(self) -> dict[str, Any]:
        """Return everything as strict JSON values."""
        return {
            "benchmark": "layers",
            "backbone": self.backbone,
            "task": self.task,
            "metric": self.metric,
            "chance": self.chance,
            "protocol": f"{self.folds} folds by {self.unit_name}; each scored by the layer that the others chose",
            "correction": self.correction,
            "n": self.items,
            "seed": self.seed,
            "nested": self.nested.to_json(),
            "last": self.last.to_json(),
            "gain_over_last": self.gain.to_json(),
            "best_in_hindsight": self.best,
            "optimism_of_hindsight": strict(self.optimism),
            "beside": [one.to_json() for one in self.beside],
            "results": [score.to_json() for score in self.scores],
        }

    def files(self) -> dict[str, bytes | str]:
        """Return the table and the figure, by path."""
        from emvfm.report.representation_figures import layer_lines

        header = ["layer", "pooling", "score", "low", "high", "folds_that_chose_it"]
        header += [f"inner_{i + 1}" for i in range(self.folds)]
        rows = [
            [s.layer, s.pooling, s.score.value, s.score.low, s.score.high, s.chosen, *s.inner]
            for s in self.scores
        ]
        drawn: dict[str, list[dict[str, Any]]] = {}
        for s in self.scores:
            row = {
                "layer": s.layer,
                "value": s.score.value,
                "low": s.score.low,
                "high": s.score.high,
                "chosen": s.chosen,
            }
            drawn.setdefault(s.pooling, []).append(row)
        nested = {"value": self.nested.value, "low": self.nested.low, "high": self.nested.high}
        return {
            "layers.csv": csv_text(header, rows),
            "figures/layers.png": layer_lines(
                drawn,
                nested,
                self.chance,
                self.metric,
                {one.name: one.score.value for one in self.beside if one.score is not None},
            ),
        }

    def lines(self) -> list[Any]:
        """Return what the terminal shows."""
        rows = [
            [s.name, printed(s.score), f"{s.chosen} of {self.folds}" if s.chosen else ""] for s in self.scores
        ]
        summary = [
            ["chosen by the other folds", printed(self.nested)],
            ["last block", printed(self.last)],
            ["difference", printed(self.gain)],
        ]
        if self.chance is not None:
            summary.append(["chance", f"{self.chance:.3f}"])
        values = [s.score.value for s in self.scores if math.isfinite(s.score.value)]
        said = (
            f"from {min(values):.3f} to {max(values):.3f} over layers; the best in hindsight, {self.best}, is "
            f"{self.optimism:+.3f} from what choosing without the test gives"
        )
        scores = rich_table(["layer", self.metric, "folds that chose it"], rows)
        found = [scores, "", rich_table(["", self.metric], summary)]
        if self.beside:
            against = [
                [b.name, "undefined" if b.score is None else printed(b.score), f"{printed(b.difference)} ({b.metric})"]
                for b in self.beside
            ]  # fmt: skip
            found += ["", rich_table(["without any image", self.metric, "chosen layers less this"], against)]
        return (
            [*found, said] if self.correction == "none" else [*found, f"corrected: {self.correction}", said]
        )


def _said(profiles: Profiles, options: LayersOptions) -> str:
    """Return how rows are corrected, in words."""
    plan = plan_of(profiles.facts, len(profiles), options) if options.task in WITHIN_FOLDS else None
    if options.correct == "none" or plan is not None:
        return "none" if plan is None else plan.protocol
    by = f" by {', '.join(options.batch)}" if options.batch else ""
    return f"{options.correct}{by}, fitted once on all rows of {options.controls}"


def study_layers(profiles: Sequence[Profiles], options: LayersOptions) -> LayerStudy:
    """Score every layer, and choose one for each fold by the others.

    Parameters
    ----------
    profiles
        Of :func:`open_blocks`: the same rows at every block and pooling.

    Raises
    ------
    UsageError, RefusedError
        What the task lacks, or too few values to split.
    """
    task = task_of(profiles[0], options)
    tables = [task.evaluate(one) for one in profiles]
    inner = np.array([[task.choose(one, fold) for fold in range(task.folds)] for one in profiles])
    if not np.isfinite(inner).any(axis=0).all():
        raise UsageError(
            "a fold without any score to choose by", where=f"--task {options.task}", todo="lower --folds"
        )
    chosen = np.nanargmax(inner, axis=0)
    nested = task.nested(tables, chosen)
    blocks = [-1 if one.layer is None else one.layer for one in profiles]
    last = next(
        i for i, one in enumerate(profiles) if blocks[i] == max(blocks) and one.pooling == profiles[0].pooling
    )
    drawn = task.replicates([*tables, nested], options.resamples, options.seed)

    def estimate(values: Floats) -> Estimate:
        return from_replicates(
            float(values[0]), values[1:], units=task.units, n=task.items, n_units=task.n_units, level=options.level,
            seed=options.seed,
        )  # fmt: skip

    found = [estimate(own) for own in drawn]
    scores = tuple(
        LayerScore(one.layer, one.pooling, score, tuple(own.tolist()), int((chosen == i).sum()))
        for i, (one, score, own) in enumerate(zip(profiles, found[:-1], inner, strict=True))
    )
    top = max(scores, key=lambda s: s.score.value if math.isfinite(s.score.value) else -math.inf)
    return LayerStudy(
        backbone=profiles[0].backbone, task=options.task, metric=task.metric, chance=task.chance,
        unit_name=task.unit_name, scores=scores, nested=found[-1], last=found[last],
        gain=estimate(drawn[-1] - drawn[last]), best=top.name, optimism=top.score.value - found[-1].value,
        folds=task.folds, items=task.items, digests={one.label: one.digest for one in profiles} | dict(task.sources),
        seed=options.seed, beside=tuple(task.beside(nested, options.resamples, options.level, options.seed)),
        correction=_said(profiles[0], options),
    )  # fmt: skip
