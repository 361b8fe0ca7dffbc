"""The tiny twin of a backbone: its library, architecture and patch size with few numbers; never trained."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from emvfm.backbones.registry import BackboneSpec, find_spec

__all__ = ["tiny_twin"]

_WIDTH, _HEADS, _DEPTH = 32, 2, 12


@functools.cache
def tiny_twin(name: str) -> BackboneSpec:
    """Return the row called `name` with 32 numbers a token and at most 12 blocks, to prove that a plan works.

    There are no weights of it, so that it can only be used untrained.
    """
    spec = find_spec(name)
    depth = min(spec.depth, _DEPTH)
    sizes: dict[str, Any] = {"embed_dim": _WIDTH, "depth": depth, "num_heads": _HEADS}
    if spec.library == "open_clip":
        sizes = {"embed_dim": _WIDTH, "width": _WIDTH, "layers": depth, "head_width": _WIDTH // _HEADS}
    from emvfm.backbones.loading import build_on_meta

    twin = replace(
        spec,
        name=f"tiny:{spec.name}",
        variant=f"tiny {spec.variant}",
        tag="",
        width=_WIDTH,
        depth=depth,
        heads=_HEADS,
        hub="",
        files=(),
        parameters=0,
        overrides=(*spec.overrides, *sizes.items()),
    )
    module = build_on_meta(twin)
    return replace(twin, parameters=sum(parameter.numel() for parameter in module.parameters()))
