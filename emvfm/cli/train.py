"""``emvfm train``: a segmentation head on frozen embeddings, or with LoRA."""

from __future__ import annotations

from typing import Annotated

import typer

from emvfm.cli.command import Call, command
from emvfm.segmentation.config import TrainConfig

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @command(app, "train", TrainConfig)
    def train(
        call: Call,
        config: TrainConfig,
        force: Annotated[bool, typer.Option("--force", help="Train on data that the audit refused.")] = False,
    ) -> None:
        """Train a segmentation head; resumes by itself, and never trains the same thing twice."""
        from rich.markup import escape

        from emvfm.report.training_figures import learning_curve
        from emvfm.segmentation.training import train as train_run

        run = train_run(config, call.workspace, force=force, draw=learning_curve, console=call.console)
        metrics, facts = run.metrics["train"], run.provenance
        if metrics["val_slices"]:
            judged = (
                f"validation IoU {metrics['best_val_iou']:.3f} at step {metrics['best_step']} "
                f"(on {metrics['val_slices']} slices that also chose the step: not a test score)"
            )
        else:
            judged = "no validation slices: the last step is kept"
        text = (
            f"[bold]{escape(run.path.name)}[/]\n"
            f"{escape(facts['backbone'])}, {facts['adaptation']}; {metrics['train_slices']} training slices, "
            f"{metrics['steps']} steps in {metrics['seconds']:.0f} s\n"
            f"{judged}\n"
            f"next: emvfm eval {escape(run.path.name)} --data {config.data[0].split(':')[0]}"
        )
        call.result({"run": run.path.name, "folder": str(run.path), **facts, "metrics": metrics}, text)
