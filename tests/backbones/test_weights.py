"""Weight files: the order of places, strictness, safety, digests, honest labels."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from emvfm.backbones import weights
from emvfm.backbones.backbone import Backbone
from emvfm.backbones.loading import load_backbone, load_spec
from emvfm.backbones.options import BackboneOptions
from emvfm.backbones.registry import SPECS, BackboneSpec
from emvfm.backbones.weights import file_digest, find_local, locate, read_state
from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.provenance import sha256_file
from emvfm.workspace import Workspace

Tiny = Callable[[str], BackboneSpec]
PLAIN = BackboneOptions(precision="float32", device="cpu")


def _state(spec: BackboneSpec, workspace: Workspace, seed: int = 1) -> dict[str, torch.Tensor]:
    options = replace(PLAIN, untrained=True, init="trunc_normal", init_seed=seed)
    return {k: v.clone() for k, v in load_spec(spec, options, workspace).module.state_dict().items()}


def _same(backbone: Backbone, state: dict[str, torch.Tensor]) -> bool:
    ours = backbone.module.state_dict()
    return set(ours) == set(state) and all(torch.equal(ours[k], state[k]) for k in ours)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_missing_weights_say_what_to_do(spec: BackboneSpec, workspace: Workspace) -> None:
    with pytest.raises(MissingError) as caught:
        locate(spec, workspace)
    message = str(caught.value)
    for part in (spec.name, spec.page, spec.licence, str(workspace.weights / spec.stem), "--untrained"):
        assert part in message
    assert "\n" not in message


def test_an_unreachable_hub_is_the_same_error(
    monkeypatch: pytest.MonkeyPatch, tiny: Tiny, workspace: Workspace
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def refuse(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "_hub_has_address", lambda: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(MissingError, match="can't be reached; download"):
        locate(tiny("dinov2"), workspace)


def test_the_order_is_file_workspace_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Tiny, workspace: Workspace
) -> None:
    spec = tiny("dinov2")
    state = _state(spec, workspace)
    cached = tmp_path / "cache" / "model.safetensors"
    cached.parent.mkdir()
    save_file(state, cached)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: str(cached))
    assert load_spec(spec, PLAIN, workspace).label == "DINOv2 ViT-S/14"

    workspace.weights.mkdir(parents=True)
    torch.save(_state(spec, workspace, seed=2), workspace.weights / f"{spec.stem}.pth")
    second = load_spec(spec, PLAIN, workspace)
    assert second.label == f"ViT-S/14 ({spec.stem})"
    assert _same(second, _state(spec, workspace, seed=2))
    found = find_local(spec, workspace)
    assert found is not None
    assert (found.origin, found.official) == ("workspace", False)

    explicit = tmp_path / "mine.safetensors"
    save_file(_state(spec, workspace, seed=3), explicit)
    third = load_spec(spec, replace(PLAIN, weights=explicit), workspace)
    assert third.label == "ViT-S/14 (mine)"
    assert third.weights_digest == sha256_file(explicit)
    assert _same(third, _state(spec, workspace, seed=3))


def test_a_missing_explicit_file_never_falls_back(tmp_path: Path, tiny: Tiny, workspace: Workspace) -> None:
    with pytest.raises(MissingError, match=r"nowhere\.pth"):
        load_spec(tiny("vit"), replace(PLAIN, weights=tmp_path / "nowhere.pth"), workspace)


def _facebook(state: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """Rename timm's tensors to those of Meta's own files."""
    renamed = {}
    for name, tensor in state.items():
        if kind == "dinov3":
            name = name.replace("reg_token", "storage_tokens")
            name = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        else:
            name = name.replace("reg_token", "register_tokens")
        if kind == "dinov2_giant":
            name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        renamed[name] = tensor
    if "register_tokens" in renamed:
        cls = torch.full_like(renamed["pos_embed"][:, :1], 0.25)
        renamed["pos_embed"] = torch.cat([cls, renamed["pos_embed"]], dim=1)
        renamed["cls_token"] = renamed["cls_token"] - 0.25
    renamed["mask_token"] = torch.zeros(1, 64)
    if kind == "dinov3":
        renamed["rope_embed.periods"] = torch.ones(8)
        renamed["blocks.0.attn.qkv.bias_mask"] = torch.zeros(192)
    return renamed


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_reg", "dinov2_giant", "dinov3"])
def test_metas_own_names_load(tmp_path: Path, tiny: Tiny, workspace: Workspace, kind: str) -> None:
    spec = tiny(kind)
    state = _state(spec, workspace)
    path = tmp_path / "meta.pth"
    torch.save({"teacher": {f"backbone.{k}": v for k, v in _facebook(state, kind).items()}}, path)
    ours = load_spec(spec, replace(PLAIN, weights=path), workspace).module.state_dict()
    assert set(ours) == set(state)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, state[name], atol=1e-6, rtol=0)


def test_a_whole_clip_model_gives_its_vision_tower(tmp_path: Path, tiny: Tiny, workspace: Workspace) -> None:
    spec = tiny("openclip")
    state = _state(spec, workspace)
    whole = {f"visual.{k}": v for k, v in state.items()}
    whole |= {"logit_scale": torch.ones(1), "transformer.resblocks.0.attn.in_proj_bias": torch.ones(3)}
    save_file(whole, tmp_path / "clip.safetensors")
    save_file(state, tmp_path / "tower.safetensors")
    for name in ("clip", "tower"):
        options = replace(PLAIN, weights=tmp_path / f"{name}.safetensors")
        assert _same(load_spec(spec, options, workspace), state)


def test_half_precision_and_heads_are_accepted(tmp_path: Path, tiny: Tiny, workspace: Workspace) -> None:
    spec = tiny("vit")
    state = {k: v.half() for k, v in _state(spec, workspace).items()}
    save_file({**state, "head.weight": torch.ones(5, 64).half()}, tmp_path / "half.safetensors")
    backbone = load_spec(spec, replace(PLAIN, weights=tmp_path / "half.safetensors"), workspace)
    assert {p.dtype for p in backbone.module.parameters()} == {torch.float32}
    assert _same(backbone, {k: v.float() for k, v in state.items()})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("norm.weight"), r"1 missing \(norm.weight\)"),
        (lambda s: s.update(stranger=torch.ones(2)), r"1 unexpected \(stranger\)"),
        (lambda s: s.update({"norm.bias": torch.ones(7)}), r"norm.bias \(7,\) instead of \(64,\)"),
        (lambda s: s.update({"pos_embed": torch.ones(1, 50, 64)}), r"pos_embed \(1, 50, 64\) instead"),
        (
            lambda s: s.update({"patch_embed.proj.weight": torch.ones(64, 3, 8, 8)}),
            r"patch_embed.proj.weight \(64, 3, 8, 8\) instead",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    tmp_path: Path,
    tiny: Tiny,
    workspace: Workspace,
    change: Callable[[dict[str, torch.Tensor]], Any],
    words: str,
) -> None:
    for kind in ("vit", "dinov2"):
        spec = tiny(kind)
        state = _state(spec, workspace)
        change(state)
        path = tmp_path / f"{kind}.safetensors"
        save_file(state, path)
        with pytest.raises(UsageError, match=words):
            load_spec(spec, replace(PLAIN, weights=path), workspace)


def test_another_architectures_file_is_refused(tmp_path: Path, tiny: Tiny, workspace: Workspace) -> None:
    kinds = ("vit", "dinov2", "dinov2_reg", "dinov3", "dinov3_plus", "openclip")
    for kind in kinds:
        save_file(_state(tiny(kind), workspace), tmp_path / f"{kind}.safetensors")
    for kind in kinds:
        for other in set(kinds) - {kind}:
            options = replace(PLAIN, weights=tmp_path / f"{other}.safetensors")
            with pytest.raises(UsageError, match="these are not weights of"):
                load_spec(tiny(kind), options, workspace)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("keep", [0, 7, 0.5, 0.99])
def test_a_truncated_file_is_damaged(
    tmp_path: Path, tiny: Tiny, workspace: Workspace, ending: str, keep: float
) -> None:
    spec = tiny("vit")
    path = tmp_path / f"cut{ending}"
    (save_file if ending == ".safetensors" else torch.save)(_state(spec, workspace), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(CorruptError, match=f"cut{ending}"):
        load_spec(spec, replace(PLAIN, weights=path), workspace)


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "was-run", tmp_path / "hostile.pth"
    torch.save({"model": _Hostile(marker)}, path)
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(_Hostile(marker)))
    for file in (path, plain):
        with pytest.raises(CorruptError, match="refused"):
            read_state(file)
    assert not marker.exists()


def test_files_without_tensors_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({}, tmp_path / "empty.pth")
    for name in ("list", "empty"):
        with pytest.raises(CorruptError, match="no tensors"):
            read_state(tmp_path / f"{name}.pth")


def test_the_digest_follows_the_bytes(tmp_path: Path) -> None:
    import os

    path = tmp_path / "w.bin"
    path.write_bytes(b"one")
    first = file_digest(path)
    assert first == sha256_file(path) == file_digest(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))  # same length; another time
    assert file_digest(path) == sha256_file(path) != first


def test_weights_and_untrained_exclude_each_other(tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="exclude"):
        load_backbone(BackboneOptions(untrained=True, weights=tmp_path / "w.pth"), workspace)


def test_the_imgfocus_file_loads_strictly_under_its_own_name(
    shared_weights: Path, workspace: Workspace
) -> None:
    path = shared_weights / "dinov2_vits14_imgfocus_fp16.safetensors"
    backbone = load_backbone(replace(PLAIN, weights=path), workspace)
    assert backbone.label == "ViT-S/14 (dinov2_vits14_imgfocus_fp16)"
    assert backbone.weights_digest == "98bb23ca4613d67f5594cc22b13a9be92bdd817e83476f5ce198fc21add48d2a"
    raw = read_state(path)
    assert len(raw) == 175
    ours = backbone.module.state_dict()
    assert set(raw) - set(ours) == {"mask_token"}
    assert all(torch.equal(ours[name], raw[name]) for name in ours)
    for wrong in ("dinov2_vits14_reg", "dinov2_vitb14", "dinov3", "openclip"):
        with pytest.raises(UsageError, match="these are not weights of"):
            load_backbone(replace(PLAIN, backbone=wrong, weights=path), workspace)
