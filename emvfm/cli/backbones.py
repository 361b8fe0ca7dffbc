"""``emvfm backbones``: list the table, show one row, check one with its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from emvfm.backbones.options import CheckOptions
from emvfm.cli.command import Call, command

if TYPE_CHECKING:
    from emvfm.backbones.checking import BackboneCheck
    from emvfm.backbones.describe import Description

__all__ = ["register"]


def _count(parameters: int) -> str:
    """Return a number of parameters as papers write it: 22 M, 1.1 B."""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.1f} B"
    return f"{parameters / 1e6:.0f} M" if parameters >= 1e6 else f"{parameters / 1e6:.2f} M"


def _complete(incomplete: str) -> list[str]:
    from emvfm.backbones.registry import ALIASES, SPECS

    return [n for n in [*ALIASES, *(spec.name for spec in SPECS)] if n.startswith(incomplete)]


Name = Annotated[
    str,
    typer.Argument(
        help="Name of `emvfm backbones list`, timm:NAME, or openclip:MODEL/TAG.",
        autocompletion=_complete,
        show_default=False,
    ),
]


def _facts(pairs: list[tuple[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in pairs:
        table.add_row(key, str(value))
    return table


def _list(call: Call) -> None:
    from rich.table import Table

    from emvfm.backbones.registry import ALIASES, SPECS
    from emvfm.backbones.weights import find_local

    rows = []
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "model", "patch", "width", "depth", "parameters", "licence", "weights"):
        table.add_column(
            column, justify="right" if column in ("patch", "width", "depth", "parameters") else "left"
        )
    for spec in SPECS:
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
                "licence": spec.licence,
                "page": spec.page,
                "weights": str(local.path) if local else None,
            }
        )
        numbers = (str(spec.patch), str(spec.width), str(spec.depth), _count(spec.parameters))
        table.add_row(spec.name, spec.title, *numbers, spec.licence, here)
    short = ", ".join(f"{alias} = {name}" for alias, name in ALIASES.items())
    call.result(
        {"backbones": rows, "aliases": ALIASES},
        table,
        "",
        f"Short names: {short}. Any other ViT of timm: timm:NAME; of OpenCLIP: openclip:MODEL/TAG.",
    )


def _describe_lines(found: Description, weights: str) -> Any:
    spec = found.spec
    pairs = [
        ("name", spec.name),
        ("model", f"{spec.title} ({spec.library} {spec.model}, tag {spec.tag or 'none'})"),
        ("patch, width, depth, heads", f"{spec.patch} px, {spec.width}, {spec.depth}, {spec.heads}"),
        ("prefix tokens", f"{int(spec.has_cls)} class, {spec.registers} registers"),
        ("native size", f"{spec.native} px"),
        ("mean, std", f"{spec.mean}, {spec.std}"),
        ("parameters", f"{found.parameters:,}"),
        ("licence", f"{spec.licence} {spec.licence_url}"),
        ("source", spec.page or "none"),
        ("weights", weights),
        (
            "cost",
            f"{found.gflops:,.0f} GFLOP an image of {found.side} x {found.side} px ({found.tokens} tokens)",
        ),
    ]
    for choice, lora in found.lora.items():
        pairs.append(
            (
                f"LoRA {choice}",
                f"{', '.join(lora['targets'])}; rank {found.rank}: {lora['trainable']:,} trainable",
            )
        )
    return _facts(pairs)


def _show(call: Call, name: Name) -> None:
    from emvfm.backbones.describe import describe
    from emvfm.backbones.registry import find_spec
    from emvfm.backbones.weights import find_local

    spec = find_spec(name)
    found = describe(spec)
    local = find_local(spec, call.workspace)
    missing = f"not here; {call.workspace.weights / (spec.stem + '.safetensors')} would be found"
    call.result(
        {**found.to_json(), "weights": str(local.path) if local else None},
        _describe_lines(found, str(local.path) if local else missing),
    )


def _check_lines(found: BackboneCheck) -> list[Any]:
    from rich.table import Table

    table = Table("layer", "mean", "std", "norm", "cls norm", box=None, header_style="bold", pad_edge=False)
    for layer, numbers in found.layers.items():
        table.add_row(str(layer), *(f"{numbers[key]:.3f}" for key in ("mean", "std", "norm", "cls_norm")))
    times = [f"{name} {ms:.0f} ms" for name, ms in found.ms.items()]
    verdict = "[green]passed[/green]" if found.passed else "[red]failed[/red]"
    facts = _facts(
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
    return [facts, "", table, "", verdict]


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

    @command(group, "show")
    def show_command(call: Call, name: Name) -> None:
        """Show one backbone: licence, source, LoRA targets, parameters and cost; needs no weights."""
        _show(call, name)

    @command(group, "check", CheckOptions)
    def check_command(call: Call, config: CheckOptions, name: Name) -> None:
        """Load a backbone and compare its tokens with the library's own forward; time it."""
        _check(call, config, name)
