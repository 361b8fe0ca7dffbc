"""Maps of labels by name hold what a source states, in labels that both sides have."""

from __future__ import annotations

import pytest

from emvfm.localization.label_spaces import KAGGLE_NAMES, LABEL_SPACES, OPENCELL_LABELS, folded


def test_the_labels_are_those_of_the_two_projects() -> None:
    assert len(set(OPENCELL_LABELS)) == 17
    assert len(set(KAGGLE_NAMES)) == 28
    assert not any(";" in name for name in KAGGLE_NAMES)  # which parts labels


def test_hpa_to_opencell_has_targets_of_opencell_only_and_what_subcell_states() -> None:
    space = LABEL_SPACES["hpa-to-opencell"]
    assert {row.target for row in space.rows} <= set(OPENCELL_LABELS)
    assert {row.basis for row in space.rows} == {"stated", "vesicle-like", "same name"}
    assert len({folded(row.label) for row in space.rows}) == len(space.rows)
    assert {row.label for row in space.rows} <= {*KAGGLE_NAMES, "vesicles"}
    found = space.mapping(KAGGLE_NAMES)
    assert (found["cytosol"], found["nuclear bodies"], found["nuclear speckles"]) == (
        "cytoplasmic", "nuclear_punctae", "chromatin",
    )  # fmt: skip
    assert {found[name] for name in ("actin filaments", "intermediate filaments", "microtubules")} == {
        "cytoskeleton"
    }
    assert "rods & rings" not in found  # nobody says what it would be


@pytest.mark.parametrize("written", ["Nuclear bodies", "nuclear_bodies", " NUCLEAR  Bodies "])
def test_case_and_underscores_do_not_count(written: str) -> None:
    assert LABEL_SPACES["hpa-to-opencell"].mapping([written]) == {written: "nuclear_punctae"}


def test_numbers_of_the_competition_become_names() -> None:
    found = LABEL_SPACES["kaggle-hpa"].mapping(map(str, range(30)))
    assert list(found.values()) == list(KAGGLE_NAMES)
    assert found["19"] == "centrosome"
