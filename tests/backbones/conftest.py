"""Tiny backbones of every kind that the adapters know, without weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from emvfm.backbones.registry import BackboneSpec, find_spec
from emvfm.workspace import Workspace

#: kind → (row it is cut down from, constructor arguments, fields of the row they change)
_SMALL = {"embed_dim": 64, "depth": 3, "num_heads": 2}
_FIELDS = {"width": 64, "depth": 3, "heads": 2}
_KINDS = {
    "vit": ("timm:test_vit", {}, {}),
    "dinov2": ("dinov2_vits14", _SMALL, _FIELDS),
    "dinov2_reg": ("dinov2_vits14_reg", _SMALL, _FIELDS),
    "dinov2_giant": ("dinov2_vitg14_reg", {**_SMALL, "mlp_ratio": 4}, _FIELDS),
    "dinov3": ("dinov3_vits16", _SMALL, _FIELDS),
    "dinov3_plus": ("dinov3_vitsplus16", _SMALL, _FIELDS),
    "dinov3_qkvb": ("timm:vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", _SMALL, _FIELDS),
    "openclip": (
        "openclip_vitb16_laion2b",
        {"width": 64, "layers": 3, "head_width": 32, "image_size": 64},
        {**_FIELDS, "native": 64},
    ),
    "openclip_quickgelu": (
        "openclip_vitb32_openai",
        {"width": 64, "layers": 3, "head_width": 32, "image_size": 128},
        {**_FIELDS, "native": 128},
    ),
}


def tiny_spec(kind: str) -> BackboneSpec:
    row, overrides, fields = _KINDS[kind]
    return replace(find_spec(row), name=f"tiny-{kind}", overrides=tuple(sorted(overrides.items())), **fields)


@pytest.fixture(params=_KINDS)
def any_spec(request: pytest.FixtureRequest) -> BackboneSpec:
    """A tiny backbone of each kind in turn."""
    return tiny_spec(request.param)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], BackboneSpec]:
    """The tiny backbone of one kind, by its name."""
    return tiny_spec


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")
