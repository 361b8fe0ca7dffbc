"""Layers are chosen without what they are scored on, and scored as the task itself scores them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from emvfm.errors import RefusedError, UsageError
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


def test_what_a_task_lacks_is_said() -> None:
    profiles = rows(1.0, 0)
    with pytest.raises(UsageError, match="--entity"):
        task_of(profiles, LayersOptions(task="relate"))
    with pytest.raises(UsageError, match="split by entity"):
        task_of(profiles, LayersOptions(task="relate", entity="well", split="kind"))
    with pytest.raises(UsageError, match="--split"):
        task_of(profiles, LayersOptions(task="localize", labels="kind"))
    with pytest.raises(RefusedError, match="too few values"):
        task_of(profiles, dataclasses.replace(OPTIONS["retrieve"], folds=20))
