"""The benchmark of distances compares ways that give the same number."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.domain")


def test_both_ways_give_one_value(domain) -> None:
    x, y = domain.embeddings(3000, 24, 0), domain.embeddings(2500, 24, 1) + 0.1
    assert domain.streamed_form(x, y) == pytest.approx(domain.square_root_form(x, y), rel=1e-6)
    assert domain.frechet_distance(x, y) == pytest.approx(domain.square_root_form(x, y), rel=1e-6)


def test_a_small_page_is_written(domain, tmp_path: Path, monkeypatch) -> None:
    sizes = ["--patches", "4000", "--dimension", "16", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["domain", *sizes, "--projected", "9000", "--out", str(tmp_path)])
    monkeypatch.setattr(domain, "whole_comparisons", lambda page: None)
    images = domain.frechet_of_images
    monkeypatch.setattr(domain, "frechet_of_images", lambda page, rounds: images(page, rounds=1))
    domain.main()
    text = (tmp_path / "performance-domains.md").read_text()
    assert "Written by `nox -s domain_speed`" in text
    assert text.count("times faster") == 2
    assert "peak for 4000 a domain" in text
    assert "PCA over reading" in text
