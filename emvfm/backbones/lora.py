"""LoRA adapters through peft, each proved alive before it is trained (arXiv 2106.09685).

peft accepts targets whose adapter never takes part in the forward pass, and says nothing. So after every
injection a probe runs one forward and one backward pass: the adapted model must equal the base, and every
adapter tensor must get a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from emvfm.backbones.adapter_check import check_adapter, probe
from emvfm.backbones.adapter_files import load_adapter, save_adapter
from emvfm.backbones.backbone import Backbone
from emvfm.backbones.injection import REWRITES_BASE, adapter_parameters, put_adapter, take_out
from emvfm.backbones.options import LoraOptions
from emvfm.backbones.registry import BackboneSpec
from emvfm.errors import EmvfmError, UsageError
from emvfm.provenance import digest

__all__ = [
    "LoraReport",
    "adapter_parameters",
    "adapter_settings",
    "adapter_targets",
    "block_targets",
    "check_adapter",
    "inject_lora",
    "load_adapter",
    "merge",
    "save_adapter",
]


@dataclass(frozen=True)
class LoraReport:
    """What was injected.

    Attributes
    ----------
    targets, blocks
        Full names of the adapted modules; the adapted blocks.
    rank, alpha
        Shape and scale of the adapter.
    tensors, trainable, total
        Adapter tensors, their parameters, and all parameters of the backbone with them.
    per_block
        Adapter parameters in each adapted block.
    step0
        Largest difference of a probe's tokens before and after the injection.
    """

    targets: tuple[str, ...]
    blocks: tuple[int, ...]
    rank: int
    alpha: float
    tensors: int
    trainable: int
    total: int
    per_block: dict[int, int]
    step0: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "per_block": {str(k): v for k, v in self.per_block.items()}}


def block_targets(spec: BackboneSpec, targets: Sequence[str]) -> tuple[str, ...]:
    """Return the names within a block that `targets` mean.

    Raises
    ------
    UsageError
        Nothing is targeted.
    """
    names: list[str] = []
    for target in targets:
        if target == "attention":
            names += spec.lora_attention
        elif target in ("attention+mlp", "all"):
            names += spec.lora_attention + spec.lora_mlp
        elif target == "mlp":
            names += spec.lora_mlp
        else:
            names += [part.strip() for part in target.split(",") if part.strip()]
    if not names:
        raise UsageError("no LoRA targets", where="lora_targets", expected="attention or attention+mlp")
    return tuple(dict.fromkeys(names))


def _blocks_of(options: LoraOptions, spec: BackboneSpec) -> tuple[int, ...]:
    if options.lora_blocks is None:
        return tuple(range(spec.depth))
    chosen = tuple(sorted(set(options.lora_blocks)))
    if not chosen or chosen[0] < 0 or chosen[-1] >= spec.depth:
        raise UsageError(
            "not blocks of the backbone",
            where="lora_blocks",
            got=", ".join(map(str, options.lora_blocks)) or "none",
            expected=f"0 to {spec.depth - 1}",
        )
    return chosen


def _full_names(backbone: Backbone, blocks: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    """Return full module names, each checked to be a linear layer that peft can adapt."""
    prefix, _ = backbone.library.blocks(backbone.module)
    modules = dict(backbone.module.named_modules())
    full = [f"{prefix}.{index}.{name}" for index in blocks for name in names]
    wrong = [name for name in full if not isinstance(modules.get(name), nn.Linear)]
    if wrong:
        known = [
            name.removeprefix(f"{prefix}.0.")
            for name, module in modules.items()
            if isinstance(module, nn.Linear) and name.startswith(f"{prefix}.0.")
        ]
        raise UsageError(
            "no such linear layer in a block",
            where="lora_targets",
            got=wrong[0].removeprefix(f"{prefix}.{blocks[0]}."),
            expected="attention, attention+mlp, or some of " + ", ".join(known),
        )
    return tuple(full)


def adapter_targets(backbone: Backbone, options: LoraOptions) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the blocks and the full names of the layers that an adapter of `options` goes into.

    The layers must have been opened (``backbone.library.open_for_adapters``).

    Raises
    ------
    UsageError
        Unknown targets or blocks.
    """
    blocks = _blocks_of(options, backbone.spec)
    return blocks, _full_names(backbone, blocks, block_targets(backbone.spec, options.lora_targets))


def adapter_settings(options: LoraOptions) -> dict[str, Any]:
    """Return what `injection.put_adapter` wants to know of `options`."""
    return {
        "rank": options.lora_rank,
        "alpha": float(options.lora_alpha),
        "dropout": options.lora_dropout,
        "dora": options.dora,
        "rslora": options.rslora,
    }


def _check_options(options: LoraOptions) -> None:
    if options.dora and options.lora_init in REWRITES_BASE:
        raise UsageError(
            f"--dora can't begin with {options.lora_init}",
            where="lora_init",
            expected="default, gaussian or orthogonal with DoRA",
        )
    if options.lora_init == "orthogonal" and options.lora_rank % 2:
        raise UsageError(
            "orthogonal initialisation needs an even rank", where="lora_rank", got=options.lora_rank
        )


def _check_rank(backbone: Backbone, options: LoraOptions, targets: Sequence[str]) -> None:
    """Refuse a rank that a decomposition of the weights can't give."""
    if options.lora_init not in (*REWRITES_BASE, "orthogonal"):
        return
    modules = dict(backbone.module.named_modules())
    full = min(min(modules[name].weight.shape) for name in targets)  # type: ignore[union-attr, type-var, arg-type]
    if options.lora_rank > full:
        raise UsageError(
            f"{options.lora_init} can't begin with this rank",
            where="lora_rank",
            got=options.lora_rank,
            expected=f"at most {full}",
        )


def inject_lora(backbone: Backbone, options: LoraOptions, *, seed: int = 0) -> LoraReport:
    """Put a fresh LoRA adapter into `backbone`, in place; all else is frozen.

    Parameters
    ----------
    backbone
        Without an adapter.
    options
        Rank, scale, targets, blocks.
    seed
        Of the adapter's first values; the random state of the process is left alone.

    Raises
    ------
    UsageError
        Unknown targets or blocks, or options that exclude each other.
    EmvfmError
        The adapter is dead, or the adapted model is not the base at step 0.
    """
    _check_options(options)
    if backbone.adapter is not None:
        raise UsageError("the backbone has an adapter already", where=backbone.label, todo="merge it first")
    _blocks_of(options, backbone.spec)  # refused before anything is changed
    with torch.no_grad():
        base = probe(backbone)
        backbone.library.open_for_adapters(backbone.module)
        opened = probe(backbone)
    blocks, targets = adapter_targets(backbone, options)
    _check_rank(backbone, options, targets)
    put_adapter(backbone, targets, adapter_settings(options), options.lora_init, seed)
    with torch.no_grad():
        adapted = probe(backbone)
    scale = max(1.0, float(base.abs().max()))
    # Other kernels for the same attention, and a weight taken apart and added up again, cost digits; a
    # fresh adapter, which adds zero, costs none.
    _same(backbone, base, adapted, 1e-4 * scale)
    _same(backbone, opened, adapted, (1e-4 if options.lora_init in REWRITES_BASE else 1e-5) * scale)
    step0 = float((adapted - base).abs().max())
    tensors = check_adapter(backbone)
    return _report(backbone, blocks, step0, tensors)


def _same(backbone: Backbone, base: Tensor, adapted: Tensor, tolerance: float) -> None:
    difference = float((adapted - base).abs().max())
    if not difference <= tolerance:
        raise EmvfmError(
            "the adapted model is not the base at step 0",
            where=backbone.spec.name,
            got=f"a difference of {difference:.2g}",
            expected=f"at most {tolerance:.2g}",
        )


def _report(backbone: Backbone, blocks: tuple[int, ...], step0: float, tensors: int) -> LoraReport:
    adapter = backbone.adapter
    assert adapter is not None
    prefix, _ = backbone.library.blocks(backbone.module)
    named = adapter_parameters(backbone.module)
    per_block = {
        index: sum(p.numel() for name, p in named if name.startswith(f"{prefix}.{index}."))
        for index in blocks
    }
    return LoraReport(
        adapter.targets,
        blocks,
        adapter.rank,
        adapter.alpha,
        tensors,
        sum(p.numel() for _, p in named),
        sum(p.numel() for p in backbone.module.parameters()),
        per_block,
        step0,
    )


def merge(backbone: Backbone) -> None:
    """Fold the adapter into the weights, in place: plain layers again, at no cost in the forward pass.

    The weights are new ones, with a digest of their own, made from the base's and the adapter's.

    Raises
    ------
    UsageError
        There is no adapter.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if backbone.adapter is None:
        raise UsageError("no adapter to merge", where=backbone.label)
    merged = digest({"base": backbone.weights_digest, "adapter": backbone.adapter_digest})
    for module in list(backbone.module.modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
    take_out(backbone)
    backbone.module.requires_grad_(False)
    backbone.weights_digest = merged
    backbone.label += " with a merged adapter"
