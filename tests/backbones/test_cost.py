"""Costs: operations by hand, memory as real tensors need it, parameters as real modules have them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from emvfm.backbones.backbone import evenly_spaced
from emvfm.backbones.cost import Cost, adapted, count_cost, counted, gathered
from emvfm.backbones.cost_measure import measure_cost
from emvfm.backbones.cost_table import as_csv, reference_row, row
from emvfm.backbones.loading import load_spec
from emvfm.backbones.lora import inject_lora
from emvfm.backbones.options import BackboneOptions, CostOptions, LoraOptions
from emvfm.backbones.registry import BackboneSpec, find_spec
from emvfm.workspace import Workspace

Tiny = Callable[[str], BackboneSpec]
BASE = BackboneOptions(untrained=True, precision="float32", device="cpu")
SMALL = CostOptions(lora_rank=4, image=60, head_layers=2)


class _Head(nn.Conv2d):
    """A 1 x 1 convolution that ignores pixels, as most heads do."""

    def forward(self, tokens: Tensor, pixels: Tensor | None = None) -> Tensor:
        return super().forward(tokens)


def _head(spec: BackboneSpec) -> nn.Module:
    return _Head(2 * spec.width, 2, 1)


def _reference_head(spec: BackboneSpec) -> nn.Module:
    from emvfm.segmentation.heads import build_head

    return build_head("deconv-reference", spec.width)


def test_operations_and_memory_of_linear_layers_by_hand() -> None:
    n, i, h, o = 7, 5, 11, 3
    first, last = nn.Linear(i, h, device="meta"), nn.Linear(h, o, device="meta")
    x = torch.empty(n, i, device="meta")
    with counted([*first.parameters(), *last.parameters()]) as work:
        last(F.gelu(first(x))).sum().backward()
    forward = 2 * n * (i * h + h * o)
    backward = 2 * n * (i * h + 2 * h * o)  # nobody asks for the gradient of x
    assert work.flops == forward + backward
    assert work.kept == 4 * n * (i + h + h)  # the inputs of the layers and of the activation
    first.requires_grad_(False)
    with counted([*first.parameters(), *last.parameters()]) as work:
        last(F.gelu(first(x))).sum().backward()
    assert work.flops == forward + 2 * n * h * o
    assert work.kept == 4 * n * h


def test_operations_and_memory_of_attention_by_hand() -> None:
    b, heads, n, d = 2, 3, 10, 8
    q, k, v = (torch.empty(b, heads, n, d, device="meta", requires_grad=True) for _ in range(3))
    with counted() as work:
        out = F.scaled_dot_product_attention(q, k, v)
    assert work.flops == 2 * 2 * b * heads * n * n * d
    assert out.shape == (b, heads, n, d)
    # Queries, keys, values and output, and one number a row of the matrix that is never written.
    assert work.kept == 4 * b * heads * (4 * n * d + n)


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_reg", "openclip"])
def test_operations_of_a_forward_pass_by_hand(tiny: Tiny, kind: str) -> None:
    spec = tiny(kind)
    cost = count_cost(spec, SMALL, _head)
    grid = (cost.side // spec.patch) ** 2
    t, d = cost.tokens, spec.width
    block = 2 * t * d * (3 * d + d + 8 * d) + 4 * t * t * d
    assert cost.gflops * 1e9 == pytest.approx(2 * 3 * spec.patch**2 * d * grid + spec.depth * block)
    assert cost.head_gflops * 1e9 == pytest.approx(2 * grid * 2 * d * 2)
    assert t == spec.prefix + grid


def test_parameters_are_those_of_real_modules(any_spec: BackboneSpec, tmp_path: object) -> None:
    for changes in ({}, {"dora": True}, {"lora_blocks": (1,), "lora_targets": ("attention+mlp",)}):
        options = replace(SMALL, **changes)  # type: ignore[arg-type]
        backbone = load_spec(any_spec, BASE, Workspace(tmp_path))  # type: ignore[arg-type]
        own = sum(p.numel() for p in backbone.module.parameters())
        lora = LoraOptions(
            lora_rank=4,
            dora=options.dora,
            lora_blocks=options.lora_blocks,
            lora_targets=options.lora_targets,
        )
        report = inject_lora(backbone, lora)
        cost = count_cost(any_spec, options, _head)
        assert (cost.backbone, cost.adapter) == (own, report.trainable)
        assert cost.head == 2 * 2 * any_spec.width + 2
        assert cost.lora["layers"] == len(report.targets)
        assert cost.lora["blocks"] == len(report.blocks)


def _kept(run: Callable[[], Tensor], owned: set[int]) -> int:
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in owned)


@pytest.mark.parametrize("kind", ["vit", "dinov2_giant", "dinov3", "openclip"])
def test_memory_is_what_real_tensors_keep(tiny: Tiny, kind: str, tmp_path: object) -> None:
    spec = tiny(kind)
    cost = count_cost(spec, SMALL, _head)
    backbone = load_spec(spec, BASE, Workspace(tmp_path))  # type: ignore[arg-type]
    backbone.library.open_for_adapters(backbone.module)
    head = _head(spec)
    layers = evenly_spaced(spec.depth, 2)
    images = torch.randn(1, 3, cost.side, cost.side)

    def run() -> Tensor:
        tokens = backbone.library.layer_tokens(backbone.module, images, layers)
        return head(gathered(spec, tokens, cost.side)).sum()

    def kept() -> float:
        modules = (backbone.module, head)
        return _kept(run, {p.untyped_storage().data_ptr() for m in modules for p in m.parameters()}) / 2**20

    backbone.module.requires_grad_(True)
    # Kernels differ in what they keep beside the activations: random states, statistics of norms.
    assert cost.steps["full"].kept_mib == pytest.approx(kept(), rel=0.03)
    backbone.module.requires_grad_(False)
    adapted(backbone, SMALL)
    assert cost.steps["lora"].kept_mib == pytest.approx(kept(), rel=0.03)


def test_what_is_trained_orders_the_costs(any_spec: BackboneSpec) -> None:
    cost = count_cost(any_spec, SMALL, _head)
    frozen, lora, full = (cost.steps[name] for name in ("frozen", "lora", "full"))
    for key in ("trainable", "gflops", "kept_mib", "state_mib", "percent"):
        assert getattr(frozen, key) < getattr(lora, key) < getattr(full, key), key
    assert full.percent == 100
    assert full.state_mib * 2**20 == 16 * (cost.backbone + cost.head)
    assert cost.gflops < lora.gflops
    assert cost.to_json()["steps"]["lora"]["trainable"] == cost.adapter + cost.head


def test_a_block_subset_costs_less(tiny: Tiny) -> None:
    every = count_cost(tiny("dinov2"), SMALL, _head).steps["lora"]
    last = count_cost(tiny("dinov2"), replace(SMALL, lora_blocks=(2,)), _head).steps["lora"]
    assert last.gflops < every.gflops
    assert last.kept_mib < every.kept_mib


#: backbone → parameters in millions as its paper says, then head, LoRA and both of the reference's table.
PUBLISHED = {
    "dinov2_vits14": (21, 3_828_866, 442_368, 4_271_234),
    "dinov3_vitb16": (86, 4_025_474, 884_736, 4_910_210),
    "openclip_vitl14_laion2b": (304, 4_156_546, 2_359_296, 6_515_842),
    "dinov2_vitg14": (1100, 4_418_690, 5_898_240, 10_316_930),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    options = CostOptions(image=32, head_layers=1)
    cost = count_cost(find_spec(name), options, _reference_head)
    millions, *counts = PUBLISHED[name]
    assert cost.backbone / 1e6 == pytest.approx(millions, rel=0.06)
    assert [cost.head, cost.adapter, cost.steps["lora"].trainable] == counts
    columns = reference_row(cost, options)
    assert columns["lora_targets"] == 2 * cost.spec.depth
    assert columns["total_params_full"] == cost.backbone + counts[0]
    assert columns["lora_plus_head_pct_total"] == pytest.approx(
        100 * counts[2] / (cost.backbone + counts[0] + counts[1])
    )


def _cost(tiny: Tiny) -> Cost:
    return count_cost(tiny("vit"), SMALL, _head)


def test_rows_survive_csv(tiny: Tiny) -> None:
    cost = _cost(tiny)
    for values in (row(cost), reference_row(cost, SMALL)):
        (found,) = csv.DictReader(io.StringIO(as_csv([values])))
        assert found == {key: str(value) for key, value in values.items()}
    assert reference_row(cost, replace(SMALL, lora_targets=("attn.qkv",)))["lora_policy"] == "attn.qkv"
    subset = replace(SMALL, lora_blocks=(0,))
    part = reference_row(count_cost(tiny("vit"), subset, _head), subset)
    assert part["lora_compatibility_mode"] is False
    assert part["lora_blocks_targeted"] == 1


def test_measuring_leaves_the_random_state_alone(tiny: Tiny) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    found = measure_cost(tiny("openclip"), replace(SMALL, device="cpu"), _head)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(found.ms) == set(found.peak_mib) == {"forward", "lora", "full"}
    assert all(ms > 0 for ms in found.ms.values())
    assert found.precision == "float32"
    assert found.to_json()["side"] == 64
