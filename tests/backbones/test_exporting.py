"""Exported adapters, loaded by plain peft in a process that has no emvfm; merged weights, by plain timm."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.exporting import export_adapter, merge_adapter, plain_state
from emvfm.backbones.loading import build_on_meta, load_backbone, load_spec
from emvfm.backbones.lora import adapter_parameters, inject_lora, merge, save_adapter
from emvfm.backbones.options import BackboneOptions, LoraOptions
from emvfm.backbones.registry import BackboneSpec
from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.workspace import Workspace

Tiny = Callable[[str], BackboneSpec]
BASE = BackboneOptions(untrained=True, init="trunc_normal", precision="float32", device="cpu")
SMALL = LoraOptions(lora_rank=4, lora_alpha=8)
MLP = replace(SMALL, lora_targets=("attention+mlp",))
#: What is exported: kind of backbone, form of adapter; every form at least once on each library.
EXPORTS = {
    "vit-dora": ("vit", replace(MLP, dora=True)),
    "dinov2-lora": ("dinov2", replace(MLP, lora_dropout=0.1)),
    "dinov2-olora": ("dinov2", replace(SMALL, lora_init="olora")),
    "dinov2_giant-pissa": ("dinov2_giant", replace(MLP, lora_init="pissa")),
    "dinov3-rslora": ("dinov3", replace(MLP, rslora=True, lora_blocks=(1,))),
    "dinov3_qkvb-pissa_rslora": ("dinov3_qkvb", replace(SMALL, lora_init="pissa", rslora=True)),
    "openclip-lora": ("openclip", SMALL),
    "openclip-rslora": ("openclip", replace(MLP, rslora=True)),
    "openclip-dora": ("openclip", replace(MLP, dora=True)),
    "openclip-pissa": ("openclip", replace(MLP, lora_init="pissa")),
    "openclip_quickgelu-olora": ("openclip_quickgelu", replace(MLP, lora_init="olora")),
}


def _images(spec: BackboneSpec) -> Tensor:
    """Return two images of the native size, which every library's own forward takes."""
    return torch.randn(2, 3, spec.native, spec.native, generator=torch.Generator().manual_seed(5))


def _own_tokens(backbone: Backbone) -> Tensor:
    with torch.no_grad():
        return backbone.library.own_tokens(backbone.module, _images(backbone.spec))


def _trained(spec: BackboneSpec, options: LoraOptions, workspace: Workspace) -> Backbone:
    backbone = load_spec(spec, BASE, workspace)
    inject_lora(backbone, options, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, parameter in adapter_parameters(backbone.module):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return backbone


#: Runs the code of each README word for word; only where the base's weights come from is replaced.
PROGRAM = """
import json, os, re, sys
from pathlib import Path
from types import SimpleNamespace

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "emvfm":
            raise ImportError("emvfm is not there")

sys.meta_path.insert(0, Refuse())
import open_clip, timm, torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
timm_create = timm.create_model

def timm_base(name, pretrained, pretrained_cfg_overlay=None, **keys):
    model = timm_create(name, pretrained=False, **keys)
    model.load_state_dict(load_file("../base.safetensors"))
    return model

def open_clip_base(name, pretrained):
    vision = {**open_clip.get_model_config(name)["vision_cfg"], **json.loads(Path("../small.json").read_text())}
    config = open_clip.get_model_config(name)
    visual = _build_vision_tower(config["embed_dim"], CLIPVisionCfg(**vision), config.get("quick_gelu", False))
    visual.load_state_dict(load_file("../base.safetensors"))
    return SimpleNamespace(visual=visual.eval())

timm.create_model, open_clip.create_model = timm_base, open_clip_base
for case in sys.argv[1:]:
    os.chdir(Path(case) / "exported")
    sys.path.insert(0, ".")
    scope = {}
    exec(re.search("```python\\n(.*?)```", Path("README.md").read_text(), re.S)[1], scope)
    model, images = scope["model"], load_file("../images.safetensors")["images"]
    seen = []
    if hasattr(model.base_model.model, "ln_post"):
        model.base_model.model.ln_post.register_forward_hook(lambda part, given, out: seen.append(out))
    with torch.no_grad():
        tokens = model(images) if hasattr(model.base_model.model, "ln_post") else model.forward_features(images)
    save_file({"tokens": (seen or [tokens])[-1].contiguous()}, "../tokens.safetensors")
    sys.path.remove(".")
assert not any(name.split(".")[0] == "emvfm" for name in sys.modules)
"""


@pytest.fixture(scope="module")
def exported(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one folder a case: ``exported/``, ``expected`` tokens, and the ``tokens`` plain peft gave."""
    root = tmp_path_factory.mktemp("cases")
    workspace = Workspace(root / "workspace")
    for case, (kind, options) in EXPORTS.items():
        spec, folder = tiny(kind), root / case
        folder.mkdir()
        save_file(load_spec(spec, BASE, workspace).module.state_dict(), folder / "base.safetensors")
        (folder / "small.json").write_text(json.dumps(dict(spec.overrides)))
        backbone = _trained(spec, options, workspace)
        save_file({"images": _images(spec)}, folder / "images.safetensors")
        save_file({"tokens": _own_tokens(backbone).contiguous()}, folder / "expected.safetensors")
        save_adapter(backbone, folder / "adapter")
        export_adapter(folder / "adapter", folder / "exported", workspace)
    command = [sys.executable, "-c", PROGRAM, *(str(root / case) for case in EXPORTS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("case", EXPORTS)
def test_plain_peft_gives_the_trained_model_without_emvfm(exported: Path, case: str) -> None:
    expected = load_file(exported / case / "expected.safetensors")["tokens"]
    tokens = load_file(exported / case / "tokens.safetensors")["tokens"]
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", EXPORTS)
def test_code_comes_along_only_where_plain_models_need_it(exported: Path, case: str) -> None:
    folder = exported / case / "exported"
    needed = case.startswith(("openclip", "dinov3_qkvb"))
    assert (folder / "open_layers.py").is_file() == needed
    assert (folder / "NOTICE").is_file() == case.startswith("dinov3-")
    assert "emvfm" not in (folder / "README.md").read_text().split("```")[1]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True, "any other makes peft rewrite the base while loading"
    doubled = "pissa" in case or "olora" in case
    assert config["r"] == (8 if doubled else 4)


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_a_rewritten_base_is_undone_as_peft_does_it(
    tiny: Tiny, workspace: Workspace, tmp_path: Path, init: str, rslora: bool
) -> None:
    """The oracle is peft's ``path_initial_model_for_weight_conversion`` on the same trained tensors."""
    from peft import LoraConfig, get_peft_model

    ours = load_spec(tiny("dinov2"), BASE, workspace)
    report = inject_lora(ours, replace(SMALL, lora_init=init, rslora=rslora), seed=1)  # type: ignore[arg-type]
    config = LoraConfig(
        r=4, lora_alpha=8, use_rslora=rslora, init_lora_weights=init, target_modules=list(report.targets)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = get_peft_model(load_spec(tiny("dinov2"), BASE, workspace).module, config)
        theirs.peft_config["default"].init_lora_weights = True
        theirs.save_pretrained(str(tmp_path / "initial"))
        theirs.peft_config["default"].init_lora_weights = init
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            pairs = zip(adapter_parameters(ours.module), adapter_parameters(theirs), strict=True)
            for (_, mine), (_, other) in pairs:
                torch.testing.assert_close(mine, other)
                noise = 0.05 * torch.randn(mine.shape, generator=generator)
                mine.add_(noise)
                other.copy_(mine)
        theirs.save_pretrained(
            str(tmp_path / "theirs"), path_initial_model_for_weight_conversion=str(tmp_path / "initial")
        )
    save_adapter(ours, tmp_path / "ours")
    expected = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    tensors = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert set(tensors) == set(expected)
    for name in expected:
        torch.testing.assert_close(tensors[name], expected[name])
    settings = [
        json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("ours", "theirs")
    ]
    assert settings[0]["r"] == settings[1]["r"] == 8
    assert settings[0]["lora_alpha"] == pytest.approx(settings[1]["lora_alpha"])


@pytest.mark.parametrize("dora", [False, True])
def test_merged_weights_are_the_librarys_own(
    any_spec: BackboneSpec, workspace: Workspace, tmp_path: Path, dora: bool
) -> None:
    backbone = _trained(any_spec, replace(MLP, dora=dora), workspace)
    expected = _own_tokens(backbone)
    merge(backbone)
    plain = build_on_meta(any_spec)
    state = plain_state(backbone.module.state_dict(), plain)
    fresh = load_spec(any_spec, replace(BASE, init_seed=7), workspace)
    assert set(state) == set(fresh.module.state_dict())
    fresh.module.load_state_dict(state, strict=True)
    torch.testing.assert_close(_own_tokens(fresh), expected, atol=1e-5, rtol=0)


def test_names_of_another_model_are_refused(tiny: Tiny) -> None:
    state = build_on_meta(tiny("dinov2")).state_dict()
    with pytest.raises(UsageError, match="lacks"):
        plain_state({k: v for k, v in state.items() if k != "norm.weight"}, build_on_meta(tiny("dinov2")))
    with pytest.raises(UsageError, match="reg_token"):
        plain_state({**state, "reg_token": state["cls_token"]}, build_on_meta(tiny("dinov2")))
    with pytest.raises(UsageError, match="another shape"):
        plain_state({**state, "norm.weight": torch.ones(3)}, build_on_meta(tiny("dinov2")))
    packed = build_on_meta(tiny("openclip")).state_dict()
    name = "transformer.resblocks.0.attn.in_proj_weight"
    with pytest.raises(UsageError, match="in_proj_weight"):
        plain_state({k: v for k, v in packed.items() if k != name}, build_on_meta(tiny("openclip")))


def _options(**changes: object) -> BackboneOptions:
    return BackboneOptions(backbone="timm:test_vit", precision="float32", device="cpu", **changes)  # type: ignore[arg-type]


def _vit_adapter(folder: Path, workspace: Workspace, **changes: object) -> Backbone:
    backbone = load_backbone(_options(**changes), workspace)
    inject_lora(backbone, replace(SMALL, lora_init="pissa"))
    with torch.no_grad():
        for _, parameter in adapter_parameters(backbone.module):
            parameter.add_(0.05)
    save_adapter(backbone, folder)
    return backbone


def test_plain_timm_and_emvfm_load_merged_weights(workspace: Workspace, tmp_path: Path) -> None:
    import timm

    backbone = _vit_adapter(tmp_path / "adapter", workspace, untrained=True, init="kaiming", init_seed=3)
    merged = merge_adapter(tmp_path / "adapter", tmp_path / "merged.safetensors", workspace)
    expected = _own_tokens(backbone)
    plain = timm.create_model("test_vit", num_classes=0)
    plain.load_state_dict(load_file(merged.file), strict=True)
    with torch.no_grad():
        tokens = plain.eval().forward_features(_images(backbone.spec))
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=0)
    again = load_backbone(_options(weights=Path(merged.file)), workspace)
    torch.testing.assert_close(_own_tokens(again), expected, atol=1e-5, rtol=0)
    assert again.weights_digest == merged.sha256
    with safe_open(merged.file, "pt") as file:
        assert json.loads(file.metadata()["emvfm"]) == {
            "backbone": backbone.spec.name,
            "base": "untrained:kaiming:3",
            "adapter": backbone.adapter_digest,
            "licence": backbone.spec.licence,
        }
    assert merged.parameters == backbone.spec.parameters
    assert json.loads(json.dumps(merged.to_json()))["tensors"] == merged.tensors


def test_a_run_knows_its_own_weights(workspace: Workspace, tmp_path: Path) -> None:
    source = load_backbone(_options(untrained=True), workspace)
    weights = tmp_path / "own.safetensors"
    save_file(source.module.state_dict(), weights)
    run = workspace.runs / "first"
    _vit_adapter(run / "checkpoints" / "adapter", workspace, weights=weights)
    (run / "config.yaml").write_text(f"weights: {weights}\n")
    merged = merge_adapter("first", tmp_path / "merged.safetensors", workspace)
    (run / "config.yaml").write_text("{}\n")
    same = merge_adapter("first", tmp_path / "same.safetensors", workspace, weights=weights)
    assert same.sha256 == merged.sha256
    with torch.no_grad():
        source.module.norm.weight.add_(1)  # type: ignore[union-attr, operator]
    save_file(source.module.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="other weights"):
        merge_adapter("first", tmp_path / "x.safetensors", workspace, weights=tmp_path / "other.safetensors")


def test_exports_are_checked_and_never_overwrite(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    backbone = _vit_adapter(folder, workspace, untrained=True)
    found = export_adapter(folder, tmp_path / "out", workspace)
    assert found.rank == 8
    assert found.parameters == 2 * sum(p.numel() for _, p in adapter_parameters(backbone.module))
    assert "README.md" in found.files
    with pytest.raises(UsageError, match="already exists"):
        export_adapter(folder, tmp_path / "out", workspace)
    with pytest.raises(UsageError, match="already exists"):
        merge_adapter(folder, _touched(tmp_path / "there.safetensors"), workspace)
    with pytest.raises(UsageError, match=r"in \.safetensors"):
        merge_adapter(folder, tmp_path / "model.bin", workspace)
    (folder / "README.md").unlink()
    export_adapter(folder, tmp_path / "older", workspace)
    assert (tmp_path / "older" / "README.md").read_text() == (tmp_path / "out" / "README.md").read_text()
    (folder / "emvfm.json").unlink()
    with pytest.raises(MissingError, match="which backbone"):
        export_adapter(folder, tmp_path / "bare", workspace)
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 9)
    (folder / "emvfm.json").write_text('{"backbone": "timm:test_vit", "weights": "x"}')
    with pytest.raises(CorruptError, match="damaged"):
        export_adapter(folder, tmp_path / "damaged", workspace)
    assert not (tmp_path / "damaged").exists()
    with pytest.raises(MissingError):
        export_adapter("no-such-run", tmp_path / "none", workspace)


def _touched(path: Path) -> Path:
    path.touch()
    return path


def test_the_readme_names_official_weights_by_their_tag() -> None:
    from emvfm.backbones.adapter_card import card
    from emvfm.backbones.registry import find_spec

    for name, line in (
        ("dinov2", 'timm.create_model("vit_small_patch14_dinov2.lvd142m", pretrained=True, num_classes=0'),
        ("openclip", "open_clip.create_model(\"ViT-B-16\", pretrained='laion2b_s34b_b88k').visual"),
    ):
        spec = find_spec(name)
        own = {"weights": "0" * 64, "label": spec.title}
        text = card(spec, own, opened=name == "openclip")["README.md"]
        assert line in text
        assert "WEIGHT_FILE" not in text
        other = card(spec, {**own, "label": "ViT (mine)"}, opened=False)["README.md"]
        assert len(re.findall("WEIGHT_FILE", other)) == 2
