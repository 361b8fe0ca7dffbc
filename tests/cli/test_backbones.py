"""``emvfm backbones`` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

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
    for spec in SPECS:
        assert spec.name in text
    assert "DINOv3 License" in text


def test_list_as_json_says_whose_weights_are_here(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "dinov2_vits14.pth").write_bytes(b"")
    code, text, _ = _run("list", "--json", root=tmp_path)
    rows = {row["name"]: row for row in json.loads(text)["backbones"]}
    assert code == 0
    assert len(rows) == len(SPECS)
    assert rows["dinov2_vits14"]["weights"].endswith("dinov2_vits14.pth")


def test_show_needs_no_weights(tmp_path: Path) -> None:
    code, text, _ = _run("show", "dinov3_vit7b16", "--json", root=tmp_path)
    facts = json.loads(text)
    assert code == 0
    assert facts["parameters"] == 6_716_030_976
    # 40 blocks, rank 16, qkv (D -> 3D) and proj (D -> D) on D = 4096.
    assert facts["lora"]["attention"]["trainable"] == 40 * 16 * 6 * 4096
    # 2 operations a parameter and token, and attention on top of that.
    assert 1 < facts["gflops"] * 1e9 / (2 * facts["parameters"] * facts["tokens"]) < 1.2
    assert facts["side"] == 528


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
