"""From places to runs: what is the same is one run, and in which order they are done."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from emvfm.errors import UsageError
from emvfm.studies.grid.plan import make_plan, restricted
from emvfm.studies.grid.reading import load_study, parse_study


def _plan(value):
    return make_plan(parse_study(value, "study"))


def test_every_place_of_the_grid_has_a_run_of_its_own(value) -> None:
    plan = _plan(value)
    assert len(plan.places) == len(plan.runs) == 2 * 2 * 2
    assert {(*p.labels.values(), p.seed) for p in plan.places} == {
        (train, head, seed) for train in ("a", "both") for head in ("linear", "deconv") for seed in (0, 1)
    }
    assert plan.stores == 1


def test_options_that_do_not_matter_make_no_other_run(value) -> None:
    """The rank of an adapter is nothing to a frozen backbone."""
    value["grid"] = {
        "train": value["grid"]["train"],
        "adaptation": {"frozen": {}, "LoRA": {"lora": True}},
        "lora_rank": [4, 8],
    }
    plan = _plan(value)
    assert len(plan.places) == 16
    assert len(plan.runs) == 4 + 8
    keys = {(p.labels["train"], p.seed): set() for p in plan.places}
    for place in plan.places:
        if place.labels["adaptation"] == "frozen":
            keys[place.labels["train"], place.seed].add(place.key)
    assert all(len(found) == 1 for found in keys.values())


def test_a_run_is_known_by_what_it_is_not_by_its_names(value) -> None:
    before = {run.key for run in _plan(value).runs}
    value["name"], value["question"] = "other", "Other?"
    value["grid"]["train"] = {"one": ["a"], "two": ["a", "b"]}
    value["rule"]["compare"] = [{"first": {"train": "two"}, "second": {"train": "one"}, "test": "a"}]
    assert {run.key for run in _plan(value).runs} == before
    value["data"]["a"]["val"] = 0.1
    assert not {run.key for run in _plan(value).runs} & before


def test_where_weights_lie_is_no_part_of_a_run(value) -> None:
    keys = []
    for path in ("w.safetensors", "/somewhere/w.safetensors"):
        value["train"]["weights"] = path
        keys.append([run.key for run in _plan(value).runs])
    assert keys[0] == keys[1]
    value["train"]["weights"] = "v.safetensors"
    assert [run.key for run in _plan(value).runs] != keys[0]


def test_runs_of_a_store_follow_each_other_seed_by_seed_and_frozen_heads_come_first(value) -> None:
    value["grid"] = {
        "adaptation": {"LoRA": {"lora": True}, "frozen": {}},
        "input_size": ["native", "x0.5"],
        "train": value["grid"]["train"],
    }
    runs = _plan(value).runs
    stores = [run.store for run in runs]
    assert len(set(stores)) == 2
    assert sum(a != b for a, b in itertools.pairwise(stores)) == 1
    first = [run for run in runs if run.store == stores[0]]
    assert [run.config.seed for run in first] == [0] * 4 + [1] * 4
    assert [run.config.lora for run in first[:4]] == [False, False, True, True]


def test_a_warm_start_is_the_frozen_run_of_the_plan(value) -> None:
    value["grid"] = {"adaptation": {"frozen": {}, "LoRA": {"lora": True}}, "train": value["grid"]["train"]}
    runs = _plan(value).runs
    frozen = {run.key for run in runs if not run.config.lora}
    assert {run.start for run in runs if run.config.lora} == frozen
    assert {run.start for run in runs if not run.config.lora} == {None}
    value["train"]["warm_start"] = False
    assert {run.start for run in _plan(value).runs} == {None}


def test_only_keeps_what_all_its_axes_allow(value) -> None:
    plan = _plan(value)
    part = restricted(plan, ["train=both", "seed=1"])
    assert [(*p.labels.values(), p.seed) for p in part.places] == [
        ("both", "linear", 1),
        ("both", "deconv", 1),
    ]
    assert len(restricted(plan, ["head=linear", "head=deconv"]).runs) == len(plan.runs)
    for wrong, message in (
        ("haed=x", "no such axis"),
        ("head=x", "no such value"),
        ("head", "not axis=label"),
    ):
        with pytest.raises(UsageError, match=message):
            restricted(plan, [wrong])


def test_places_that_contradict_themselves_are_told(value) -> None:
    value["train"]["full"] = True
    value["grid"]["adaptation"] = {"LoRA": {"lora": True}}
    with pytest.raises(UsageError, match=r"adaptation=LoRA contradicts itself.*exclude each other"):
        _plan(value)


def test_the_paper_has_nine_backbones_two_adaptations_three_training_sets_five_seeds() -> None:
    plan = make_plan(load_study(Path(__file__).parents[3] / "studies" / "paper.yaml"))
    assert len(plan.runs) == 9 * 2 * 3 * 5
    assert len({run.config.backbone for run in plan.runs}) == 9
    assert {run.config.protocol for run in plan.runs} == {"paper"}
