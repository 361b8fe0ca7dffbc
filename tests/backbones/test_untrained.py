"""Random weights on purpose depend on the scheme and the seed, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.loading import library_of, load_spec
from emvfm.backbones.options import BackboneOptions
from emvfm.backbones.registry import BackboneSpec
from emvfm.backbones.untrained import SCHEMES, build_untrained
from emvfm.errors import UsageError
from emvfm.workspace import Workspace

Tiny = Callable[[str], BackboneSpec]
OPTIONS = BackboneOptions(untrained=True, precision="float32", device="cpu")


def _state(backbone: Backbone) -> torch.Tensor:
    return torch.cat([p.flatten() for p in backbone.module.state_dict().values() if p.is_floating_point()])


def _vector(spec: BackboneSpec, options: BackboneOptions, workspace: Workspace) -> torch.Tensor:
    return _state(load_spec(spec, options, workspace))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_seed_and_scheme_decide(any_spec: BackboneSpec, workspace: Workspace, scheme: str) -> None:
    options = replace(OPTIONS, init=scheme)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = _vector(any_spec, options, workspace)
    assert torch.equal(torch.get_rng_state(), state)  # the process's own random numbers go on as before
    torch.manual_seed(2)
    assert torch.equal(first, _vector(any_spec, options, workspace))
    assert not torch.equal(first, _vector(any_spec, replace(options, init_seed=1), workspace))
    assert bool(first.isfinite().all())


def test_schemes_differ_and_names_say_so(tiny: Tiny, workspace: Workspace) -> None:
    found = {}
    for scheme in SCHEMES:
        backbone = load_spec(tiny("dinov2"), replace(OPTIONS, init=scheme, init_seed=3), workspace)
        found[backbone.weights_digest] = backbone.module.blocks[0].mlp.fc1.weight
        assert backbone.label == f"ViT-S/14, untrained ({scheme} init, seed 3)"
    assert set(found) == {f"untrained:{scheme}:3" for scheme in SCHEMES}
    values = list(found.values())
    assert all(not torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])


def test_orthogonal_weights_are_orthogonal(tiny: Tiny, workspace: Workspace) -> None:
    backbone = load_spec(tiny("openclip"), replace(OPTIONS, init="orthogonal"), workspace)
    weight = backbone.module.transformer.resblocks[0].attn.in_proj_weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(64), atol=1e-5, rtol=0)


def test_kaiming_keeps_the_variance(tiny: Tiny, workspace: Workspace) -> None:
    backbone = load_spec(tiny("dinov3"), replace(OPTIONS, init="kaiming"), workspace)
    weight = backbone.module.blocks[1].mlp.fc2.weight
    assert float(weight.std()) == pytest.approx(weight.shape[1] ** -0.5, rel=0.05)


def test_layer_scale_does_not_silence_our_schemes(tiny: Tiny, workspace: Workspace) -> None:
    """With DINOv2's 1e-5 all layers would be the patch embedding again."""
    images = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    changes = {}
    for scheme in ("timm", "kaiming"):
        backbone = load_spec(tiny("dinov2"), replace(OPTIONS, init=scheme), workspace)
        with torch.no_grad():
            tokens = backbone.tokens(images, [0, 2]).patches
        changes[scheme] = float((tokens[:, 1] - tokens[:, 0]).abs().mean())
    assert changes["timm"] < 1e-3 < 0.1 < changes["kaiming"]


def test_an_unknown_scheme_is_refused(tiny: Tiny) -> None:
    spec = tiny("vit")
    with pytest.raises(UsageError, match="kaiming"):
        build_untrained(library_of(spec), spec, "magic", 0)


def test_shuffled_weights_are_the_trained_ones_in_another_order(
    tiny: Tiny, workspace: Workspace, tmp_path: Path
) -> None:
    spec = tiny("dinov3")
    trained = load_spec(spec, OPTIONS, workspace)
    path = tmp_path / "weights.pth"
    torch.save(trained.module.state_dict(), path)
    options = replace(OPTIONS, untrained=False, weights=path)
    plain = load_spec(spec, options, workspace)
    shuffled = load_spec(spec, replace(options, shuffle_weights=True, init_seed=2), workspace)
    ours, theirs = dict(plain.module.named_parameters()), dict(shuffled.module.named_parameters())
    for name, parameter in ours.items():
        assert torch.equal(parameter.flatten().sort().values, theirs[name].flatten().sort().values), name
    large = [name for name, p in ours.items() if p.numel() > 100 and p.unique().numel() > 1]
    assert large
    assert all(not torch.equal(ours[name], theirs[name]) for name in large)
    # One permutation a tensor: two of one shape are not shuffled alike.
    order = {name: theirs[name].flatten()[:20].tolist() for name in large}
    assert len({tuple(values) for values in order.values()}) == len(large)
    assert shuffled.weights_digest == f"shuffled:2:{plain.weights_digest}"
    assert "shuffled" in shuffled.label
    assert shuffled.label != spec.title
    again = load_spec(spec, replace(options, shuffle_weights=True, init_seed=2), workspace)
    assert torch.equal(_state(again), _state(shuffled))
    other = load_spec(spec, replace(options, shuffle_weights=True, init_seed=3), workspace)
    assert not torch.equal(_state(other), _state(shuffled))


def test_shuffled_and_untrained_exclude_each_other(tiny: Tiny, workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="exclude"):
        load_spec(tiny("vit"), replace(OPTIONS, shuffle_weights=True), workspace)
