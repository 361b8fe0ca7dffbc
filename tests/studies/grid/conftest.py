"""A small study and ways to change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml


def study_value() -> dict[str, Any]:
    """Return a study as its file holds it: two training sets, two heads, two seeds."""
    return {
        "name": "small",
        "question": "Does a second dataset cost anything?",
        "rule": {
            "subject": "training on both", "claim": "not-lower", "margin": 0.05, "shown": "no collapse",
            "refuted": "collapse",
            "compare": [{"first": {"train": "both"}, "second": {"train": "a"}, "test": "a"}],
        },
        "data": {"a": {"from": "one", "val": 0}, "b": {"from": "two", "val": 0}},
        "train": {"backbone": "dinov2_vits14"},
        "grid": {"train": {"a": ["a"], "both": ["a", "b"]}, "head": ["linear", "deconv"]},
        "tests": ["a", "b"],
        "seeds": [0, 1],
    }  # fmt: skip


@pytest.fixture
def value() -> dict[str, Any]:
    return study_value()


@pytest.fixture
def write(tmp_path: Path):
    """Write a study's file and return its path."""

    def write(value: Any, name: str = "study.yaml") -> Path:
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False))
        return path

    return write
