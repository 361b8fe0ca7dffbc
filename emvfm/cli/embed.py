"""``emvfm embed``: fill the store for some datasets, once."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.extraction.config import EmbedConfig

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @command(app, "embed", EmbedConfig)
    def embed(
        call: Call,
        config: EmbedConfig,
        datasets: Annotated[
            list[str], typer.Argument(help="Datasets, by name or folder.", autocompletion=complete_dataset)
        ],
    ) -> None:
        """Compute the patch embeddings of datasets into the store; what is there is not computed again."""
        from rich.markup import escape
        from rich.table import Table

        from emvfm.backbones.loading import load_backbone
        from emvfm.datasets.catalog import open_dataset
        from emvfm.extraction.pipeline import channels_of, embed_dataset

        opened = [open_dataset(call.workspace, name) for name in datasets]
        backbone = load_backbone(config, call.workspace)
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("dataset", "images", "layers", "token length", "precision", "seconds"):
            table.add_column(column)
        rows, plans = [], []
        for dataset in opened:
            start = time.perf_counter()
            embeddings = embed_dataset(dataset, backbone, config, call.workspace, console=call.console)
            seconds = time.perf_counter() - start
            layers = ", ".join(map(str, embeddings.layers))
            table.add_row(
                escape(dataset.name),
                str(len(embeddings)),
                layers,
                str(embeddings.width),
                backbone.precision,
                f"{seconds:.1f}",
            )
            plan = channels_of(backbone, config, dataset)
            if plan is not None:
                plans.append(f"{dataset.name}: {plan.text()}")
            rows.append(
                {
                    "dataset": dataset.name,
                    **({} if plan is None else {"channels": plan.to_json()}),
                    "images": len(embeddings),
                    "layers": list(embeddings.layers),
                    "width": embeddings.width,
                    "precision": backbone.precision,
                    "seconds": seconds,
                }
            )
        folder = call.workspace.store / embeddings.key
        result = {"backbone": backbone.label, "store": str(folder), "datasets": rows}
        call.result(
            result, table, *map(escape, plans), f"[bold]{escape(backbone.label)}[/]  {escape(str(folder))}"
        )
