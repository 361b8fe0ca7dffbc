"""LoRA: the base at step 0, every tensor alive, saved and loaded to the bit, readable by plain peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from emvfm.backbones.adapter_files import find_adapter
from emvfm.backbones.backbone import Backbone
from emvfm.backbones.loading import library_of, load_spec
from emvfm.backbones.lora import (
    adapter_parameters,
    check_adapter,
    inject_lora,
    load_adapter,
    merge,
    save_adapter,
)
from emvfm.backbones.open_layers import SelfAttention
from emvfm.backbones.options import BackboneOptions, LoraOptions
from emvfm.backbones.registry import BackboneSpec
from emvfm.errors import CorruptError, EmvfmError, MissingError, UsageError
from emvfm.workspace import Workspace

Tiny = Callable[[str], BackboneSpec]
BASE = BackboneOptions(untrained=True, init="trunc_normal", precision="float32", device="cpu")
SMALL = LoraOptions(lora_rank=4, lora_alpha=8)
VARIANTS = {
    "plain": SMALL,
    "mlp": replace(SMALL, lora_targets=("attention+mlp",)),
    "blocks": replace(SMALL, lora_blocks=(2, 0)),
    "rslora": replace(SMALL, rslora=True),
    "dora": replace(SMALL, dora=True),
    "gaussian": replace(SMALL, lora_init="gaussian"),
    "orthogonal": replace(SMALL, lora_init="orthogonal"),
    "pissa": replace(SMALL, lora_init="pissa"),
    "pissa_rslora": replace(SMALL, lora_init="pissa", rslora=True),
    "olora": replace(SMALL, lora_init="olora"),
}


def _load(spec: BackboneSpec, workspace: Workspace) -> Backbone:
    return load_spec(spec, BASE, workspace)


def _tokens(backbone: Backbone) -> torch.Tensor:
    side = 3 * backbone.patch
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        tokens = backbone.tokens(images, [0, backbone.depth - 1])
    return torch.cat([tokens.cls[:, :, None], tokens.registers, tokens.patches.flatten(2, 3)], dim=2)


def _train_a_little(backbone: Backbone) -> None:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, parameter in adapter_parameters(backbone.module):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("variant", VARIANTS)
def test_step_0_reload_and_merge_are_equal(
    any_spec: BackboneSpec, workspace: Workspace, tmp_path: Path, variant: str
) -> None:
    backbone = _load(any_spec, workspace)
    before = _tokens(backbone)
    report = inject_lora(backbone, VARIANTS[variant], seed=3)
    torch.testing.assert_close(_tokens(backbone), before, atol=1e-5, rtol=0)
    assert report.step0 <= 1e-5
    trainable = {n for n, p in backbone.module.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in adapter_parameters(backbone.module)}
    assert report.tensors == len(trainable)
    assert report.trainable == sum(report.per_block.values())

    _train_a_little(backbone)
    adapted = _tokens(backbone)
    assert float((adapted - before).abs().max()) > 1e-3

    save_adapter(backbone, tmp_path / "adapter")
    again = _load(any_spec, workspace)
    load_adapter(again, tmp_path / "adapter")
    torch.testing.assert_close(_tokens(again), adapted, atol=1e-5, rtol=0)
    assert again.adapter_digest == backbone.adapter_digest
    assert not any(p.requires_grad for p in again.module.parameters())

    merge(again)
    torch.testing.assert_close(_tokens(again), adapted, atol=1e-5, rtol=0)
    assert adapter_parameters(again.module) == []
    assert again.adapter_digest is None
    assert again.weights_digest != backbone.weights_digest


def test_the_frozen_base_does_not_move_while_training(any_spec: BackboneSpec, workspace: Workspace) -> None:
    backbone = _load(any_spec, workspace)
    inject_lora(backbone, SMALL)
    names = {n for n, _ in adapter_parameters(backbone.module)}
    frozen = {n: p.clone() for n, p in backbone.module.named_parameters() if n not in names}
    start = backbone.adapter_digest
    optimiser = torch.optim.SGD([p for _, p in adapter_parameters(backbone.module)], lr=0.1)
    images = torch.randn(2, 3, 2 * backbone.patch, 2 * backbone.patch)
    for _ in range(3):
        optimiser.zero_grad()
        backbone.tokens(images, [backbone.depth - 1]).patches.pow(4).mean().backward()
        optimiser.step()
    parameters = dict(backbone.module.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in frozen.items())
    assert backbone.adapter_digest != start


def test_the_first_values_depend_on_the_seed_alone(tiny: Tiny, workspace: Workspace) -> None:
    digests = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(digests))
        backbone = _load(tiny("vit"), workspace)
        state = torch.get_rng_state()
        inject_lora(backbone, SMALL, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        digests.append(backbone.adapter_digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_dead_adapter_is_named(tiny: Tiny, workspace: Workspace) -> None:
    """peft injects into ``out_proj`` of torch's attention without a word; its forward never runs."""
    from emvfm.backbones.injection import put_adapter

    backbone = _load(tiny("openclip"), workspace)
    settings = {"rank": 2, "alpha": 2.0, "dropout": 0.0, "dora": False, "rslora": False}
    targets = ["transformer.resblocks.1.attn.out_proj", "transformer.resblocks.1.mlp.c_fc"]
    put_adapter(backbone, targets, settings, "default", 0)
    with pytest.raises(
        EmvfmError, match=r"2 of 4 adapter tensors get no gradient.*resblocks\.1\.attn\.out_proj"
    ):
        check_adapter(backbone)


def test_the_check_leaves_everything_as_it_was(tiny: Tiny, workspace: Workspace) -> None:
    backbone = _load(tiny("dinov3"), workspace)
    inject_lora(backbone, SMALL)
    named = adapter_parameters(backbone.module)
    named[0][1].requires_grad_(False)
    before = [(p.clone(), p.requires_grad) for _, p in named]
    assert check_adapter(backbone) == len(named)
    for (_, parameter), (value, state) in zip(named, before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.requires_grad == state
        assert parameter.grad is None


def test_block_subset_and_counts(tiny: Tiny, workspace: Workspace) -> None:
    report = inject_lora(_load(tiny("vit"), workspace), replace(SMALL, lora_blocks=(4, 1)))
    assert report.blocks == (1, 4)
    assert report.targets == tuple(f"blocks.{i}.attn.{n}" for i in (1, 4) for n in ("qkv", "proj"))
    one_block = 4 * (64 + 192) + 4 * (64 + 64)
    assert report.per_block == {1: one_block, 4: one_block}
    assert report.total == 306_240 + 2 * one_block
    assert json.loads(json.dumps(report.to_json()))["per_block"]["1"] == one_block


@pytest.mark.parametrize("kind", ["dinov2_giant", "openclip"])
@pytest.mark.parametrize("variant", ["plain", "dora", "rslora", "pissa", "olora"])
def test_a_block_subset_acts_there_and_nowhere_else(
    tiny: Tiny, workspace: Workspace, kind: str, variant: str
) -> None:
    """Blocks before it give the base's tokens, and a loss of the tokens reaches every tensor in it."""
    backbone = _load(tiny(kind), workspace)
    images = torch.randn(1, 3, 3 * backbone.patch, 3 * backbone.patch)
    with torch.no_grad():
        before = backbone.tokens(images, [0, 1, 2]).patches
    options = replace(VARIANTS[variant], lora_targets=("attention+mlp",), lora_blocks=(1,))
    inject_lora(backbone, options)
    assert all(".1." in name for name, _ in adapter_parameters(backbone.module))
    _train_a_little(backbone)
    after = backbone.tokens(images, [0, 1, 2]).patches
    torch.testing.assert_close(after[:, 0], before[:, 0], atol=1e-6, rtol=0)
    assert float((after[:, 1] - before[:, 1]).abs().max().detach()) > 1e-3
    after[:, 2].pow(4).mean().backward()
    gradients = [parameter.grad for _, parameter in adapter_parameters(backbone.module)]
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)


def test_explicit_targets(tiny: Tiny, workspace: Workspace) -> None:
    report = inject_lora(_load(tiny("vit"), workspace), replace(SMALL, lora_targets=("mlp.fc2",)))
    assert set(report.targets) == {f"blocks.{i}.mlp.fc2" for i in range(6)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (replace(SMALL, lora_targets=("attn.q",)), "attn.qkv"),
        (replace(SMALL, lora_targets=()), "no LoRA targets"),
        (replace(SMALL, lora_blocks=(6,)), "0 to 5"),
        (replace(SMALL, lora_blocks=()), "0 to 5"),
        (replace(SMALL, dora=True, lora_init="pissa"), "can't begin with pissa"),
        (replace(SMALL, lora_rank=3, lora_init="orthogonal"), "even rank"),
        (replace(SMALL, lora_rank=500, lora_init="pissa"), "rank"),
    ],
)
def test_wrong_options_are_refused(
    tiny: Tiny, workspace: Workspace, options: LoraOptions, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        inject_lora(_load(tiny("vit"), workspace), options)


def test_a_second_adapter_is_refused(tiny: Tiny, workspace: Workspace) -> None:
    backbone = _load(tiny("vit"), workspace)
    inject_lora(backbone, SMALL)
    with pytest.raises(UsageError, match="an adapter already"):
        inject_lora(backbone, SMALL)


def test_dropout_acts_in_training_only(tiny: Tiny, workspace: Workspace) -> None:
    for kind in ("dinov2", "openclip"):
        backbone = _load(tiny(kind), workspace)
        inject_lora(backbone, replace(SMALL, lora_dropout=0.5))
        _train_a_little(backbone)
        assert torch.equal(_tokens(backbone), _tokens(backbone))
        backbone.module.train()
        assert not torch.equal(_tokens(backbone), _tokens(backbone))


@pytest.mark.parametrize("kind", ["vit", "dinov2_giant", "dinov3", "openclip"])
@pytest.mark.parametrize("variant", ["mlp", "blocks", "rslora", "pissa"])
def test_plain_peft_reads_our_files(
    tiny: Tiny, workspace: Workspace, tmp_path: Path, kind: str, variant: str
) -> None:
    """On the library's own model, with open_clip's packed attention opened."""
    from peft import PeftModel

    backbone = _load(tiny(kind), workspace)
    inject_lora(backbone, VARIANTS[variant])
    _train_a_little(backbone)
    save_adapter(backbone, tmp_path / "adapter")
    fresh = _load(tiny(kind), workspace)
    fresh.library.open_for_adapters(fresh.module)
    wrapped = PeftModel.from_pretrained(fresh.module, str(tmp_path / "adapter"))
    fresh.module = wrapped.base_model.model
    torch.testing.assert_close(_tokens(fresh), _tokens(backbone), atol=1e-5, rtol=0)


def test_we_read_plain_pefts_files(tiny: Tiny, workspace: Workspace, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    theirs = _load(tiny("vit"), workspace)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["attn.qkv", "attn.proj"], init_lora_weights=False)
    wrapped = get_peft_model(theirs.module, config)
    wrapped.save_pretrained(str(tmp_path / "peft"))
    ours = _load(tiny("vit"), workspace)
    load_adapter(ours, tmp_path / "peft", trainable=True)
    theirs.module = wrapped.base_model.model
    torch.testing.assert_close(_tokens(ours), _tokens(theirs), atol=1e-5, rtol=0)
    assert all(p.requires_grad for _, p in adapter_parameters(ours.module))


def test_pefts_adapter_of_packed_attention_is_refused(
    tiny: Tiny, workspace: Workspace, tmp_path: Path
) -> None:
    """peft adds the update of ``out_proj`` twice there, so the same file can't mean the same model."""
    from peft import LoraConfig, get_peft_model

    theirs = _load(tiny("openclip"), workspace)
    wrapped = get_peft_model(theirs.module, LoraConfig(r=4, target_modules=["attn"]))
    wrapped.save_pretrained(str(tmp_path / "peft"))
    with pytest.raises(UsageError, match="does not fit"):
        load_adapter(_load(tiny("openclip"), workspace), tmp_path / "peft")


def _saved(tiny: Tiny, workspace: Workspace, folder: Path) -> Path:
    backbone = _load(tiny("vit"), workspace)
    inject_lora(backbone, SMALL)
    return save_adapter(backbone, folder)


def _change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _change_config(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


_FIRST = "base_model.model.blocks.0.attn.qkv.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (lambda f: _change_tensors(f, lambda t: t.pop(_FIRST)), UsageError, "1 adapter tensors are missing"),
        (
            lambda f: _change_tensors(
                f, lambda t: t.update({"blocks.0.attn.stray.lora_A.weight": t[_FIRST].clone()})
            ),
            UsageError,
            "stray",
        ),
        (lambda f: _change_tensors(f, lambda t: t.update(other=t[_FIRST].clone())), UsageError, "other"),
        (lambda f: _change_config(f, r=8), UsageError, "of another shape"),
        (lambda f: _change_config(f, peft_type="IA3"), UsageError, "not a LoRA adapter"),
        (lambda f: _change_config(f, rank_pattern={"qkv": 2}), UsageError, "rank_pattern"),
        (lambda f: (f / "adapter_config.json").write_text("{"), CorruptError, "JSON"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\0" * 9), CorruptError, "damaged"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), MissingError, "adapter_model"),
        (lambda f: (f / "adapter_config.json").unlink(), MissingError, "no adapter here"),
    ],
)
def test_a_damaged_adapter_is_refused(
    tiny: Tiny,
    workspace: Workspace,
    tmp_path: Path,
    damage: Callable[[Path], object],
    kind: type[Exception],
    words: str,
) -> None:
    folder = _saved(tiny, workspace, tmp_path / "adapter")
    damage(folder)
    backbone = _load(tiny("vit"), workspace)
    before = _tokens(backbone)
    with pytest.raises(kind, match=words):
        load_adapter(backbone, folder)
    assert backbone.adapter is None
    torch.testing.assert_close(_tokens(backbone), before)


def test_an_adapter_of_other_weights_is_refused(tiny: Tiny, workspace: Workspace, tmp_path: Path) -> None:
    folder = _saved(tiny, workspace, tmp_path / "adapter")
    other = load_spec(tiny("vit"), replace(BASE, init_seed=1), workspace)
    with pytest.raises(UsageError, match="other weights"):
        load_adapter(other, folder)
    with pytest.raises(UsageError, match="other models"):
        load_adapter(_load(tiny("dinov2"), workspace), folder)


def test_options_load_the_adapter_of_a_run(tiny: Tiny, workspace: Workspace, tmp_path: Path) -> None:
    run = workspace.runs / "first-run"
    _saved(tiny, workspace, run / "checkpoints" / "best")
    (run / "config.yaml").write_text("{}")
    assert find_adapter("first", workspace) == run / "checkpoints" / "best"
    backbone = load_spec(tiny("vit"), replace(BASE, adapter="first-run"), workspace)
    assert backbone.adapter_digest is not None
    (workspace.runs / "bare").mkdir()
    (workspace.runs / "bare" / "config.yaml").write_text("{}")
    with pytest.raises(MissingError, match="no adapter in this run"):
        find_adapter("bare", workspace)


def test_dinov3_adapters_carry_the_licence(tiny: Tiny, workspace: Workspace, tmp_path: Path) -> None:
    backbone = _load(tiny("dinov3"), workspace)
    inject_lora(backbone, SMALL)
    folder = save_adapter(backbone, tmp_path / "adapter")
    assert "DINOv3 License" in (folder / "NOTICE").read_text()
    assert json.loads((folder / "emvfm.json").read_text())["backbone"] == backbone.spec.name


def test_our_attention_is_torchs(tiny: Tiny) -> None:
    torch.manual_seed(0)
    packed = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    nn.init.normal_(packed.in_proj_bias)
    ours = SelfAttention.from_packed(packed)
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(ours(x, x, x)[0], packed(x, x, x, need_weights=False)[0])
    with pytest.raises(ValueError, match="self-attention"):
        ours(x, x.clone(), x)


def test_folded_biases_change_nothing(tiny: Tiny, workspace: Workspace) -> None:
    backbone = _load(tiny("dinov3_qkvb"), workspace)
    with torch.no_grad():
        for block in backbone.module.blocks:
            nn.init.normal_(block.attn.q_bias)
            nn.init.normal_(block.attn.v_bias)
    before = _tokens(backbone)
    library_of(backbone.spec).open_for_adapters(backbone.module)
    torch.testing.assert_close(_tokens(backbone), before, atol=1e-5, rtol=0)
    assert all(block.attn.q_bias is None for block in backbone.module.blocks)
