"""``emvfm domain probe``: can datasets be told apart, and does the task carry over from one to the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import typer
from annotated_types import Ge, Gt, Le, Lt

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.cli.domain.run import Opened, finish, open_blocked
from emvfm.config import Doc
from emvfm.errors import UsageError
from emvfm.studies.options import DomainOptions

__all__ = ["ProbeOptions", "probe", "register"]


@dataclass(frozen=True)
class ProbeOptions(DomainOptions):
    """How ``domain probe`` classifies."""

    classifier: Annotated[Literal["both", "linear", "knn"], Doc("Of the domain probe.")] = "both"
    neighbours: Annotated[int, Ge(1), Doc("Votes of knn.")] = 5
    pca: Annotated[int, Ge(0), Doc("Components before the domain probe; 0 is none.")] = 0
    folds: Annotated[int, Ge(2), Doc("Parts a dataset is cut into at most; each is left out in turn.")] = 6
    gap: Annotated[int, Ge(0), Doc("Blocks beside a tested part that are not learnt from.")] = 1
    permutations: Annotated[int, Ge(19), Doc("Exchanges of parts for the null.")] = 199
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of the intervals.")] = 0.95
    patches: Annotated[int, Ge(2), Doc("Patches of an image for the task probe, at most.")] = 64
    foreground: Annotated[float, Gt(0), Le(1), Doc("Least share of a foreground patch.")] = 0.8
    background: Annotated[float, Ge(0), Lt(1), Doc("Largest share of a background patch.")] = 0.2
    target: Annotated[str, Doc("What the masks show, for the sentences.")] = "mitochondria"
    preset: Annotated[
        Literal["none", "reference"], Doc("reference: PCA-64, one random 80/20 split, domain probe only.")
    ] = "none"


def _settled(config: ProbeOptions) -> ProbeOptions:
    """Return the options with the preset in them; refuse what does not go together."""
    if config.background >= config.foreground:
        raise UsageError(
            "no patch is neither",
            where="--background",
            got=config.background,
            expected=f"< {config.foreground}",
        )
    if config.preset == "none":
        return config
    if config.all_layers or config.layer != -1:
        raise UsageError("the reference probes the last layer", where="--preset")
    # What the reference calls the embedding of an image is the mean of patches, but CLS for OpenCLIP.
    return replace(config, pool="cls" if config.backbone.startswith("openclip") else "mean")


def _reference(config: ProbeOptions, opened: Opened) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """Return the record, the files and the lines of the reference's probe."""
    from itertools import combinations

    from rich.markup import escape

    from emvfm.domain.reference_probe import reference_probe
    from emvfm.report.probe_figures import domain_probe_bars

    domains = opened.domains
    sets = [*combinations(domains, 2), *([tuple(domains)] if len(domains) > 2 else [])]
    found = [
        reference_probe([d.name for d in chosen], [d.vectors(config) for d in chosen], seed=config.seed)
        for chosen in sets
    ]
    bars = [
        {"label": " × ".join(r.names), "value": r.accuracy, "null": [], "chance": r.majority_accuracy}
        for r in found
    ]
    rows = ["datasets,n,n_test,accuracy,auroc,majority_accuracy"]
    rows += [
        f"{' × '.join(r.names)},{'+'.join(map(str, r.n))},{r.n_test},{r.accuracy},{r.auroc},{r.majority_accuracy}"
        for r in found
    ]
    figure = domain_probe_bars(bars, "accuracy on a random 20 %")
    files = {"reference.csv": "\n".join(rows) + "\n", "figures/reference-probe.png": figure}
    return {"reference": [r.to_json() for r in found]}, files, [escape(r.verdict) for r in found]


def _probed(config: ProbeOptions, opened: Opened) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """Return the record, the files and the lines of both probes."""
    from rich.markup import escape

    from emvfm.domain.probe import ProbeSettings
    from emvfm.domain.task_probe import TaskSettings
    from emvfm.studies.domains import chosen_layers
    from emvfm.studies.probes import domain_table, probe_files, probe_layer, task_table

    kinds: tuple[Literal["linear", "knn"], ...] = (
        ("linear", "knn") if config.classifier == "both" else (config.classifier,)
    )
    classifiers = [
        ProbeSettings(
            kind, neighbours=config.neighbours, pca=config.pca, permutations=config.permutations,
            level=config.level, seed=config.seed,
        )
        for kind in kinds
    ]  # fmt: skip
    domains = opened.domains
    task = TaskSettings(
        config.foreground, config.background, config.patches, level=config.level, seed=config.seed
    )
    layers = [
        probe_layer(
            domains, config, position, classifiers, task,
            parts=config.folds, gap=config.gap, target=config.target, dependences=opened.dependences,
        )
        for position in chosen_layers(config, domains)
    ]  # fmt: skip
    lines: list[Any] = [domain_table(layers), ""]
    tasks = task_table(layers)
    if tasks is not None:
        lines += [tasks, ""]
    if len(layers) > 1:
        lines.append(f"block {layers[-1].layer}, the others are in metrics.json:")
    lines += [escape(f"• {verdict}") for verdict in layers[-1].verdicts]
    return {"results": [at.to_json() for at in layers]}, probe_files(layers), lines


def probe(
    call: Call,
    config: ProbeOptions,
    datasets: Annotated[
        list[str],
        typer.Argument(
            help="Two or more datasets; name:split for one split.", autocompletion=complete_dataset
        ),
    ],
) -> None:
    """Classifiers on embeddings: which dataset an image is from, and where the foreground is."""
    config = _settled(config)
    opened = open_blocked(call, config, datasets)
    found = _reference if config.preset == "reference" else _probed
    record, files, lines = found(config, opened)
    finish(call, "probe", config, opened, record, files, *lines, blocked=config.preset == "none")


def register(domain: typer.Typer) -> None:
    command(domain, "probe", ProbeOptions)(probe)
