"""Random weights on purpose: baselines that show how much of a result the architecture alone gives.

Weights may be drawn anew (`build_untrained`), or be the trained ones in another order (`shuffle_weights`), which
keeps the distribution of each tensor, and so its scale, and forgets what was learnt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from emvfm.backbones.backbone import Library
from emvfm.backbones.registry import BackboneSpec
from emvfm.errors import UsageError

__all__ = ["SCHEMES", "build_untrained", "shuffle_weights"]


def _trunc_normal(weight: torch.Tensor, generator: torch.Generator) -> Any:
    return nn.init.trunc_normal_(weight, std=0.02, generator=generator)


def _kaiming(weight: torch.Tensor, generator: torch.Generator) -> Any:
    return nn.init.kaiming_normal_(weight, nonlinearity="linear", generator=generator)


def _xavier(weight: torch.Tensor, generator: torch.Generator) -> Any:
    return nn.init.xavier_uniform_(weight, generator=generator)


def _orthogonal(weight: torch.Tensor, generator: torch.Generator) -> Any:
    return nn.init.orthogonal_(weight, generator=generator)


#: What fills a weight matrix ``(out, in)``; ``timm`` stands for the library's own initialisation.
SCHEMES: dict[str, Callable[[torch.Tensor, torch.Generator], Any] | None] = {
    "timm": None,
    "kaiming": _kaiming,  # arXiv 1502.01852
    "xavier": _xavier,  # Glorot & Bengio 2010
    "orthogonal": _orthogonal,  # arXiv 1312.6120
    "trunc_normal": _trunc_normal,
}


def build_untrained(library: Library, spec: BackboneSpec, scheme: str, seed: int) -> nn.Module:
    """Return the model of `spec` with random weights that depend on `scheme` and `seed` alone.

    The random state of the process is left as it was. With a scheme of ours every weight matrix
    (kernels flattened) is filled by it, biases are 0, norms the identity, layer scales 1 (their
    customary 1e-5 would make an untrained model the identity beyond its patch embedding), and class,
    register and position embeddings truncated normal with 0.02.

    Raises
    ------
    UsageError
        An unknown scheme.
    """
    if scheme not in SCHEMES:
        raise UsageError("no such initialisation", where="init", got=scheme, expected=", ".join(SCHEMES))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = library.build(spec)
    fill = SCHEMES[scheme]
    if fill is not None:
        _refill(module, fill, torch.Generator().manual_seed(seed))
    return module


@torch.no_grad()
def _refill(
    module: nn.Module, fill: Callable[[torch.Tensor, torch.Generator], Any], generator: torch.Generator
) -> None:
    norms = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.LayerNorm)}
    for name, parameter in module.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if name in norms or "gamma" in leaf:
            parameter.fill_(1.0)
        elif "embed" in leaf or "token" in leaf:
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
        elif parameter.ndim >= 2:
            fill(parameter.flatten(1), generator)
        else:
            parameter.zero_()


@torch.no_grad()
def shuffle_weights(module: nn.Module, seed: int) -> None:
    """Permute the numbers of each parameter of `module` among themselves, in place.

    Each parameter has a permutation of its own, which depends on the seed and its name alone. Buffers stay.
    """
    for name, parameter in module.named_parameters():
        entropy = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little") >> 1
        order = torch.randperm(parameter.numel(), generator=torch.Generator().manual_seed(entropy))
        flat = parameter.reshape(-1)
        parameter.copy_(flat[order.to(flat.device)].reshape(parameter.shape))
