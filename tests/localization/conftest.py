"""The real label table that the localisation tests share."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def opencell(shared_data: Path) -> np.ndarray:
    """``(1310, 17)`` bool: labels of the OpenCell proteins, of any grade."""
    path = shared_data / "opencell" / "localization_annotations.csv"
    if not path.is_file():
        pytest.skip(f"no OpenCell label table at {path}")
    with path.open(encoding="utf-8", newline="") as file:
        pairs = [(row["ensg_id"], row["annotation_name"]) for row in csv.DictReader(file)]
    proteins, protein = np.unique([p for p, _ in pairs], return_inverse=True)
    classes, column = np.unique([c for _, c in pairs], return_inverse=True)
    labels = np.zeros((len(proteins), len(classes)), bool)
    labels[protein, column] = True
    return labels
