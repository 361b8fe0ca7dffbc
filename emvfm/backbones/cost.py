"""What a backbone costs, counted without its weights: parameters, operations, memory.

Everything is counted on torch's ``meta`` device, where tensors have shapes and no numbers, by running the
very modules that training runs. Operations are those of `torch.utils.flop_counter` (a multiplication and
an addition are two; norms and activations count nothing). The memory of a training step is what autograd
keeps for the backward pass, counted tensor by tensor; workspaces of kernels come on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from emvfm.backbones.backbone import Backbone, evenly_spaced
from emvfm.backbones.injection import adapter_parameters, put_adapter
from emvfm.backbones.loading import build_on_meta, library_of
from emvfm.backbones.lora import adapter_settings, adapter_targets
from emvfm.backbones.options import CostOptions
from emvfm.backbones.registry import BackboneSpec

__all__ = ["Cost", "HeadBuilder", "Step", "Work", "adapted", "count_cost", "counted", "gathered"]

HeadBuilder = Callable[[BackboneSpec], nn.Module]

_MIB = 2**20
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Step:
    """A training step on one image.

    Attributes
    ----------
    trainable, percent
        Parameters that are trained, and their share of all in the model.
    gflops
        Billions of operations, forward and backward.
    kept_mib
        MiB of float32 activations an image that the backward pass needs; bfloat16 takes about half.
    state_mib
        MiB of weights, gradients and AdamW's two moments, float32, whatever the batch.
    """

    trainable: int
    percent: float
    gflops: float
    kept_mib: float
    state_mib: float


@dataclass(frozen=True)
class Cost:
    """The cost of a backbone with a segmentation head.

    Attributes
    ----------
    spec
        The row of the table.
    side, tokens
        Side in pixels of the padded image, and its tokens.
    backbone, head, adapter
        Parameters of each.
    gflops, head_gflops
        Billions of operations of one image forward through the backbone, and through the head.
    lora
        Rank, alpha, targets within a block, adapted blocks and layers.
    steps
        ``frozen`` (the head, on cached tokens), ``lora`` (adapter and head), ``full`` (everything).
    """

    spec: BackboneSpec
    side: int
    tokens: int
    backbone: int
    head: int
    adapter: int
    gflops: float
    head_gflops: float
    lora: dict[str, Any]
    steps: dict[str, Step]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, the spec's own fields first."""
        rest = {key: value for key, value in asdict(self).items() if key != "spec"}
        return {**asdict(self.spec), **rest, "page": self.spec.page, "title": self.spec.title}


class _FusedAttention(TorchFunctionMode):
    """Attention as the fused kernels do it, which keep no matrix of weights; ``meta`` would have one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return func(*args, **(kwargs or {}))


@dataclass
class Work:
    """What a block of code did: floating-point operations, and bytes kept for a backward pass."""

    flops: float = 0.0
    kept: int = 0


@contextmanager
def counted(parameters: Sequence[Tensor] = ()) -> Iterator[Work]:
    """Count what happens within; memory that `parameters` own is not counted as kept."""
    from torch.utils.flop_counter import FlopCounterMode

    owned = {parameter.untyped_storage()._cdata for parameter in parameters}
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no address is given out twice

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage()._cdata
        if address not in owned:
            kept[address] = tensor
        return tensor

    work = Work()
    with (
        FlopCounterMode(display=False) as counter,
        _FusedAttention(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        yield work
    work.flops = float(counter.get_total_flops())
    work.kept = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _side(spec: BackboneSpec, image: int) -> int:
    return -(-image // spec.patch) * spec.patch


def gathered(spec: BackboneSpec, tokens: Sequence[Tensor], side: int) -> Tensor:
    """Return the map ``(B, L D, h, w)`` that a head reads, from ``(B, P + h w, D)`` a layer."""
    grid = (side // spec.patch, side // spec.patch)
    return torch.cat([t[:, spec.prefix :].transpose(1, 2).unflatten(2, grid) for t in tokens], dim=1)


def adapted(backbone: Backbone, options: CostOptions) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Put an adapter of `options` in, unproved; return its blocks and layers."""
    blocks, targets = adapter_targets(backbone, options)
    put_adapter(backbone, targets, adapter_settings(options), "default", seed=0)
    return blocks, targets


def _number(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _step(work: Work, trainable: int, total: int, resident: int) -> Step:
    return Step(
        trainable,
        100 * trainable / total,
        work.flops / 1e9,
        work.kept / _MIB,
        _FLOAT * (resident + 3 * trainable) / _MIB,
    )


def count_cost(spec: BackboneSpec, options: CostOptions, build_head: HeadBuilder) -> Cost:
    """Return the cost of `spec` with the adapter of `options` and the head of `build_head`.

    Raises
    ------
    UsageError
        Unknown LoRA targets or blocks.
    """
    library, module = library_of(spec), build_on_meta(spec)
    own = _number(module)
    library.open_for_adapters(module)
    backbone = Backbone(spec, module, library, label=spec.title, weights_digest="none", device="meta")
    with torch.device("meta"):
        head = build_head(spec).train()
    side = _side(spec, options.image)
    images = torch.empty(1, len(spec.slots), side, side, device="meta")
    layers = evenly_spaced(spec.depth, options.head_layers)

    def tokens() -> Tensor:
        return gathered(spec, library.layer_tokens(module, images, layers), side)

    def train(*trained: nn.Parameter) -> Work:
        module.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        with counted([*module.parameters(), *head.parameters()]) as work:
            head(tokens(), images).sum().backward()
        return work

    with torch.no_grad(), counted() as forward:
        cached = tokens()
    with torch.no_grad(), counted() as head_forward:
        head(cached, images)
    with counted(list(head.parameters())) as frozen:
        head(cached, images).sum().backward()
    full = train(*module.parameters())
    blocks, targets = adapted(backbone, options)
    adapter = [parameter for _, parameter in adapter_parameters(module)]
    lora = train(*adapter)
    extra, top = sum(parameter.numel() for parameter in adapter), _number(head)
    return Cost(
        spec=spec,
        side=side,
        tokens=spec.prefix + (side // spec.patch) ** 2,
        backbone=own,
        head=top,
        adapter=extra,
        gflops=forward.flops / 1e9,
        head_gflops=head_forward.flops / 1e9,
        lora={
            "rank": options.lora_rank,
            "alpha": options.lora_alpha,
            "targets": list(dict.fromkeys(".".join(name.split(".")[-2:]) for name in targets)),
            "blocks": len(blocks),
            "layers": len(targets),
        },
        steps={
            "frozen": _step(frozen, top, own + top, top),
            "lora": _step(lora, extra + top, own + top + extra, own + top + extra),
            "full": _step(full, own + top, own + top, own + top),
        },
    )
