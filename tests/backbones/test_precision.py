"""Device and precision follow the hardware, and say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emvfm.backbones.precision import choose_device, choose_precision, cpu_has_bfloat16
from emvfm.errors import UsageError


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("flags\t\t: fpu avx512f avx2", False),
        ("model name\t: avx512_bf16", False),
    ],
)
def test_bfloat16_is_read_from_the_flags(tmp_path: Path, line: str, has: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{line}\n")
    assert cpu_has_bfloat16(path) is has
    assert cpu_has_bfloat16(tmp_path / "none") is False


def test_auto_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for has, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("emvfm.backbones.precision.cpu_has_bfloat16", lambda has=has: has)
        assert choose_precision("auto", cpu) == expected
        assert choose_precision("float32", cpu) == "float32"


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", ""])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="device"):
        choose_device(name)


def test_auto_is_a_device_that_computes() -> None:
    assert torch.ones(1, device=choose_device("auto")).item() == 1
