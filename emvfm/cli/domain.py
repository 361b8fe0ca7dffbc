"""``emvfm domain``: how far apart datasets are to a backbone, and whether that is more than chance."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal

import typer
from annotated_types import Ge, Gt, Lt

from emvfm.backbones.options import BackboneOptions
from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.config import Doc

__all__ = ["FrechetOptions", "register"]


@dataclass(frozen=True)
class FrechetOptions(BackboneOptions):
    """How ``domain fd`` compares."""

    pool: Annotated[Literal["mean", "cls", "mean+cls"], Doc("One vector an image: which.")] = "mean"
    layer: Annotated[int, Doc("Position among the stored layers; -1 is the last.")] = -1
    permutations: Annotated[int, Ge(99), Doc("Exchanges of blocks for the null.")] = 999
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of the interval.")] = 0.95
    seed: int = 0


def register(app: typer.Typer) -> None:
    domain = typer.Typer(help="Compare datasets as a backbone sees them.", no_args_is_help=True)
    app.add_typer(domain, name="domain")

    @command(domain, "fd", FrechetOptions)
    def fd(
        call: Call,
        config: FrechetOptions,
        datasets: Annotated[
            list[str],
            typer.Argument(
                help="Two or more datasets; name:split for one split.", autocompletion=complete_dataset
            ),
        ],
    ) -> None:
        """Fréchet distance of image embeddings, with its null, its interval and a verdict."""
        from rich.markup import escape
        from rich.table import Table

        from emvfm.backbones.loading import load_backbone
        from emvfm.config import dump_yaml, to_dict
        from emvfm.datasets.catalog import open_dataset
        from emvfm.domain.results import compare_frechet
        from emvfm.errors import UsageError
        from emvfm.extraction.pipeline import embed_dataset
        from emvfm.provenance import digest, environment
        from emvfm.report.figures import fd_with_null
        from emvfm.segmentation.metrics import block_labels
        from emvfm.workspace import atomic_folder, write_bytes, write_json, write_text

        if len(datasets) < 2:
            raise UsageError(
                "nothing to compare with", got=", ".join(datasets), expected="two or more datasets"
            )
        opened = {name: open_dataset(call.workspace, name) for name in datasets}
        if len(opened) < len(datasets):
            raise UsageError("a dataset occurs twice", got=", ".join(datasets))
        for name, dataset in opened.items():
            if len(dataset.samples) < 2:
                raise UsageError("too few images", where=name, got=len(dataset.samples), expected="2 or more")
        backbone = load_backbone(config, call.workspace)
        vectors, blocks, key = {}, {}, ""
        for name, dataset in opened.items():
            embeddings = embed_dataset(dataset, backbone, config, call.workspace, console=call.console)
            vectors[name] = embeddings.image_embeddings(config.pool, config.layer)
            blocks[name] = block_labels([s.volume for s in dataset.samples], [s.z for s in dataset.samples])
            key = embeddings.key
        results = [
            compare_frechet(
                (a, b), vectors[a], vectors[b], blocks[a], blocks[b],
                permutations=config.permutations, level=config.level, seed=config.seed,
            )
            for a, b in combinations(datasets, 2)
        ]  # fmt: skip
        digests = {name: dataset.digest for name, dataset in opened.items()}
        identity = digest([key, to_dict(config), digests])
        folder = call.workspace.runs / f"domain-fd-{identity[:10]}"
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["a", "b", "n_a", "n_b", "fd", "low", "high", "p_value", "ratio_to_halves"])
        for r in results:
            writer.writerow([*r.names, *r.n, r.value, r.low, r.high, r.p_value, r.ratio])
        record = {"backbone": backbone.label, "results": [r.to_json() for r in results]}
        with atomic_folder(folder, replace=True) as temporary:
            write_text(temporary / "config.yaml", dump_yaml(to_dict(config)))
            write_json(temporary / "metrics.json", record)
            write_json(
                temporary / "provenance.json",
                {"identity": identity, "datasets": digests, "environment": environment()},
            )
            write_text(temporary / "distances.csv", text.getvalue())
            panels = [
                {
                    "label": " × ".join(r.names),
                    "value": r.value,
                    "null": list(r.null),
                    "low": r.low,
                    "high": r.high,
                }
                for r in results
            ]
            write_bytes(temporary / "figures" / "fd.png", fd_with_null(panels))
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("pair", "n", "Fréchet distance", "permuted, 95 %", "ratio to halves", "p"):
            table.add_column(column)
        for r in results:
            interval = "" if r.low is None else f" [{r.low:.4g}, {r.high:.4g}]"
            bound = f"{sorted(r.null)[int(0.95 * len(r.null))]:.4g}"
            ratio = "—" if r.ratio is None else f"{r.ratio:.1f}"
            table.add_row(
                escape(" × ".join(r.names)),
                " + ".join(map(str, r.n)),
                escape(f"{r.value:.4g}{interval}"),
                bound,
                ratio,
                f"{r.p_value:.3g}",
            )
        call.result(
            {"folder": str(folder), **record},
            table,
            *(escape(r.verdict) for r in results),
            f"[dim]{escape(f'{backbone.label}; {results[0].dimension} dimensions; {folder}')}[/]",
        )
