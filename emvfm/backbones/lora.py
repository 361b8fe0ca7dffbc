"""LoRA adapters through peft, each proved alive before it is trained (arXiv 2106.09685).

peft accepts targets whose adapter never takes part in the forward pass, and says nothing. So after every
injection a probe runs one forward and one backward pass: the adapted model must equal the base, and every
adapter tensor must get a gradient.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.options import LoraOptions
from emvfm.backbones.registry import BackboneSpec
from emvfm.errors import EmvfmError, UsageError
from emvfm.provenance import digest

__all__ = [
    "InjectedAdapter",
    "LoraReport",
    "adapter_parameters",
    "block_targets",
    "check_adapter",
    "file_name",
    "inject_lora",
    "lora_parameter_count",
    "merge",
    "put_adapter",
]

#: Initialisations that move the top of each weight matrix from the base into the adapter.
_REWRITES_BASE = ("pissa", "pissa_niter_4", "olora")
_NAME = "default"


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


@dataclass(frozen=True)
class InjectedAdapter:
    """The adapter that is in a backbone: how it scales, and where it began if the base was rewritten."""

    targets: tuple[str, ...]
    rank: int
    alpha: float
    rslora: bool
    dora: bool
    dropout: float
    initial: Mapping[str, Tensor] = field(default_factory=dict)

    def export(self, module: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the settings and tensors of an equal adapter for the *original* base weights.

        An initialisation that rewrote the base (PiSSA, OLoRA) leaves ``W - s B0 A0`` there, so its
        change ``s (B A - B0 A0)`` is a plain adapter of twice the rank.
        """
        tensors = {file_name(n): p.detach().to("cpu", torch.float32) for n, p in adapter_parameters(module)}
        rank, alpha = self.rank, self.alpha
        if self.initial:
            for name in list(tensors):
                if ".lora_A" in name:
                    tensors[name] = torch.cat([tensors[name], self.initial[name]])
                else:
                    tensors[name] = torch.cat([tensors[name], -self.initial[name]], dim=1)
            alpha *= math.sqrt(2) if self.rslora else 2
            rank *= 2
        settings = {
            "rank": rank,
            "alpha": alpha,
            "rslora": self.rslora,
            "dora": self.dora,
            "dropout": self.dropout,
            "targets": list(self.targets),
        }
        return settings, {name: tensor.contiguous() for name, tensor in tensors.items()}

    def digest(self, module: nn.Module) -> str:
        """Return the SHA-256 of what the adapter does: scale and tensors; dropout does not count."""
        settings, tensors = self.export(module)
        settings.pop("dropout")
        hasher = hashlib.sha256(digest(settings).encode())
        for name in sorted(tensors):
            hasher.update(f"{name} {tuple(tensors[name].shape)}".encode())
            hasher.update(tensors[name].numpy().tobytes())
        return hasher.hexdigest()


def file_name(parameter: str) -> str:
    """Return the name a parameter has in peft's files: without the adapter's own name."""
    return parameter.replace(f".{_NAME}.weight", ".weight").replace(
        "lora_magnitude_vector.weight", "lora_magnitude_vector"
    )


def adapter_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return names and parameters of the adapter in `module`, none without an adapter."""
    return [(name, parameter) for name, parameter in module.named_parameters() if ".lora_" in name]


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


def lora_parameter_count(backbone_module: nn.Module, targets: Sequence[str], rank: int) -> int:
    """Return the parameters of a plain LoRA of `rank` on the linear layers called `targets`."""
    modules = dict(backbone_module.named_modules())
    return sum(rank * (modules[name].in_features + modules[name].out_features) for name in targets)  # type: ignore[operator]


def put_adapter(
    backbone: Backbone, targets: Sequence[str], settings: Mapping[str, Any], init: str, seed: int
) -> None:
    """Inject peft's layers at `targets` and freeze all else; adapter tensors are float32."""
    from peft import LoraConfig, inject_adapter_in_model

    if backbone.adapter is not None:
        raise UsageError("the backbone has an adapter already", where=backbone.label, todo="merge it first")
    start: bool | str = True if init == "default" else init
    config = LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=list(targets),
        use_dora=settings["dora"],
        use_rslora=settings["rslora"],
        init_lora_weights=start,  # type: ignore[arg-type]
    )
    devices = [backbone.device] if backbone.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of saving PiSSA; `export` takes care of that
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone.module, adapter_name=_NAME)
    backbone.module.requires_grad_(False)
    for _, parameter in adapter_parameters(backbone.module):
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    backbone.module.eval()
    initial = (
        {file_name(n): p.detach().to("cpu", copy=True) for n, p in adapter_parameters(backbone.module)}
        if init in _REWRITES_BASE
        else {}
    )
    backbone.adapter = InjectedAdapter(
        tuple(targets),
        settings["rank"],
        settings["alpha"],
        settings["rslora"],
        settings["dora"],
        settings["dropout"],
        initial,
    )


def _probe(backbone: Backbone) -> Tensor:
    """Return normed tokens of the last block for a small seeded image, in float32."""
    side = 3 * backbone.patch
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    last = [backbone.depth - 1]
    with torch.autocast(backbone.device.type, enabled=False):
        tokens = backbone.library.layer_tokens(backbone.module, image.to(backbone.device), last)[0]
    return tokens.float()


def check_adapter(backbone: Backbone) -> int:
    """Prove that every adapter tensor gets a gradient; return how many there are.

    The B matrices are perturbed for the probe (at zero they would hide A) and put back to the bit.

    Raises
    ------
    EmvfmError
        Some tensor gets none: peft injected an adapter that the model's forward pass goes around.
    """
    named = adapter_parameters(backbone.module)
    if not named:
        raise UsageError("no adapter to check", where=backbone.label)
    parameters = [parameter for _, parameter in named]
    states = [parameter.requires_grad for parameter in parameters]
    saved = {name: parameter.detach().clone() for name, parameter in named if ".lora_B" in name}
    generator = torch.Generator().manual_seed(1)
    try:
        with torch.no_grad():
            for name, parameter in named:
                parameter.requires_grad_(True)
                if name in saved:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(0.02 * noise.to(parameter.device))
        with torch.enable_grad():
            tokens = _probe(backbone)
            direction = torch.randn(tokens.shape, generator=generator).to(tokens.device)
            loss = (tokens * direction).sum()
            gradients: Sequence[Tensor | None] = (
                torch.autograd.grad(loss, parameters, allow_unused=True)
                if loss.requires_grad
                else [None] * len(parameters)
            )
    finally:
        with torch.no_grad():
            for (name, parameter), state in zip(named, states, strict=True):
                if name in saved:
                    parameter.copy_(saved[name])
                parameter.requires_grad_(state)
    dead = [
        name
        for (name, _), gradient in zip(named, gradients, strict=True)
        if gradient is None or not bool(torch.isfinite(gradient).all()) or not bool(gradient.any())
    ]
    if dead:
        shown = ", ".join(dead[:4]) + (f" and {len(dead) - 4} more" if len(dead) > 4 else "")
        raise EmvfmError(
            f"{len(dead)} of {len(named)} adapter tensors get no gradient: the adapter is dead",
            where=backbone.spec.name,
            got=shown,
            todo="choose other --lora-targets, such as attention",
        )
    return len(named)


def _check_options(options: LoraOptions) -> None:
    if options.dora and options.lora_init in _REWRITES_BASE:
        raise UsageError(
            f"--dora can't begin with {options.lora_init}",
            where="lora_init",
            expected="default, gaussian or orthogonal with DoRA",
        )
    if options.lora_init == "orthogonal" and options.lora_rank % 2:
        raise UsageError(
            "orthogonal initialisation needs an even rank", where="lora_rank", got=options.lora_rank
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
    blocks = _blocks_of(options, backbone.spec)
    with torch.no_grad():
        before = _probe(backbone)
    backbone.library.open_for_adapters(backbone.module)
    targets = _full_names(backbone, blocks, block_targets(backbone.spec, options.lora_targets))
    settings = {
        "rank": options.lora_rank,
        "alpha": float(options.lora_alpha),
        "dropout": options.lora_dropout,
        "dora": options.dora,
        "rslora": options.rslora,
    }
    put_adapter(backbone, targets, settings, options.lora_init, seed)
    with torch.no_grad():
        after = _probe(backbone)
    step0 = float((after - before).abs().max())
    # Taking W apart and adding it up again costs digits; a fresh zero adapter costs none.
    tolerance = (1e-4 if options.lora_init in _REWRITES_BASE else 1e-5) * max(1.0, float(before.abs().max()))
    if not step0 <= tolerance:
        raise EmvfmError(
            "the adapted model is not the base at step 0",
            where=backbone.spec.name,
            got=f"a difference of {step0:.2g}",
            expected=f"at most {tolerance:.2g}",
        )
    tensors = check_adapter(backbone)
    return _report(backbone, blocks, step0, tensors)


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
    modules = dict(backbone.module.named_modules())
    for name, module in modules.items():
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, leaf = name.rpartition(".")
            setattr(modules[parent], leaf, module.get_base_layer())
    backbone.module.requires_grad_(False)
    backbone.adapter = None
    backbone.weights_digest = merged
    backbone.label += " with a merged adapter"
