"""``emvfm backbones``: the table, what its rows cost, whether one works here, and adapters to take away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emvfm.backbones.options import CheckOptions, CostOptions
from emvfm.cli.backbones_show import facts, show
from emvfm.cli.command import Call, command

if TYPE_CHECKING:
    from emvfm.backbones.checking import BackboneCheck

__all__ = ["register"]


def _count(parameters: int) -> str:
    """Return a number of parameters as papers write it: 22 M, 1.1 B."""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.1f} B"
    return f"{parameters / 1e6:.0f} M" if parameters >= 1e6 else f"{parameters / 1e6:.2f} M"


def _complete(incomplete: str) -> list[str]:
    from emvfm.backbones.cell_models import CELL_SPECS
    from emvfm.backbones.registry import ALIASES, SPECS

    return [n for n in [*ALIASES, *(spec.name for spec in (*SPECS, *CELL_SPECS))] if n.startswith(incomplete)]


Name = Annotated[
    str,
    typer.Argument(
        help="Name of `emvfm backbones list`, timm:NAME, or openclip:MODEL/TAG.",
        autocompletion=_complete,
        show_default=False,
    ),
]


Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="Names of `emvfm backbones list`, timm:NAME, or openclip:MODEL/TAG.",
        autocompletion=_complete,
        show_default=False,
    ),
]
Run = Annotated[
    str, typer.Argument(help="Run trained with --lora, or the folder of an adapter.", show_default=False)
]


def _table(last: str) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "model", "patch", "width", "depth", "parameters", last, "weights"):
        table.add_column(
            column, justify="right" if column in ("patch", "width", "depth", "parameters") else "left"
        )
    return table


def _list(call: Call) -> None:
    from emvfm.backbones.cell_models import CELL_SPECS
    from emvfm.backbones.registry import ALIASES, SPECS
    from emvfm.backbones.weights import find_local

    rows = []
    table, cells = _table("licence"), _table("input slots")
    for spec in (*SPECS, *CELL_SPECS):
        local = find_local(spec, call.workspace)
        here = {"workspace": "here", "cache": "in the hub's cache"}.get(local.origin, "") if local else "—"
        rows.append(
            {
                "name": spec.name,
                "title": spec.title,
                "patch": spec.patch,
                "width": spec.width,
                "depth": spec.depth,
                "parameters": spec.parameters,
                "slots": list(spec.slots),
                "licence": spec.licence,
                "licence_url": spec.licence_url,
                "page": spec.page,
                "weights": str(local.path) if local else None,
            }
        )
        numbers = (str(spec.patch), str(spec.width), str(spec.depth), _count(spec.parameters))
        if spec in CELL_SPECS:
            cells.add_row(spec.name, spec.title, *numbers, ", ".join(spec.slots), here)
        else:
            table.add_row(spec.name, spec.title, *numbers, spec.licence, here)
    short = ", ".join(f"{alias} = {name}" for alias, name in ALIASES.items())
    call.result(
        {"backbones": rows, "aliases": ALIASES},
        table,
        "",
        "Trained on cells (DINO4Cells), from a file of yours: emvfm embed DATASET --backbone NAME --weights FILE",
        cells,
        f"Licence: that of the record the file comes from, {CELL_SPECS[0].licence_url} (fields) or "
        "https://zenodo.org/records/8061426 (single cells); docs/embeddings.md.",
        "",
        f"Short names: {short}. Any other ViT of timm: timm:NAME; of OpenCLIP: openclip:MODEL/TAG.",
        "Baselines stand in a backbone's place: pixel:all, random:noise, structure:density (docs/baselines.md).",
    )


def _export(call: Call, run: str, to: Path) -> None:
    from rich.markup import escape

    from emvfm.backbones.exporting import export_adapter

    found = export_adapter(run, to, call.workspace)
    call.result(
        found.to_json(),
        f"{escape(found.folder)}: {found.tensors} tensors, {found.parameters:,} parameters, "
        f"for {escape(found.backbone)}",
        "README.md there says how plain peft loads it",
    )


def _merge(call: Call, run: str, to: Path, weights: Path | None) -> None:
    from rich.markup import escape

    from emvfm.backbones.exporting import merge_adapter

    found = merge_adapter(run, to, call.workspace, weights=weights)
    call.result(
        found.to_json(),
        f"{escape(found.file)}: {found.parameters:,} parameters of {escape(found.backbone)}, licence "
        f"{escape(found.licence)}",
        f"next: emvfm backbones check {escape(found.backbone)} --weights {escape(found.file)}",
    )


def _check_lines(found: BackboneCheck) -> list[Any]:
    from rich.table import Table

    table = Table("layer", "mean", "std", "norm", "cls norm", box=None, header_style="bold", pad_edge=False)
    for layer, numbers in found.layers.items():
        table.add_row(str(layer), *(f"{numbers[key]:.3f}" for key in ("mean", "std", "norm", "cls_norm")))
    times = [f"{name} {ms:.0f} ms" for name, ms in found.ms.items()]
    verdict = "[green]passed[/green]" if found.passed else "[red]failed[/red]"
    verdicts = facts(
        [
            ("backbone", found.label),
            ("weights", found.weights),
            ("tokens", f"{found.prefix} + {found.grid[0]} x {found.grid[1]}, {found.width} wide"),
            ("library's own forward", f"largest difference {found.own_difference:.2g} in float32"),
            ("other sizes", "grid as it should be" if found.other_size else "wrong grid"),
            (f"time on {found.device}", "; ".join(times) + f" an image of {found.side} px"),
            (
                "precision",
                f"{found.precision}, mean relative error {found.precision_difference:.2g} to float32",
            ),
        ]
    )
    return [verdicts, "", table, "", verdict]


def _check(call: Call, config: CheckOptions, name: Name) -> None:
    from dataclasses import asdict

    from emvfm.backbones.checking import check_backbone
    from emvfm.backbones.loading import load_backbone
    from emvfm.backbones.options import BackboneOptions
    from emvfm.errors import EmvfmError

    backbone = load_backbone(BackboneOptions(backbone=name, **asdict(config)), call.workspace)
    found = check_backbone(backbone, seed=call.seed)
    call.result(found.to_json(), *_check_lines(found))
    if not found.passed:
        raise EmvfmError(
            "the tokens are not those of the library's own forward",
            where=backbone.spec.name,
            got=f"a difference of {found.own_difference:.2g}",
            expected="at most 1e-4",
        )


def register(app: typer.Typer) -> None:
    """Add the group ``backbones`` to `app`."""
    group = typer.Typer(
        name="backbones",
        help="Which backbones there are, what they cost, and whether they work here.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.add_typer(group)

    @command(group, "list")
    def list_command(call: Call) -> None:
        """List the backbones: sizes, licences, and whose weights are on this machine."""
        _list(call)

    @command(group, "show", CostOptions)
    def show_command(call: Call, config: CostOptions, names: Names = None) -> None:
        """Show backbones: licence, source, parameters, operations, memory and time; needs no weights."""
        show(call, config, names or [])

    @command(group, "export")
    def export_command(call: Call, run: Run, to: Annotated[Path, typer.Option(help="New folder.")]) -> None:
        """Write a run's adapter as a folder that plain peft loads, without emvfm."""
        _export(call, run, to)

    @command(group, "merge")
    def merge_command(
        call: Call,
        run: Run,
        to: Annotated[Path, typer.Option(help="New file, .safetensors.", dir_okay=False)],
        weights: Annotated[Path | None, typer.Option(help="Weights of the base, if elsewhere.")] = None,
    ) -> None:
        """Write base and adapter as one weight file under the library's own names."""
        _merge(call, run, to, weights)

    @command(group, "check", CheckOptions)
    def check_command(call: Call, config: CheckOptions, name: Name) -> None:
        """Load a backbone and compare its tokens with the library's own forward; time it."""
        _check(call, config, name)
