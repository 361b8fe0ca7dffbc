"""``emvfm backbones`` as a user types it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from emvfm.backbones.cell_models import CELL_SPECS
from emvfm.backbones.registry import SPECS
from emvfm.cli.backbones import register


def _run(*arguments: str, root: Path) -> tuple[int, str, str]:
    app = typer.Typer()
    register(app)

    @app.command()
    def other() -> None:
        """A second command, so that the group keeps its name."""

    result = CliRunner().invoke(app, ["backbones", *arguments, "--root", str(root)])
    return result.exit_code, result.stdout, result.stderr


def test_list_has_every_row(tmp_path: Path) -> None:
    code, text, _ = _run("list", root=tmp_path)
    assert code == 0
    for spec in (*SPECS, *CELL_SPECS):
        assert spec.name in text
    assert "DINOv3 License" in text
    assert "nucleus" in text
    assert "zenodo.org/records/8061392" in " ".join(text.split())
    assert "--backbone NAME --weights FILE" in " ".join(text.split())


def test_list_as_json_says_whose_weights_are_here(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "dinov2_vits14.pth").write_bytes(b"")
    code, text, _ = _run("list", "--json", root=tmp_path)
    rows = {row["name"]: row for row in json.loads(text)["backbones"]}
    assert code == 0
    assert len(rows) == len(SPECS) + len(CELL_SPECS)
    assert rows["dinov2_vits14"]["slots"] == ["red", "green", "blue"]
    assert rows["dino4cells_vits16"]["slots"] == ["nucleus", "protein", "microtubules", "er"]
    assert rows["dino4cells_vits16"]["licence_url"] == "https://zenodo.org/records/8061392"
    assert rows["dinov2_vits14"]["weights"].endswith("dinov2_vits14.pth")


def test_show_needs_no_weights(tmp_path: Path) -> None:
    code, text, _ = _run("show", "dinov3_vitb16", "--json", root=tmp_path)
    (facts,) = json.loads(text)["backbones"]
    assert code == 0
    assert facts["parameters"] == facts["backbone"] == 85_641_216
    # 12 blocks, rank 16, qkv (D -> 3D) and proj (D -> D) on D = 768.
    assert facts["adapter"] == 12 * 16 * 6 * 768
    # 2 operations a parameter and token, and attention on top of that.
    assert 1 < facts["gflops"] * 1e9 / (2 * facts["parameters"] * facts["tokens"]) < 1.3
    assert facts["side"] == 528
    assert facts["measured"] is None


def test_show_in_words(tmp_path: Path) -> None:
    code, text, _ = _run("show", "dinov2", root=tmp_path)
    assert code == 0
    for part in (
        "Apache-2.0",
        "22,056,192",
        "442,368",
        "huggingface.co/timm/vit_small_patch14_dinov2.lvd142m",
    ):
        assert part in text


def test_show_several_in_one_table(tmp_path: Path) -> None:
    options = ("--image", "96", "--lora-rank", "2", "--dora", "--head", "linear", "--head-layers", "2")
    names = ("timm:test_vit", "timm:test_vit2")
    code, text, _ = _run("show", *names, *options, "--to", str(tmp_path / "x.csv"), root=tmp_path)
    assert code == 0
    assert "huggingface" not in text
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert [row["backbone"].split(".")[0] for row in rows] == list(names)
    assert {row["lora_rank"] for row in rows} == {"2"}
    assert int(rows[0]["frozen_trainable"]) == int(rows[0]["head_params"])


def test_show_the_references_columns(tmp_path: Path) -> None:
    arguments = ("show", "dinov2", "--preset", "reference", "--to", str(tmp_path / "x.csv"), "--json")
    code, text, _ = _run(*arguments, root=tmp_path)
    assert code == 0
    (row,) = csv.DictReader((tmp_path / "x.csv").open())
    assert row["seg_head_params"] == "3828866"
    assert row["lora_backbone_trainable_params"] == "442368"
    assert row["lora_plus_head_trainable_params"] == "4271234"
    assert row["lora_policy"] == "vit_attention_only"
    assert list(row) == list(json.loads(text)["table"][0])


def test_show_measures_on_request(tmp_path: Path) -> None:
    arguments = ("show", "timm:test_vit", "--measure", "--image", "64", "--device", "cpu")
    code, text, _ = _run(*arguments, "--json", root=tmp_path)
    measured = json.loads(text)["backbones"][0]["measured"]
    assert code == 0
    assert set(measured["ms"]) == {"forward", "lora", "full"}
    assert min(measured["ms"].values()) > 0
    assert "forward ms" in _run(*arguments, root=tmp_path)[1]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A run of the workspace with the adapter of an untrained tiny backbone."""
    from emvfm.backbones.loading import load_backbone
    from emvfm.backbones.lora import inject_lora, save_adapter
    from emvfm.backbones.options import BackboneOptions, LoraOptions
    from emvfm.workspace import Workspace

    options = BackboneOptions(backbone="timm:test_vit", untrained=True, device="cpu")
    backbone = load_backbone(options, Workspace(tmp_path))
    inject_lora(backbone, LoraOptions(lora_rank=2))
    run = tmp_path / "runs" / "first-run"
    save_adapter(backbone, run / "checkpoints" / "adapter")
    (run / "config.yaml").write_text("{}")
    return run


def test_export_and_merge(adapter: Path, tmp_path: Path) -> None:
    code, text, _ = _run("export", "first", "--to", str(tmp_path / "out"), "--json", root=tmp_path)
    found = json.loads(text)
    assert code == 0
    assert found["tensors"] == 24
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == found["files"]
    code, text, _ = _run("merge", "first", "--to", str(tmp_path / "m.safetensors"), root=tmp_path)
    assert code == 0
    assert "306,240 parameters of timm:test_vit" in text
    arguments = ("check", "timm:test_vit", "--weights", str(tmp_path / "m.safetensors"), "--device", "cpu")
    assert _run(*arguments, root=tmp_path)[0] == 0
    assert _run("export", str(adapter), "--to", str(tmp_path / "two"), root=tmp_path)[0] == 0


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_check_an_untrained_backbone(tmp_path: Path, form: tuple[str, ...]) -> None:
    code, text, _ = _run(
        "check", "timm:test_vit", "--untrained", "--init", "kaiming", "--device", "cpu", *form, root=tmp_path
    )
    assert code == 0
    if form:
        found = json.loads(text)
        assert found["passed"] is True
        assert found["own_difference"] <= 1e-5
        assert found["weights"] == "untrained:kaiming:0"
        assert found["grid"] == [10, 10]
    else:
        assert "passed" in text
        assert "untrained (kaiming init, seed 0)" in text


def test_check_real_weights_under_their_own_name(shared_weights: Path, tmp_path: Path) -> None:
    path = shared_weights / "vit_tiny_patch16_224_augreg_in21k_ft_in1k_fp16.safetensors"
    code, text, _ = _run(
        "check",
        "vit_tiny_patch16_224",
        "--weights",
        str(path),
        "--precision",
        "float32",
        "--json",
        root=tmp_path,
    )
    found = json.loads(text)
    assert code == 0
    assert found["own_difference"] <= 1e-5
    assert found["precision_difference"] == 0
    assert found["weights"].startswith("5a7507271b1a9592")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("check", "dinov2"), 3, "download model.safetensors"),
        (("check", "dinov2", "--weights", "nowhere.pth"), 3, "nowhere.pth"),
        (("show", "dinov4"), 3, "dinov3"),
        (("show",), 2, "no backbone named"),
        (("show", "timm:test_vit", "--head", "none"), 2, "unknown head"),
        (("show", "timm:test_vit", "--lora-blocks", "9"), 2, "0 to 5"),
        (("export", "nothing", "--to", "nowhere"), 3, "no such run"),
        (("merge", "nothing", "--to", "nowhere"), 2, "in .safetensors"),
        (("check", "timm:resnet18", "--untrained"), 2, "not a plain vision transformer"),
        (("check", "dinov2", "--untrained", "--device", "tpu9"), 2, "no such device"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    exit_code, text, error = _run(*arguments, root=tmp_path)
    assert exit_code == code
    assert words in error
    assert error.count("\n") == 1
    assert text == ""


def test_the_module_loads_nothing_heavy() -> None:
    program = (
        "import sys, emvfm.cli.backbones, emvfm.backbones.options;"
        "print([m for m in ('torch', 'timm', 'numpy', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
