"""Layers are chosen without what they are scored on, and scored as the task itself scores them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emvfm.errors import RefusedError, UsageError
from emvfm.studies.bench.layer_task import ItemTask
from emvfm.studies.bench.layer_tasks import task_of
from emvfm.studies.bench.layers import study_layers
from emvfm.studies.bench.options import LayersOptions
from emvfm.studies.profiles import Profiles

OPTIONS = {
    "retrieve": LayersOptions(
        positives="same kind", queries="role!=control", split="well", folds=3, resamples=99
    ),
    "relate": LayersOptions(
        task="relate", entity="well", related_by=("kind",), least=6, folds=2, resamples=99
    ),
    "localize": LayersOptions(
        task="localize", labels="kind", split="well", folds=3, head="knn", resamples=99
    ),
}


def rows(strength: float, layer: int, seed: int = 0) -> Profiles:
    """Forty-eight rows in twelve wells of four kinds, and eight controls; kinds are told apart by `strength`."""
    rng = np.random.default_rng([seed, layer])
    well = np.repeat(np.arange(12), 4)
    centres = strength * rng.normal(size=(4, 8))
    features = np.concatenate([centres[well % 4] + rng.normal(size=(48, 8)), rng.normal(size=(8, 8))])
    facts = {
        "well": (*(f"w{i}" for i in well), *["c"] * 8),
        "kind": (*(f"k{i % 4}" for i in well), *[""] * 8),
        "role": (*["treated"] * 48, *["control"] * 8),
    }
    ids = tuple(map(str, range(56)))
    return Profiles(features.astype(np.float32), facts, ids, "x", "b", layer, "mean", f"{strength}{layer}")


@pytest.mark.parametrize("task", ["retrieve", "localize"])
def test_a_layer_is_chosen_without_the_rows_of_the_fold(task: str) -> None:
    """Whatever the rows of a fold become, the score that a layer is chosen by for this fold stays as it is."""
    profiles = rows(1.5, 0)
    found = task_of(profiles, OPTIONS[task])
    assert isinstance(found, ItemTask)
    wells = np.array(profiles.facts["well"])
    for fold in range(3):
        units = set(found.unit[found.fold == fold].tolist())
        owners = np.unique(wells if task == "retrieve" else wells[:48], return_inverse=True)[1]
        inside = np.isin(owners, list(units)) & (np.arange(len(owners)) < 48)
        features = profiles.features.copy()
        features[: len(inside)][inside] = 1e3 * np.random.default_rng(fold).normal(
            size=(int(inside.sum()), 8)
        )
        spoilt = dataclasses.replace(profiles, features=features)
        assert inside.any()
        assert found.choose(spoilt, fold) == found.choose(profiles, fold)
        other = (fold + 1) % 3
        assert found.choose(spoilt, other) != found.choose(profiles, other)


@pytest.mark.parametrize("task", sorted(OPTIONS))
def test_the_layer_that_knows_is_chosen_and_chance_is_not_far_from_noise(task: str) -> None:
    layers = [rows(strength, layer) for layer, strength in enumerate((0.0, 3.0, 0.5))]
    study = study_layers(layers, OPTIONS[task])
    assert [score.chosen for score in study.scores] == [0, study.folds, 0]
    assert study.nested.value == pytest.approx(study.scores[1].score.value)
    assert study.best == "block 1, mean"
    assert study.optimism == pytest.approx(0)
    assert study.gain.value == pytest.approx(study.nested.value - study.scores[2].score.value)
    if study.chance is not None:
        assert abs(study.scores[0].score.value - study.chance) < 0.15
    assert study.to_json()["results"][1]["folds_that_chose_it"] == study.folds


def test_the_best_of_many_noises_in_hindsight_flatters() -> None:
    layers = [rows(0.0, layer) for layer in range(8)]
    study = study_layers(layers, OPTIONS["retrieve"])
    assert study.optimism > 0
    assert study.nested.value < max(score.score.value for score in study.scores)


def test_a_layer_for_relations_is_chosen_without_the_entities_of_the_fold() -> None:
    profiles = rows(1.5, 0)
    found = task_of(profiles, OPTIONS["relate"])
    assert isinstance(found, ItemTask)
    entities = np.unique(profiles.facts["well"])
    half = (
        len(found.fold) // 2
    )  # a pair is an item of the fold of its first entity, then of that of its second
    folds = dict(zip(found.unit.tolist(), found.fold.tolist(), strict=False))
    assert half * 2 == len(found.fold)
    for fold in range(2):
        inside = entities[[unit for unit, own in folds.items() if own == fold]]
        features = profiles.features.copy()
        features[np.isin(profiles.facts["well"], inside)] = 1e3 * np.random.default_rng(fold).normal(size=8)
        spoilt = dataclasses.replace(profiles, features=features)
        assert len(inside) > 2
        assert found.choose(spoilt, fold) == found.choose(profiles, fold)


def spots(folder: Path, strength: float, layer: int, sections: int = 3, side: int = 6) -> Profiles:
    """Return tiles of sections on a grid, whose first feature tells half of ten genes by `strength`; counts beside."""
    rng = np.random.default_rng(5)
    places = [(s, i, j) for s in range(sections) for i in range(side) for j in range(side)]
    bright = rng.random(len(places))
    features = rng.normal(size=(len(places), 6)) * 0.3
    noise = np.random.default_rng([7, layer]).normal(size=len(places))
    features[:, 0] = strength * bright + (1 - strength) * noise
    loadings = np.r_[np.linspace(0.5, 1, 5), np.zeros(5)]
    counts = rng.poisson(np.exp(3 + 2 * bright[:, None] * loadings))
    folder.mkdir(exist_ok=True)
    for s in range(sections):
        lines = ["\t" + "\t".join(f"g{g}" for g in range(10))]
        lines += [
            f"{i}x{j}\t" + "\t".join(map(str, row))
            for (own, i, j), row in zip(places, counts.tolist(), strict=True)
            if own == s
        ]
        (folder / f"s{s}.tsv").write_text("\n".join(lines) + "\n")
    facts = {
        "section": tuple(f"s{s}" for s, _, _ in places),
        "spot": tuple(f"{i}x{j}" for _, i, j in places),
        "x": tuple(str(10 * i) for _, i, _ in places),
        "y": tuple(str(10 * j) for _, _, j in places),
    }
    ids = tuple(map(str, range(len(places))))
    return Profiles(features.astype(np.float32), facts, ids, "st", "b", layer, "mean", f"{strength}{layer}")


def expression(folder: Path, **changed: Any) -> LayersOptions:
    given = {
        "task": "expression",
        "counts": (folder,),
        "genes": 6,
        "detected": 0.0,
        "block": 2.0,
        "resamples": 99,
    }
    return LayersOptions(**{**given, **changed})


def test_a_layer_is_chosen_by_expression_it_is_not_tested_on(tmp_path: Path) -> None:
    """Whatever tested spots look like and express, the layer, its genes and its penalty are chosen without them."""
    profiles = spots(tmp_path / "counts", 0.9, 0)
    options = expression(tmp_path / "counts")
    task = task_of(profiles, options)
    spoilt = spots(tmp_path / "other", 0.9, 0)
    table = (tmp_path / "other" / "s1.tsv").read_text().splitlines()
    (tmp_path / "other" / "s1.tsv").write_text(
        "\n".join([table[0], *reversed(table[1:])]).replace("\t1", "\t90")
    )
    features = profiles.features.copy()
    features[36:72] = -50
    other = task_of(spoilt, expression(tmp_path / "other"))
    changed = dataclasses.replace(profiles, features=features)
    assert other.choose(changed, 1) == task.choose(profiles, 1)
    assert other.choose(changed, 0) != task.choose(profiles, 0)


def test_the_layer_that_tells_expression_is_chosen_and_baselines_are_scored_once(tmp_path: Path) -> None:
    layers = [spots(tmp_path, strength, layer) for layer, strength in enumerate((0.0, 0.95, 0.3))]
    study = study_layers(layers, expression(tmp_path))
    assert [score.chosen for score in study.scores] == [0, 3, 0]
    assert study.nested.value == study.scores[1].score.value > 0.4
    assert (study.nested.low, study.nested.high) == (study.scores[1].score.low, study.scores[1].score.high)
    assert abs(study.scores[0].score.value) < 0.2
    assert study.optimism == 0
    assert [one.name for one in study.beside] == [
        "spacing of spots",
        "place in the section",
        "mean of training",
    ]
    spacing, _, mean = study.beside
    assert spacing.score is not None
    assert spacing.difference.value == pytest.approx(study.nested.value - spacing.score.value)
    assert mean.score is None
    assert mean.metric == "skill"
    assert (mean.difference.low or 0) > 0
    record = study.to_json()
    assert len(record["beside"]) == 3
    assert record["protocol"].startswith("3 folds by sections")
    assert any(name.endswith("s0.tsv") for name in study.digests)


@pytest.mark.parametrize("name", ["sphere", "pca-cs"])
def test_layers_of_expression_are_corrected_within_folds(tmp_path: Path, name: str) -> None:
    """A correction of a section that is left out is fitted on the others; by section there is nothing to fit on."""
    profiles = spots(tmp_path, 0.9, 0)
    options = expression(tmp_path, correct=name, controls="all")
    task = task_of(profiles, options)
    features = profiles.features.copy()
    features[36:72] *= 40
    changed = dataclasses.replace(profiles, features=features)
    assert task.choose(changed, 1) == task.choose(profiles, 1)
    study = study_layers([profiles], options)
    assert study.correction.startswith(f"{name}, fitted on controls that are not tested")
    by_section = dataclasses.replace(options, batch=("section",))
    with pytest.raises(RefusedError, match="--transductive"):
        study_layers([profiles], by_section)
    through = study_layers([profiles], dataclasses.replace(by_section, transductive=True))
    assert "tested ones too" in through.correction


def test_one_section_is_cut_in_strips_and_groups_stay_together(tmp_path: Path) -> None:
    one = spots(tmp_path / "one", 0.95, 0, sections=1, side=12)
    options = expression(tmp_path / "one", strips=2, buffer=1.0)
    task = task_of(one, options)
    assert task.folds == 2
    assert task.choose(one, 0) > 0.3
    four = spots(tmp_path / "four", 0.95, 0, sections=4)
    patients = tuple("p" if section in ("s0", "s1") else "q" for section in four.facts["section"])
    grouped = dataclasses.replace(four, facts={**four.facts, "patient": patients})
    task = task_of(grouped, expression(tmp_path / "four", split="patient"))
    assert (task.folds, task.unit_name) == (2, "patient")
    assert task.choose(grouped, 0) > 0.3
    alone = tuple("p" if section == "s0" else "q" for section in four.facts["section"])
    lone = dataclasses.replace(four, facts={**four.facts, "patient": alone})
    task = task_of(lone, expression(tmp_path / "four", split="patient"))
    assert np.isfinite(task.choose(lone, 1))  # one small section to choose by, with no room for a buffer


def test_labels_are_read_from_rows_corrected_within_folds() -> None:
    profiles = rows(1.5, 0)
    options = dataclasses.replace(OPTIONS["localize"], correct="sphere", controls="all")
    task = task_of(profiles, options)
    assert isinstance(task, ItemTask)
    wells = np.array(profiles.facts["well"])
    inside = np.isin(wells, np.unique(wells[:48])[np.unique(task.unit[task.fold == 0])])
    features = profiles.features.copy()
    features[inside] *= -30
    assert task.choose(dataclasses.replace(profiles, features=features), 0) == task.choose(profiles, 0)


def test_what_a_task_lacks_is_said(tmp_path: Path) -> None:
    profiles = rows(1.0, 0)
    with pytest.raises(UsageError, match="--entity"):
        task_of(profiles, LayersOptions(task="relate"))
    with pytest.raises(UsageError, match="split by entity"):
        task_of(profiles, LayersOptions(task="relate", entity="well", split="kind"))
    with pytest.raises(UsageError, match="--split"):
        task_of(profiles, LayersOptions(task="localize", labels="kind"))
    with pytest.raises(RefusedError, match="too few values"):
        task_of(profiles, dataclasses.replace(OPTIONS["retrieve"], folds=20))
    with pytest.raises(UsageError, match="not a head of this task"):
        task_of(profiles, dataclasses.replace(OPTIONS["localize"], head="ridge"))
    with pytest.raises(UsageError, match="--transductive"):
        task_of(profiles, dataclasses.replace(OPTIONS["retrieve"], transductive=True))
    with pytest.raises(UsageError, match="--transductive"):
        task_of(profiles, dataclasses.replace(OPTIONS["localize"], transductive=True))
    with pytest.raises(UsageError, match="--counts"):
        task_of(profiles, LayersOptions(task="expression"))
    tiles = spots(tmp_path, 0.5, 0)
    with pytest.raises(UsageError, match="--aggregate"):
        task_of(tiles, expression(tmp_path, aggregate=("section",)))
    with pytest.raises(UsageError, match="--split"):
        task_of(tiles, expression(tmp_path, split="colour"))
