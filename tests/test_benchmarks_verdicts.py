"""The table of an audit stands on several pages: one writer, the same columns and the same dashes."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def _audit() -> dict[str, Any]:
    def verdict(role: str, value: float, low: float | None, **more: Any) -> dict[str, Any]:
        estimate = {"value": value, "low": low, "high": None if low is None else low + 0.1}
        own = {"trained": "dinov2_vits14 · map", "role": role, "rival": "r", "choice": "", "p_value": 0.01}
        return {**own, "estimate": estimate, "p_holm": 0.02, **more}

    verdicts = [verdict("untrained", 0.05, 0.01), verdict("baseline", -0.2, None, p_holm=None, p_value=0.5)]
    verdicts[1]["p_holm"] = 1.0
    return {"verdicts": verdicts, "protocol": "p", "seed": 0}


def _lines(document: Any, tmp_path: Path) -> list[str]:
    document.write(tmp_path / "page.md")
    return [line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| ")]


def test_a_verdict_is_a_row_and_what_is_not_there_is_said(benchmarks, tmp_path: Path) -> None:
    verdicts = benchmarks("verdicts")
    page = benchmarks("document").Document("t", "c", "i")
    verdicts.verdict_table(page, _audit(), ["which"], lambda v: [v["role"]])
    assert _lines(page, tmp_path) == [
        "| which | difference [95 %] | p | p, Holm |",
        "| untrained | +0.050 [+0.010, +0.110] | 0.010 | 0.020 |",
        "| baseline | -0.200 | 0.500 | 1.000 |",
    ]
    assert verdicts.between({"value": None}) == "undefined"
    assert verdicts.between({"value": 0.5, "low": 0.25, "high": 0.75}) == "0.500 [0.250, 0.750]"


def test_the_pages_on_localisation_and_expression_write_it(benchmarks, tmp_path: Path) -> None:
    document = benchmarks("document").Document
    page = document("t", "c", "i")
    work = SimpleNamespace(once=lambda *words: _audit())
    twins = [{"backbone": f"dinov2_vits14, untrained, init_seed {seed}"} for seed in range(3)]
    benchmarks("localization_results")._audit(page, work, {"folder": "f", "runs": twins})
    lines = _lines(page, tmp_path)
    assert lines[0] == "| trained | channels | minus | difference [95 %] | p | p, Holm |"
    assert "| map | ViT-S/14, untrained, mean of 3 seeds | +0.050" in lines[1]
    assert "| map | pixel:all | -0.200 |" in lines[2]
    page = document("t", "c", "i")
    study = SimpleNamespace(call=lambda *words: (0, _audit(), ""))
    benchmarks("expression_results")._audit(page, study, {"folder": "f"})
    assert _lines(page, tmp_path)[1].startswith("| untrained | r | +0.050 [+0.010, +0.110] | 0.010 |")
