"""Probes of embedded datasets, layer by layer, and what a run of them leaves behind."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.domain.classifier_scores import Estimate
from emvfm.domain.dependence import Dependence, joint_caveat
from emvfm.domain.folds import FoldPlan, plan_folds
from emvfm.domain.probe import ProbeSettings, probe_domains, probe_one_stack
from emvfm.domain.probe_results import DomainProbe, StackNull
from emvfm.domain.task_probe import TaskSettings, balanced_patches, probe_task
from emvfm.domain.task_results import TaskProbe
from emvfm.studies.domains import Domain
from emvfm.studies.options import DomainOptions

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["LayerProbes", "domain_table", "probe_files", "probe_layer", "task_table"]


@dataclass(frozen=True)
class LayerProbes:
    """Both probes at one layer.

    Attributes
    ----------
    layer
        Block number.
    domain
        Each pair of datasets with each classifier, then all datasets together where there are more than two.
    stacks
        The same probe between halves of each dataset.
    task
        None where no dataset has the masks it takes.
    impossible
        Datasets without a task probe, and why.
    """

    layer: int
    domain: list[DomainProbe]
    stacks: list[StackNull]
    task: TaskProbe | None
    impossible: dict[str, str]

    @property
    def verdicts(self) -> list[str]:
        said = [probe.verdict for probe in self.domain]
        if self.task is not None:
            return said + self.task.verdicts
        return [
            *said,
            *(f"{name}: the task probe is not possible, {why}" for name, why in self.impossible.items()),
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "domain": [probe.to_json() for probe in self.domain],
            "stacks": [null.to_json() for null in self.stacks],
            "task": None if self.task is None else self.task.to_json(),
            "impossible": self.impossible,
            "verdicts": self.verdicts,
        }


def _labelled(domain: Domain, position: int) -> Iterator[tuple[NDArray[np.float32], NDArray[Any] | None]]:
    """Yield patches of each image with their foreground shares, None for an image without a mask."""
    for i, patches in enumerate(domain.patches(position)):
        if domain.embeddings.samples[i].mask is None:
            yield patches, None
        else:
            yield patches, domain.embeddings.foreground(i)[domain.embeddings.valid(i) >= 0.5]


def _task(
    domains: Sequence[Domain], plans: Sequence[FoldPlan], position: int, settings: TaskSettings, target: str
) -> tuple[TaskProbe | None, dict[str, str]]:
    found, impossible = [], {}
    for domain, plan in zip(domains, plans, strict=True):
        if all(sample.mask is None for sample in domain.embeddings.samples):
            impossible[domain.name] = "no masks"
            continue
        sample = balanced_patches(_labelled(domain, position), len(domain), settings)
        if sample is None:
            impossible[domain.name] = (
                f"no image has patches with at least {settings.foreground:.0%} {target} and others with at most "
                f"{settings.background:.0%}"
            )
            continue
        found.append((domain.name, sample, plan))
    if not found:
        return None, impossible
    names, samples, own = zip(*found, strict=True)
    return probe_task(names, samples, own, settings, target=target, impossible=impossible), impossible


def probe_layer(
    domains: Sequence[Domain],
    options: DomainOptions,
    position: int,
    classifiers: Sequence[ProbeSettings],
    task: TaskSettings,
    *,
    parts: int = 6,
    gap: int = 1,
    target: str = "foreground",
    dependences: Sequence[Dependence] = (),
) -> LayerProbes:
    """Run both probes at one layer.

    Parameters
    ----------
    position
        Among the stored layers.
    classifiers
        One domain probe each.
    parts, gap
        See `emvfm.domain.folds.plan_folds`.
    dependences
        Of the domains, for what their p-values may owe to parts that are too short.
    """
    plans = [
        plan_folds(
            d.blocks, [s.volume for s in d.embeddings.samples], [s.z for s in d.embeddings.samples],
            parts=parts, gap=gap,
        )
        for d in domains
    ]  # fmt: skip
    vectors = [d.vectors(options, position) for d in domains]
    sets: list[tuple[int, ...]] = list(combinations(range(len(domains)), 2))
    if len(domains) > 2:
        sets.append(tuple(range(len(domains))))
    probes, stacks = [], []
    for settings in classifiers:
        own = [
            probe_one_stack(d.name, x, plan, settings)
            for d, x, plan in zip(domains, vectors, plans, strict=True)
        ]
        stacks += own
        for chosen in sets:
            names, xs, its_plans, within = (
                [of[i] for i in chosen] for of in ([d.name for d in domains], vectors, plans, own)
            )
            probe = probe_domains(names, xs, its_plans, settings, within=within)  # type: ignore[arg-type]
            # Parts are exchanged, which are one block each or longer.
            exchanged = [
                replace(d, block=d.block * d.blocks / len(p.runs))
                for d, p in zip(dependences, plans, strict=bool(dependences))
            ]
            caveat = joint_caveat([exchanged[i] for i in chosen] if exchanged else [])
            probes.append(replace(probe, caveat=caveat))
    found, impossible = _task(domains, plans, position, task, target)
    return LayerProbes(domains[0].embeddings.layers[position], probes, stacks, found, impossible)


def _ends(estimate: Estimate | None) -> list[float | None]:
    return [None] * 3 if estimate is None else [estimate.value, estimate.low, estimate.high]


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _bounded(*names: str) -> list[str]:
    return [column for name in names for column in (name, f"{name}_low", f"{name}_high")]


def probe_files(layers: Sequence[LayerProbes]) -> dict[str, bytes | str]:
    """Return tables and figures by path; bars and the matrix are of the last layer."""
    from emvfm.report.probe_figures import domain_probe_bars, layer_curves, task_matrix

    scores = ("balanced_accuracy", "auroc", "proxy_a_distance")
    header = [
        "layer",
        "datasets",
        "classifier",
        "n",
        "blocks",
        *_bounded(*scores),
        "p_value",
        "p_value_auroc",
    ]
    files: dict[str, bytes | str] = {
        "domain.csv": _csv(
            [*header, "accuracy", "majority_accuracy", "chance", "relabellings"],
            [
                [at.layer, " × ".join(p.names), p.classifier, "+".join(map(str, p.n)),
                 "+".join(map(str, p.blocks)), *(v for s in scores for v in _ends(getattr(p, s))),
                 p.balanced_accuracy.p_value, p.auroc.p_value, p.accuracy, p.majority_accuracy, p.chance,
                 p.distinct]
                for at in layers for p in at.domain
            ],
        ),
        "stacks.csv": _csv(
            ["layer", "dataset", "classifier", "n", "parts", "ends", "random_mean"],
            [
                [at.layer, s.name, s.classifier, s.n, s.parts, s.ends, np.mean(s.random) if s.random else None]
                for at in layers for s in at.stacks
            ],
        ),
    }  # fmt: skip
    last = layers[-1]
    several = len({p.classifier for p in last.domain}) > 1
    bars = [
        {
            "label": " × ".join(p.names) + (f", {p.classifier}" if several else ""),
            "value": p.balanced_accuracy.value, "low": p.balanced_accuracy.low,
            "high": p.balanced_accuracy.high, "null": p.null, "chance": p.chance,
            "ends": {s.name: s.ends for s in p.within if s.ends is not None},
        }
        for p in last.domain
    ]  # fmt: skip
    files["figures/domain-probe.png"] = domain_probe_bars(bars)
    tasks = [(at.layer, at.task) for at in layers if at.task is not None]
    if tasks:
        columns = ("auroc", "balanced_accuracy", "average_precision", "difference")
        files["task.csv"] = _csv(
            ["layer", "train", "test", "patches", "blocks", *_bounded(*columns)],
            [
                [layer, c.train, c.test, c.n, c.blocks, *(v for s in columns for v in _ends(getattr(c, s)))]
                for layer, task in tasks
                for c in task.cells
            ],
        )
        files["directions.csv"] = _csv(
            ["layer", "a", "b", *_bounded("cosine"), "halves_a", "halves_b"],
            [[layer, *c.names, c.value, c.low, c.high, *c.halves] for layer, t in tasks for c in t.cosines],
        )
        task = tasks[-1][1]
        cells = np.array([_ends(c.auroc) for c in task.cells], float).reshape(*[len(task.names)] * 2, 3)
        files["figures/task-probe.png"] = task_matrix(cells[..., 0], task.names, cells[..., 1], cells[..., 2])
    if len(layers) > 1:
        files["figures/layers.png"] = layer_curves([at.layer for at in layers], _curves(layers))
    return files


def _curves(layers: Sequence[LayerProbes]) -> dict[str, list[dict[str, Any]]]:
    """Return the curves of the linear probe (else the other) and of the task probe over the layers."""
    kind = layers[0].domain[0].classifier
    first: dict[str, list[DomainProbe]] = {}
    for at in layers:
        for probe in at.domain:
            if probe.classifier == kind and len(probe.names) == 2:
                first.setdefault(" × ".join(probe.names), []).append(probe)
    second: dict[tuple[str, str], list[Estimate | None]] = {}
    for at in layers:
        for cell in at.task.cells if at.task is not None else ():
            second.setdefault((cell.train, cell.test), []).append(cell.auroc)
    return {
        f"domain probe ({kind}), balanced accuracy": [
            {"label": label, **_curve([p.balanced_accuracy for p in probes])}
            for label, probes in first.items()
        ],
        "task probe, AUROC": [
            {
                "label": f"{a}'s own" if a == b else f"{a} → {b}",
                "line": "-" if a == b else "--",
                **_curve(estimates),
            }
            for (a, b), estimates in second.items()
            if any(e is not None for e in estimates)
        ],
    }


def _curve(estimates: Sequence[Estimate | None]) -> dict[str, list[float | None]]:
    values, low, high = zip(*(_ends(e) for e in estimates), strict=True)
    return {"values": list(values), "low": list(low), "high": list(high)}


def domain_table(layers: Sequence[LayerProbes]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("domain probe", "block", "by", "n", "blocks", "balanced accuracy", "AUROC",
                   "A-distance", "p", "accuracy (majority)"):  # fmt: skip
        table.add_column(column)
    for at in layers:
        for p in at.domain:
            table.add_row(
                escape(" × ".join(p.names)),
                str(at.layer),
                p.classifier,
                " + ".join(map(str, p.n)),
                " + ".join(map(str, p.blocks)),
                escape(str(p.balanced_accuracy)),
                escape(str(p.auroc)),
                "—" if p.proxy_a_distance is None else f"{p.proxy_a_distance.value:.2f}",
                f"{p.balanced_accuracy.p_value:.3g}",
                f"{p.accuracy:.2f} ({p.majority_accuracy:.2f})",
            )
    return table


def task_table(layers: Sequence[LayerProbes]) -> Table | None:
    """Return the table of the task probe, None where there is none."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("trained on", "tested on", "block", "patches", "blocks", "AUROC", "balanced accuracy",
                   "average precision", "to own probe"):  # fmt: skip
        table.add_column(column)
    for at in layers:
        for c in at.task.cells if at.task is not None else ():
            estimates = (c.auroc, c.balanced_accuracy, c.average_precision, c.difference)
            shown = ("—" if e is None else escape(str(e)) for e in estimates)
            table.add_row(escape(c.train), escape(c.test), str(at.layer), str(c.n), str(c.blocks), *shown)
    return table if table.row_count else None
