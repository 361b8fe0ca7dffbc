"""``emvfm demo``: the main job from end to end, on data it makes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emvfm.cli.command import Call, command

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @command(app, "demo")
    def demo(
        call: Call,
        weights: Annotated[
            Path | None,
            typer.Option(help="Weight file of a ViT-S/14; without it the usual places, else untrained."),
        ] = None,
        frozen_steps: Annotated[int, typer.Option(min=1, help="Training steps of each head.")] = 200,
        lora_steps: Annotated[int, typer.Option(min=1, help="Training steps with LoRA.")] = 60,
    ) -> None:
        """See the main job from end to end on synthetic EM: two domains, four models, one answer."""
        from rich.table import Table

        from emvfm.studies.demo import NAMES, DemoOptions, run_demo

        call.console.print("[dim]loading torch[/]")
        options = DemoOptions(weights, frozen_steps, lora_steps, call.seed)
        result = run_demo(options, call.workspace, say=call.console.print, console=call.console)
        table = Table(
            box=None, padding=(0, 2, 0, 0), title="foreground IoU on test slices", title_justify="left"
        )
        for column in ("trained on", "adaptation", *NAMES):
            table.add_column(column)
        for run in dict.fromkeys(cell.run for cell in result.cells):
            row = [cell for cell in result.cells if cell.run == run]
            scores = [f"{c.iou.value:.2f} [{c.iou.low:.2f}, {c.iou.high:.2f}]" for c in row]
            table.add_row(row[0].train, row[0].adaptation, *scores)
        remark = (
            "[yellow]The backbone is untrained[/]: no DINOv2 weights are on this machine and the hub was not reached. "
            "The numbers show that everything works; they say nothing about DINOv2."
        )
        call.result(
            result.to_json(),
            "",
            table,
            "",
            *([] if result.trained else [remark]),
            f"backbone  {result.backbone}",
            f"audit     {', '.join(f'{name} {verdict}' for name, verdict in result.audits.items())}",
            f"distance  {result.distance.verdict}",
            f"[bold]{result.verdict}[/]",
            f"report    {result.report}  ({result.seconds:.0f} s)",
        )
