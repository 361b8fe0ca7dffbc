"""``emvfm predict``: a run on images, stacks and volumes of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_run
from emvfm.segmentation.prediction_config import PredictConfig

__all__ = ["register"]

_SHOWN = 20  # images that are listed; the record has all


def _lines(record: dict[str, Any]) -> list[str]:
    from rich.markup import escape

    lines = []
    for image in record["images"][:_SHOWN]:
        size = " x ".join(map(str, image["shape"]))
        found = f", {image['instances']} instances" if image["instances"] is not None else ""
        lines.append(f"{escape(image['name'])}: {size} px, {image['foreground']:.1%} foreground{found}")
    if len(record["images"]) > _SHOWN:
        lines.append(f"… and {len(record['images']) - _SHOWN} more")
    return lines


def register(app: typer.Typer) -> None:
    @command(app, "predict", PredictConfig)
    def predict(
        call: Call,
        config: PredictConfig,
        run: Annotated[str, typer.Argument(help="Run, by name or folder.", autocompletion=complete_run)],
        source: Annotated[
            str,
            typer.Argument(
                metavar="INPUT",
                help="Image, folder, TIFF stack, HDF5 (file.h5:/raw), Zarr, N5, or dataset (name:split).",
            ),
        ],
        out: Annotated[
            Path, typer.Option(help="File ending in .tif or .ome.zarr; a folder where several are written.")
        ],
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")] = False,
    ) -> None:
        """Segment images of any size with a run: tiled, resumable, as TIFF or OME-Zarr."""
        from rich.markup import escape

        from emvfm.segmentation.checkpoints import load_run
        from emvfm.segmentation.prediction_job import predict as predict_input
        from emvfm.studies.novelty import novelty_of

        segmenter = load_run(call.workspace.find_run(run), call.workspace)
        judge, remark = None, "not asked for"
        if config.ood != "off":
            judge, remark = novelty_of(segmenter, config, call.workspace, console=call.console)
        found = predict_input(
            segmenter,
            source,
            out,
            config,
            call.workspace,
            judge=judge,
            overwrite=overwrite,
            console=call.console,
        )
        for line in found.record["remarks"]:
            call.console.print(f"[yellow]{escape(line)}[/]")
        unlike = [image for image in found.record["images"] if image["ood"] and image["ood"]["flagged"]]
        for image in unlike[:_SHOWN]:
            call.console.print(
                f"[yellow]{escape(image['name'])} looks unlike the run's training images:[/] "
                f"{escape(image['ood']['sentence'])}"
            )
        if len(unlike) > _SHOWN:
            call.console.print(f"[yellow]… and {len(unlike) - _SHOWN} more[/]")
        if judge is None and config.ood != "off":
            call.console.print(f"[dim]not compared with the training images: {escape(remark)}[/]")
        head = f"[bold]{escape(str(found.out))}[/]" + ("" if found.fresh else " (was there already)")
        about = f"{', '.join(found.record['what'])} by {escape(found.record['model'])}"
        above = f"foreground above {found.record['threshold']:.3g}"
        if found.record["chosen_on"] is not None:
            above += f", chosen on {escape(found.record['chosen_on'])}"
        call.result(
            {**found.to_json(), "ood": remark if judge is None else config.ood},
            "\n".join([head, f"{about}, {above}", *_lines(found.record)]),
        )
