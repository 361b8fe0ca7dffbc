"""Backbones with slots of their own, and checkpoints under the key names of DINO and DINO4Cells."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from emvfm.backbones.cell_models import CELL_SPECS, find_cell_model, with_slots
from emvfm.backbones.channels import SLOTS
from emvfm.backbones.loading import build_on_meta, load_backbone
from emvfm.backbones.options import BackboneOptions
from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.registry import find_spec
from emvfm.errors import CorruptError, MissingError, UsageError


@pytest.mark.parametrize("spec", CELL_SPECS, ids=lambda s: s.name)
def test_rows_are_what_the_library_builds(spec):
    assert find_spec(spec.name) == spec
    assert spec.identity() == with_slots(find_spec(f"timm:{spec.model}"), "hpa").identity()
    module = build_on_meta(spec)
    assert sum(p.numel() for p in module.parameters()) == spec.parameters
    assert module.patch_embed.proj.weight.shape[1] == 4
    assert (spec.slots, spec.scaling, len(spec.mean), len(spec.std)) == (SLOTS["hpa"], "self", 4, 4)


def _module(name: str, channels: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, in_chans=channels).eval()


def _wrapped(state: dict, kind: str) -> dict:
    """Return a state dict as training scripts save it."""
    head = {"head.mlp.0.weight": torch.zeros(2, 2), "head.last_layer.weight_g": torch.zeros(2, 1)}
    if kind == "bare":
        return dict(state)
    if kind == "teacher":  # DINO and DINO4Cells keep both networks, the optimiser and the arguments
        return {
            "student": {f"module.backbone.{k}": v + 1 for k, v in state.items()}
            | {"module.head.x": head["head.mlp.0.weight"]},
            "teacher": {f"backbone.{k}": v for k, v in state.items()} | head,
            "optimizer": {"state": {}, "param_groups": []},
            "epoch": 100,
            "args": argparse.Namespace(arch="vit_tiny", patch_size=16, config={"model": {"num_channels": 4}}),
        }
    if kind == "module":
        return {
            "teacher": {f"module.backbone.{k}": v for k, v in state.items()}
            | {"module.head.y": torch.zeros(1)}
        }
    return {"state_dict": {f"module.{k}": v for k, v in state.items()}}


@pytest.mark.parametrize("kind", ["bare", "teacher", "module", "state_dict"])
def test_checkpoints_of_dino4cells_give_what_timm_gives(tmp_path, workspace, kind):
    module = _module("vit_tiny_patch16_224", 4)
    file = tmp_path / "DINO_FOV_checkpoint.pth"
    torch.save(_wrapped(module.state_dict(), kind), file)
    backbone = load_backbone(
        BackboneOptions(backbone="dino4cells_vitt16", weights=file, precision="float32", device="cpu"),
        workspace,
    )
    images = torch.randn(1, 4, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = backbone.tokens(images, [11])
        theirs = module.forward_features(images)
    torch.testing.assert_close(ours.cls[:, 0], theirs[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.patches[0, 0].flatten(0, 1), theirs[0, 1:], rtol=1e-4, atol=1e-5)


def test_weights_of_dino_v1_load_and_others_are_refused(tmp_path, workspace):
    module = _module("vit_small_patch16_224", 3)
    file = tmp_path / "dino_deitsmall16_pretrain_full_checkpoint.pth"
    torch.save(_wrapped(module.state_dict(), "teacher"), file)
    name = "timm:vit_small_patch16_224.dino"
    backbone = load_backbone(
        BackboneOptions(backbone=name, weights=file, precision="float32", device="cpu"), workspace
    )
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(
            backbone.tokens(images, [11]).cls[:, 0],
            module.forward_features(images)[:, 0],
            rtol=1e-4,
            atol=1e-5,
        )
    with pytest.raises(UsageError, match="of another shape"):
        load_backbone(BackboneOptions(backbone="dino4cells_vits16", weights=file, device="cpu"), workspace)


class Elsewhere:
    def __reduce__(self):
        return (print, ("code ran",))


def test_arguments_beside_weights_may_be_values_but_never_code(tmp_path, workspace, capsys):
    file = tmp_path / "bad.pth"
    torch.save({"teacher": {}, "args": argparse.Namespace(hook=Elsewhere())}, file)
    with pytest.raises(CorruptError, match="more than tensors"):
        load_backbone(BackboneOptions(backbone="dino4cells_vitt16", weights=file, device="cpu"), workspace)
    assert "code ran" not in capsys.readouterr().out


def test_kernels_of_colours_add_up_for_a_single_slot(tmp_path, workspace):
    module = _module("test_vit", 3)
    file = Path(tmp_path) / "rgb.pth"
    torch.save(module.state_dict(), file)
    options = {"weights": file, "precision": "float32", "device": "cpu"}
    colour = load_backbone(BackboneOptions(backbone="timm:test_vit", **options), workspace)
    grey = load_backbone(BackboneOptions(backbone="timm:test_vit@gray", **options), workspace)
    image = torch.randn(1, 1, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, theirs = grey.tokens(image, [3]).cls, colour.tokens(image.expand(1, 3, 32, 48), [3]).cls
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_slots_by_name():
    spec = find_spec("timm:test_vit@nucleus,protein")
    assert spec.slots == ("nucleus", "protein")
    assert len(spec.mean) == len(spec.std) == 2
    assert spec.name == "timm:test_vit.r160_in1k@nucleus,protein"
    assert find_spec(spec.name) == spec
    assert spec.identity()["slots"] == ["nucleus", "protein"]
    assert with_slots(find_spec("timm:test_vit"), "rgb") == find_spec("timm:test_vit")
    assert "slots" not in find_spec("timm:test_vit").identity()
    preprocess = Preprocess.for_backbone(find_spec("dino4cells_vits16"), BackboneOptions())
    grey = np.random.default_rng(0).integers(0, 9, (224, 224)).astype(np.uint8)
    pixels = preprocess.prepare(grey).pixels
    assert pixels.shape == (4, 224, 224)
    np.testing.assert_allclose([pixels[0].mean(), pixels[3].std()], [0, 1], atol=1e-5)


@pytest.mark.parametrize(
    "name", ["timm:test_vit@", "timm:test_vit@a,a", "timm:test_vit@a b", "timm:test_vit@hpa@hpa"]
)
def test_odd_slots_are_refused(name):
    with pytest.raises(UsageError, match="input channels"):
        find_spec(name)


def test_only_backbones_of_timm_have_other_slots():
    with pytest.raises(UsageError, match="backbones of timm only"):
        find_spec("openclip@hpa")
    with pytest.raises(MissingError, match="dino4cells_vits16"):
        find_cell_model("dino4cells_vitx3")
