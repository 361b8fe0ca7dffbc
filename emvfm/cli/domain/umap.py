"""``emvfm domain umap``: a map that keeps neighbours together, by UMAP, t-SNE or PaCMAP."""

from __future__ import annotations

from typing import Annotated

import typer

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.cli.domain.run import finish, open_blocked
from emvfm.studies.projection_options import UmapOptions

__all__ = ["register", "umap"]


def umap(
    call: Call,
    config: UmapOptions,
    datasets: Annotated[
        list[str],
        typer.Argument(
            help="One or more datasets; name:split for one split.", autocompletion=complete_dataset
        ),
    ],
) -> None:
    """Map images or patches by UMAP, t-SNE or PaCMAP: scatters and an interactive page; for looking only."""
    from rich.table import Table

    from emvfm.domain.neighbour_maps import REMARK
    from emvfm.studies.umap import METHODS, check_options, map_rows, umap_files

    check_options(config)
    opened = open_blocked(call, config, datasets, least=1)
    domains = opened.domains
    config, rows, layers, shown = map_rows(domains, config)
    counts = [int((rows.domain == g).sum()) for g in range(len(domains))]
    record = {
        "unit": "patch" if config.patches else "image",
        "names": [d.name for d in domains],
        "n": counts,
        "results": [layer.to_json() for layer in layers],
        "verdict": REMARK,
    }
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("block", "method", "n", "from components", "variance kept", "library"):
        table.add_column(column)
    for layer in layers:
        table.add_row(
            str(layer.block),
            METHODS[layer.map.method],
            " + ".join(map(str, counts)),
            str(layer.components),
            f"{100 * layer.kept:.1f} %",
            layer.map.library,
        )
    finish(
        call,
        "umap",
        config,
        opened,
        record,
        umap_files(rows, layers, shown, config),
        table,
        REMARK,
        blocked=False,
    )


def register(domain: typer.Typer) -> None:
    command(domain, "umap", UmapOptions)(umap)
