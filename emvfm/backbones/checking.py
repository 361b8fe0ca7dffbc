"""A loaded backbone put to the test: against its library's own forward, in both precisions, on the clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from emvfm.backbones.backbone import Backbone
from emvfm.errors import UsageError

__all__ = ["BackboneCheck", "check_backbone"]


@dataclass(frozen=True)
class BackboneCheck:
    """What a backbone gave for one seeded image of its native size.

    Attributes
    ----------
    label, weights, device, precision
        What was checked, and how it computes.
    side, grid, prefix, width
        Side of the image in pixels; rows and columns of patches; class and register tokens; D.
    layers
        For each default layer: mean, standard deviation and mean norm of the patch tokens, and the
        norm of the class token, in float32.
    own_difference
        Largest difference to the library's own forward, in float32.
    other_size
        Whether an image of another size gives the grid it should.
    precision_difference
        Mean relative error (norm of the difference over norm) of the last layer's patch tokens in the
        chosen precision; 0 for float32.
    ms
        Least time an image in milliseconds, in float32 and in the chosen precision.
    """

    label: str
    weights: str
    device: str
    precision: str
    side: int
    grid: tuple[int, int]
    prefix: int
    width: int
    layers: dict[int, dict[str, float]]
    own_difference: float
    other_size: bool
    precision_difference: float
    ms: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether the tokens are the library's own to 1e-4 and sizes are free."""
        return self.own_difference <= 1e-4 and self.other_size

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = asdict(self)
        return {**values, "layers": {str(k): v for k, v in self.layers.items()}, "passed": self.passed}


def _seeded(backbone: Backbone, height: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    slots = len(backbone.spec.slots)
    return torch.randn(1, slots, height, width, generator=generator).to(backbone.device)


def _least_ms(backbone: Backbone, image: Tensor, precisions: Sequence[str], repeats: int) -> dict[str, float]:
    """Return the least time of a forward pass in each precision, in turns, after one to warm up.

    The least of several is the one that other work on the machine disturbed least.
    """
    chosen = backbone.precision
    times: dict[str, list[float]] = {name: [] for name in precisions}
    try:
        for _ in range(repeats + 1):
            for name in precisions:
                backbone.precision = name
                start = time.perf_counter()
                backbone.tokens(image, [backbone.depth - 1]).cls.cpu()  # to the CPU: waits for the device
                times[name].append(1e3 * (time.perf_counter() - start))
    finally:
        backbone.precision = chosen
    return {name: min(values[1:]) for name, values in times.items()}


@torch.no_grad()
def check_backbone(backbone: Backbone, *, seed: int = 0, repeats: int = 5) -> BackboneCheck:
    """Run `backbone` on one seeded image of its native size and compare; nothing is changed by it.

    Raises
    ------
    UsageError
        It is a baseline: there is no forward of a library to compare with.
    """
    if backbone.spec.library == "emvfm":
        raise UsageError("a baseline has no weights to check", where=backbone.spec.name)
    side = backbone.spec.native
    image = _seeded(backbone, side, side, seed)
    layers = backbone.default_layers()
    chosen = backbone.precision
    backbone.precision = "float32"
    try:
        exact = backbone.tokens(image, layers)
        ours = backbone.library.layer_tokens(backbone.module, image, [backbone.depth - 1])[0]
        own = backbone.library.own_tokens(backbone.module, image)
        p = backbone.patch
        other = backbone.tokens(_seeded(backbone, 3 * p, 5 * p, seed), [0]).patches.shape[2:4]
    finally:
        backbone.precision = chosen
    rough = backbone.tokens(image, [backbone.depth - 1]).patches[:, 0]
    reference = exact.patches[:, -1]
    relative = (rough - reference).norm(dim=-1) / reference.norm(dim=-1).clamp_min(1e-12)
    statistics = {
        layer: {
            "mean": float(exact.patches[0, i].mean()),
            "std": float(exact.patches[0, i].std()),
            "norm": float(exact.patches[0, i].norm(dim=-1).mean()),
            "cls_norm": float(exact.cls[0, i].norm()),
        }
        for i, layer in enumerate(layers)
    }
    return BackboneCheck(
        label=backbone.label,
        weights=backbone.weights_digest,
        device=str(backbone.device),
        precision=chosen,
        side=side,
        grid=(int(exact.patches.shape[2]), int(exact.patches.shape[3])),
        prefix=backbone.spec.prefix,
        width=backbone.width,
        layers=statistics,
        own_difference=float((own.float() - ours.float()).abs().max()),
        other_size=tuple(other) == (3, 5),
        precision_difference=float(relative.mean()),
        ms=_least_ms(backbone, image, list(dict.fromkeys(("float32", chosen))), repeats),
    )
