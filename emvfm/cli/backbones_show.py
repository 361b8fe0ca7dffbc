"""``emvfm backbones show``: the facts of backbones, and what they cost, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emvfm.backbones.options import CostOptions
from emvfm.cli.command import Call

if TYPE_CHECKING:
    from emvfm.backbones.cost import Cost
    from emvfm.backbones.cost_measure import Measured
    from emvfm.backbones.registry import BackboneSpec

__all__ = ["facts", "show"]


def facts(pairs: list[tuple[str, Any]]) -> Any:
    """Return names and values as a table without a header."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in pairs:
        table.add_row(key, str(value))
    return table


def _spec_lines(spec: BackboneSpec, weights: str) -> Any:
    return facts(
        [
            ("name", spec.name),
            ("model", f"{spec.title} ({spec.library} {spec.model}, tag {spec.tag or 'none'})"),
            ("patch, width, depth, heads", f"{spec.patch} px, {spec.width}, {spec.depth}, {spec.heads}"),
            ("prefix tokens", f"{int(spec.has_cls)} class, {spec.registers} registers"),
            ("input slots", ", ".join(spec.slots)),
            ("native size", f"{spec.native} px"),
            ("mean, std", f"{spec.mean}, {spec.std}"),
            ("parameters", f"{spec.parameters:,}"),
            ("LoRA attention", ", ".join(spec.lora_attention)),
            ("LoRA mlp", ", ".join(spec.lora_mlp)),
            ("licence", f"{spec.licence} {spec.licence_url}"),
            ("source", spec.page or "none"),
            ("weights", weights),
        ]
    )


def _table(columns: tuple[str, ...], texts: int) -> Any:
    """Return an empty table whose first `texts` columns are text and the others numbers."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < texts else "right")
    return table


def _cost_table(costs: list[Cost]) -> Any:
    columns = ("backbone", "trained", "trainable", "% of all", "GFLOP a step", "kept MiB", "state MiB")
    table = _table(columns, 2)
    for cost in costs:
        for i, (name, step) in enumerate(cost.steps.items()):
            table.add_row(
                "" if i else cost.spec.name,
                {"frozen": "head only", "lora": "LoRA + head", "full": "everything"}[name],
                f"{step.trainable:,}",
                f"{step.percent:.2f}",
                f"{step.gflops:,.1f}",
                f"{step.kept_mib:,.0f}",
                f"{step.state_mib:,.0f}",
            )
    return table


def _size_table(costs: list[Cost]) -> Any:
    columns = ("backbone", "image", "tokens", "backbone", "head", "LoRA", "GFLOP", "head's")
    table = _table(columns, 1)
    for cost in costs:
        table.add_row(
            cost.spec.name,
            f"{cost.side} px",
            f"{cost.tokens:,}",
            f"{cost.backbone:,}",
            f"{cost.head:,}",
            f"{cost.adapter:,}",
            f"{cost.gflops:,.0f}",
            f"{cost.head_gflops:,.1f}",
        )
    return table


def _measured_table(found: list[tuple[str, Measured]]) -> Any:
    names = ("forward", "lora", "full")
    columns = ("backbone", "on", *(f"{n} ms" for n in names), *(f"{n} peak MiB" for n in names))
    table = _table(columns, 2)
    for backbone, measured in found:
        peaks = [measured.peak_mib[name] for name in names]
        table.add_row(
            backbone,
            f"{measured.device}, {measured.threads} threads, {measured.precision}",
            *(f"{measured.ms[name]:,.0f}" for name in names),
            *("—" if peak is None else f"{peak:,.0f}" for peak in peaks),
        )
    return table


_HOW = (
    "A step is forward and backward on one image; head only: on cached tokens, as a frozen backbone is "
    "trained. Kept: float32 activations that the backward pass needs, an image (about half in bfloat16). "
    "State: weights, gradients and AdamW's moments, whatever the batch."
)


def _as_head_builder(config: CostOptions) -> Any:
    from emvfm.segmentation.heads import build_head

    def build(spec: BackboneSpec) -> Any:
        n = min(config.head_layers, spec.depth)
        return build_head(config.head, n * spec.width, layers=n, patch=spec.patch, width=config.head_width)

    return build


def show(call: Call, config: CostOptions, names: list[str]) -> None:
    """Count what the backbones called `names` cost, and say it."""
    from dataclasses import replace

    from emvfm.backbones.cost import count_cost
    from emvfm.backbones.cost_measure import measure_cost
    from emvfm.backbones.cost_table import REFERENCE_BACKBONES, as_csv, reference_row, row
    from emvfm.backbones.registry import find_spec
    from emvfm.backbones.weights import find_local
    from emvfm.errors import UsageError
    from emvfm.workspace import write_text

    if config.preset == "reference":
        names = names or list(REFERENCE_BACKBONES)
        config = replace(config, head="deconv-reference", head_layers=1)
    if not names:
        raise UsageError("no backbone named", where="NAME", expected="one of `emvfm backbones list`")
    specs = [find_spec(name) for name in names]
    build = _as_head_builder(config)
    costs = [count_cost(spec, config, build) for spec in specs]
    measured = [(s.name, measure_cost(s, config, build)) for s in specs] if config.measure else []
    locals_ = [find_local(spec, call.workspace) for spec in specs]
    rows = [
        {
            **cost.to_json(),
            "weights": str(local.path) if local else None,
            "measured": measured[i][1].to_json() if measured else None,
        }
        for i, (cost, local) in enumerate(zip(costs, locals_, strict=True))
    ]
    reference = config.preset == "reference"
    table = [reference_row(cost, config) if reference else row(cost) for cost in costs]
    if config.to is not None:
        write_text(config.to, as_csv(table))
    lines: list[Any] = []
    if len(specs) == 1:
        missing = f"not here; {call.workspace.weights / (specs[0].stem + '.safetensors')} would be found"
        lines += [_spec_lines(specs[0], str(locals_[0].path) if locals_[0] else missing), ""]
    head = f"{config.head} head on {config.head_layers} layers; LoRA rank {config.lora_rank}"
    lines += [head, "", _size_table(costs), "", _cost_table(costs), "", _HOW]
    lines += ["", _measured_table(measured)] if measured else []
    lines += [f"table: {config.to}"] if config.to is not None else []
    call.result({"backbones": rows, **({"table": table} if reference else {})}, *lines)
