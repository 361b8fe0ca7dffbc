"""What the benchmark commands share: pages carry their provenance, candidates take turns."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _import_from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def test_a_page_says_who_wrote_it_and_where_it_was_measured(tmp_path) -> None:
    document = importlib.import_module("benchmarks.document")
    page = document.Document("Title", "nox -s x", "Introduction.")
    page.section("Part", "Text.")
    page.table(["a", "b"], [[0.123456, None], ["x|y", 3]])
    page.write(tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("# Title\n\nWritten by `nox -s x`; do not edit by hand.\n")
    assert "Measured on: 20" in text
    assert "torch" in text
    assert "| a | b |\n|---|---|\n| 0.123 | – |\n| x\\|y | 3 |\n" in text


def test_candidates_take_turns_and_are_compared_within_rounds() -> None:
    timing = importlib.import_module("benchmarks.timing")
    calls: list[str] = []
    found = timing.paired({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=2)
    assert calls == ["b", "a", "a", "b", "b", "a"]  # a warm-up round, then two in turning order
    assert {name: len(times) for name, times in found.seconds.items()} == {"a": 2, "b": 2}
    given = timing.Paired({"a": (2.0, 6.0, 8.0), "b": (1.0, 2.0, 1.0)})
    assert given.median("a") == 6.0
    assert given.ratio("a", "b") == (3.0, 2.0, 8.0)


@pytest.mark.parametrize(
    "name",
    ["results", "performance", "robustness", "domain_results", "domain", "training", "localization_results"],
)
def test_the_commands_explain_themselves(name: str, monkeypatch, capsys) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 0
    assert "--out" in capsys.readouterr().out
