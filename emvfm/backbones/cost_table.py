"""Costs as rows of a CSV file: our columns, and those of the reference's parameter table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from emvfm.backbones.cost import Cost
from emvfm.backbones.options import CostOptions

__all__ = ["REFERENCE_BACKBONES", "as_csv", "reference_row", "row"]

#: The backbones of the reference's table.
REFERENCE_BACKBONES = (
    "dinov2_vits14",
    "dinov2_vitb14",
    "dinov2_vitl14",
    "dinov2_vitg14",
    "dinov3_vits16",
    "dinov3_vitb16",
    "dinov3_vitl16",
    "openclip_vitl14_laion2b",
    "openclip_vith14_laion2b",
)


def row(cost: Cost) -> dict[str, Any]:
    """Return everything counted, one number a column."""
    values: dict[str, Any] = {
        "backbone": cost.spec.name,
        "side_px": cost.side,
        "tokens": cost.tokens,
        "backbone_params": cost.backbone,
        "head_params": cost.head,
        "adapter_params": cost.adapter,
        "lora_rank": cost.lora["rank"],
        "forward_gflops": round(cost.gflops, 3),
        "head_gflops": round(cost.head_gflops, 3),
    }
    for name, step in cost.steps.items():
        values |= {
            f"{name}_trainable": step.trainable,
            f"{name}_percent": round(step.percent, 4),
            f"{name}_step_gflops": round(step.gflops, 3),
            f"{name}_activations_mib": round(step.kept_mib, 1),
            f"{name}_state_mib": round(step.state_mib, 1),
        }
    return values


def reference_row(cost: Cost, options: CostOptions) -> dict[str, Any]:
    """Return the columns of the reference's ``param_count_table.py``.

    Shares of the backbone and of the total count the adapter with them. The policy is named as the
    reference names it; ``compatibility_mode`` says that every block has all targets.
    """
    total, with_adapter = cost.backbone + cost.head, cost.backbone + cost.adapter
    policies: dict[tuple[str, ...], str] = {
        ("attention",): "vit_attention_only",
        ("attention+mlp",): "vit_attention_mlp",
    }
    return {
        "backbone_name": cost.spec.family,
        "backbone_variant": cost.spec.variant,
        "backbone_id": cost.spec.name,
        "backbone_params": cost.backbone,
        "seg_head_params": cost.head,
        "total_params_full": total,
        "head_only_trainable_params": cost.head,
        "head_only_pct_total": 100 * cost.head / total,
        "lora_backbone_trainable_params": cost.adapter,
        "lora_backbone_frozen_params": cost.backbone,
        "lora_backbone_pct_backbone": 100 * cost.adapter / with_adapter,
        "lora_backbone_pct_total": 100 * cost.adapter / (with_adapter + cost.head),
        "lora_plus_head_trainable_params": cost.adapter + cost.head,
        "lora_plus_head_pct_total": cost.steps["lora"].percent,
        "lora_rank": options.lora_rank,
        "lora_alpha": options.lora_alpha,
        "lora_policy": policies.get(options.lora_targets, "+".join(options.lora_targets)),
        "lora_dropout": options.lora_dropout,
        "lora_compatibility_mode": cost.lora["blocks"] == cost.spec.depth,
        "lora_targets": cost.lora["layers"],
        "lora_blocks_targeted": cost.lora["blocks"],
        "error": "",
    }


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return `rows`, all with the same columns, as CSV with a header."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
