"""``emvfm domain pca``: principal components of images or patches, in one basis for all datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.cli.domain.run import finish, open_blocked
from emvfm.studies.projection_options import PcaOptions

if TYPE_CHECKING:
    from emvfm.studies.pca import ProjectedLayer

__all__ = ["pca", "register"]


def _table(layers: list[ProjectedLayer]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("block", "component", "variance", "share", "between the domains"):
        table.add_column(column)

    def text(value: float | None, low: float | None, high: float | None) -> str:
        if value is None:
            return "—"
        ends = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
        return f"{100 * value:.1f}{ends} %"

    for layer in layers:
        for k, c in enumerate(layer.summary.components[: 5 if len(layers) == 1 else 2]):
            table.add_row(
                str(layer.block),
                f"PC{k + 1}",
                f"{c.variance:.4g}",
                escape(text(c.share, c.low, c.high)),
                escape(text(c.between, c.between_low, c.between_high)),
            )
    return table


def pca(
    call: Call,
    config: PcaOptions,
    datasets: Annotated[
        list[str],
        typer.Argument(
            help="One or more datasets; name:split for one split.", autocompletion=complete_dataset
        ),
    ],
) -> None:
    """Principal components of images or patches: scatters, variance, colour maps, an interactive page."""
    from rich.markup import escape

    from emvfm.studies.pca import pca_files, project

    opened = open_blocked(call, config, datasets, least=1)
    config, rows, layers, shown = project(opened.domains, config)
    record = {
        "rows": len(rows),
        "unit": "patch" if config.patches else "image",
        "results": [{"layer": layer.block, **layer.summary.to_json()} for layer in layers],
    }
    finish(
        call, "pca", config, opened, record, pca_files(rows, layers, shown, config),
        _table(layers),
        *(escape(layer.summary.verdict) for layer in ([shown] if len(layers) > 1 else layers)),
        detail=f"{len(rows)} rows of {shown.summary.dimension} dimensions",
    )  # fmt: skip


def register(domain: typer.Typer) -> None:
    command(domain, "pca", PcaOptions)(pca)
