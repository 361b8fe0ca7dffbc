"""Rows before they are scored: joined facts, chosen rows, corrections, means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emvfm.errors import CorruptError, RefusedError, UsageError
from emvfm.representations.corrections import correct
from emvfm.studies.bench.options import BenchOptions
from emvfm.studies.bench.preparation import aggregated, annotated, corrected, refined
from emvfm.studies.profiles import Profiles


@pytest.fixture
def profiles() -> Profiles:
    rng = np.random.default_rng(0)
    facts = {
        "plate": ("p1",) * 6 + ("p2",) * 6,
        "compound": ("a", "a", "b", "DMSO", "DMSO", "DMSO") * 2,
        "dose": ("1", "1", "", "", "", "") * 2,
    }
    features = rng.normal(size=(12, 3)).astype(np.float32)
    return Profiles(features, facts, tuple(map(str, range(12))), "n", "b", None, "", "d")


def test_annotations_are_joined_and_never_overwrite(profiles: Profiles, tmp_path: Path) -> None:
    path = tmp_path / "more.tsv"
    path.write_text("Compound\tMetadata_moa\tplate\na\tx|y\tother\nb\tz\tother\nb\tz\tother\n")
    found = annotated(profiles, path, "compound")
    assert found.facts["moa"] == ("x|y", "x|y", "z", "", "", "") * 2
    assert found.facts["plate"] == profiles.facts["plate"]
    assert found.digest != profiles.digest
    path.write_text("compound\tmoa\na\tx\na\ty\n")
    with pytest.raises(CorruptError, match="two different rows"):
        annotated(profiles, path, "compound")
    path.write_text("compound\tmoa\nq\tx\n")
    with pytest.raises(UsageError, match="no row of the profiles"):
        annotated(profiles, path, "compound")


def test_corrections_are_those_of_the_core(profiles: Profiles) -> None:
    options = BenchOptions(correct="pca-cs", controls="compound=DMSO", batch=("plate",))
    found = corrected(profiles, options)
    controls = np.array(profiles.facts["compound"]) == "DMSO"
    expected = correct("pca-cs", profiles.features, controls, profiles.facts["plate"])
    np.testing.assert_allclose(found.features, expected, rtol=1e-5)
    (step,) = found.steps
    assert (step["n_controls"], step["batches"], step["controls"]) == (6, {"p1": 3, "p2": 3}, "compound=DMSO")
    assert corrected(profiles, BenchOptions()) is profiles
    every = corrected(profiles, BenchOptions(correct="center", controls="all"))
    np.testing.assert_allclose(every.features.mean(axis=0), 0, atol=1e-6)
    with pytest.raises(UsageError, match="no row is a control"):
        corrected(profiles, BenchOptions(correct="center", controls="compound=none"))
    with pytest.raises(UsageError, match="rows without a batch"):
        corrected(profiles, BenchOptions(correct="center", controls="all", batch=("dose",)))
    with pytest.raises(RefusedError, match="too few controls"):
        corrected(profiles, BenchOptions(correct="tvn", controls="compound=b", batch=("plate",)))


def test_rows_of_one_value_become_one_and_keep_what_they_agree_in(profiles: Profiles) -> None:
    found = aggregated(profiles, ["compound", "plate"], "median")
    assert found.ids == ("DMSO | p1", "DMSO | p2", "a | p1", "a | p2", "b | p1", "b | p2")
    np.testing.assert_allclose(found.features[0], np.median(profiles.features[3:6], axis=0), rtol=1e-6)
    assert found.facts["n_rows"] == ("3", "3", "2", "2", "1", "1")
    assert found.facts["plate"] == ("p1", "p2") * 3
    whole = aggregated(profiles, ["dose"])
    assert (whole.ids, whole.facts["plate"]) == (("1",), ("",))
    with pytest.raises(UsageError, match="no such column"):
        aggregated(profiles, ["well"])


def test_controls_are_fitted_on_before_rows_are_averaged(profiles: Profiles) -> None:
    options = BenchOptions(
        where="compound!=b", correct="center", controls="compound=DMSO", aggregate=("compound",)
    )
    found = refined(profiles, options)
    assert found.ids == ("DMSO", "a")
    np.testing.assert_allclose(found.features[0], 0, atol=1e-6)
    assert [("name" in step, "aggregate" in step) for step in found.steps] == [(True, False), (False, True)]
    with pytest.raises(UsageError, match="--on"):
        refined(profiles, BenchOptions(annotations=(Path("x.csv"),)))
