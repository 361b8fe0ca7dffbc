"""``emvfm domain fd``: the Fréchet distance, and whether it is more than chance."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import typer
from annotated_types import Ge, Gt, Lt

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.config import Doc
from emvfm.studies.options import DomainOptions

__all__ = ["FrechetOptions", "register"]


@dataclass(frozen=True)
class FrechetOptions(DomainOptions):
    """How ``domain fd`` compares."""

    permutations: Annotated[int, Ge(99), Doc("Exchanges of blocks for the null.")] = 999
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of the interval.")] = 0.95


def register(domain: typer.Typer) -> None:
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

        from emvfm.domain.results import compare_frechet
        from emvfm.report.figures import fd_with_null
        from emvfm.studies.domains import chosen_layers, open_domains, write_domain_run

        domains = open_domains(datasets, config, call.workspace, console=call.console)
        results = [
            (
                domains[0].embeddings.layers[layer],
                compare_frechet(
                    (a.name, b.name), a.vectors(config, layer), b.vectors(config, layer), a.blocks, b.blocks,
                    permutations=config.permutations, level=config.level, seed=config.seed,
                ),
            )
            for layer in chosen_layers(config, domains)
            for a, b in combinations(domains, 2)
        ]  # fmt: skip
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["layer", "a", "b", "n_a", "n_b", "fd", "low", "high", "p_value", "ratio_to_halves"])
        for layer, r in results:
            writer.writerow([layer, *r.names, *r.n, r.value, r.low, r.high, r.p_value, r.ratio])
        panels = [
            {
                "label": " × ".join(r.names) + (f", block {layer}" if config.all_layers else ""),
                "value": r.value,
                "null": list(r.null),
                "low": r.low,
                "high": r.high,
            }
            for layer, r in results
        ]
        record = {"results": [{"layer": layer, **r.to_json()} for layer, r in results]}
        folder = write_domain_run(
            call.workspace, "fd", config, domains, record,
            {"distances.csv": text.getvalue(), "figures/fd.png": fd_with_null(panels)},
        )  # fmt: skip
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("pair", "block", "n", "Fréchet distance", "permuted, 95 %", "ratio to halves", "p"):
            table.add_column(column)
        for layer, r in results:
            interval = "" if r.low is None else f" [{r.low:.4g}, {r.high:.4g}]"
            bound = f"{sorted(r.null)[int(0.95 * len(r.null))]:.4g}"
            ratio = "—" if r.ratio is None else f"{r.ratio:.1f}"
            table.add_row(
                escape(" × ".join(r.names)),
                str(layer),
                " + ".join(map(str, r.n)),
                escape(f"{r.value:.4g}{interval}"),
                bound,
                ratio,
                f"{r.p_value:.3g}",
            )
        label = domains[0].embeddings.label
        call.result(
            {"folder": str(folder), "backbone": label, **record},
            table,
            *(escape(r.verdict) for _, r in results),
            f"[dim]{escape(f'{label}; {results[0][1].dimension} dimensions; {folder}')}[/]",
        )
