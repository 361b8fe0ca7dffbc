"""Fixtures for all tests: a headless matplotlib, and the real data and weights where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the network fails at once


def _shared(part: str) -> Path:
    """Return a folder of real material beside the checkout, or skip the test with the reason."""
    root = Path(os.environ.get("EMVFM_SHARED", Path(__file__).parents[2] / "shared")) / part
    if not root.is_dir():
        pytest.skip(f"no real {part} at {root} (set EMVFM_SHARED)")
    return root


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with ``lucchi++`` and ``vnc``."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Folder with the small weight files."""
    return _shared("weights")
