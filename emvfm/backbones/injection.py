"""The adapter inside a backbone: peft's layers put in, taken out, and written down independent of them."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from emvfm.backbones.backbone import Backbone
from emvfm.errors import UsageError
from emvfm.provenance import digest

__all__ = [
    "REWRITES_BASE",
    "InjectedAdapter",
    "adapter_parameters",
    "file_name",
    "put_adapter",
    "take_out",
]

#: Initialisations that move the top of each weight matrix from the base into the adapter.
REWRITES_BASE = ("pissa", "pissa_niter_4", "olora")
_NAME = "default"


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
        """Return the SHA-256 of what the adapter computes: its scale and its named tensors."""
        settings, tensors = self.export(module)
        decisive = {key: settings[key] for key in ("rank", "alpha", "rslora", "dora")}
        hasher = hashlib.sha256(digest(decisive).encode())
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
        if init in REWRITES_BASE
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


def take_out(backbone: Backbone) -> None:
    """Put the base layers, as they are, back where the adapter's stand."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = dict(backbone.module.named_modules())
    for name, module in modules.items():
        if isinstance(module, BaseTunerLayer):
            parent, _, leaf = name.rpartition(".")
            setattr(modules[parent], leaf, module.get_base_layer())
    backbone.adapter = None
