"""The tiny twin of a backbone keeps what decides how it is used, and has few numbers."""

from __future__ import annotations

import pytest
import torch

from emvfm.backbones.loading import load_backbone
from emvfm.backbones.options import BackboneOptions
from emvfm.backbones.registry import find_spec
from emvfm.errors import MissingError
from emvfm.workspace import Workspace


@pytest.mark.parametrize("name", ["dinov2_vitg14_reg", "dinov3_vitl16", "openclip_vith14_laion2b"])
def test_a_twin_runs_as_its_model_does(name: str, tmp_path) -> None:
    spec, twin = find_spec(name), find_spec(f"tiny:{name}")
    for kept in ("family", "library", "model", "patch", "registers", "has_cls", "mean", "lora_attention"):
        assert getattr(twin, kept) == getattr(spec, kept)
    assert twin.parameters < 1_000_000
    assert twin.identity() != spec.identity()
    options = BackboneOptions(backbone=f"tiny:{name}", untrained=True, device="cpu", precision="float32")
    backbone = load_backbone(options, Workspace(tmp_path))
    assert "tiny" in backbone.label
    side = 3 * spec.patch
    found = backbone.tokens(torch.zeros(2, 3, side, side), [0, twin.depth - 1])
    assert found.patches.shape == (2, 2, 3, 3, twin.width)


def test_a_twin_has_no_weights(tmp_path) -> None:
    with pytest.raises(MissingError, match="untrained"):
        load_backbone(BackboneOptions(backbone="tiny:dinov2"), Workspace(tmp_path))


def test_a_twin_of_nothing_is_missing() -> None:
    with pytest.raises(MissingError, match="no such backbone"):
        find_spec("tiny:dinov9")
