"""A study's file: what is right is kept as it stands, what is wrong is one line with file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from emvfm.errors import MissingError, UsageError
from emvfm.studies.grid.reading import load_study

SHIPPED = sorted((Path(__file__).parents[3] / "studies").glob("*.yaml"))


def _at(value, path: str, new) -> None:
    *parents, leaf = path.split("/")
    for parent in parents:
        value = value[int(parent) if isinstance(value, list) else parent]
    if new is None:
        del value[leaf]
    else:
        value[leaf] = new


def test_a_study_is_what_its_file_says(value, write) -> None:
    study = load_study(write(value))
    assert study.question == value["question"]
    assert study.axes == ("train", "head")
    assert dict(study.grid[0].values) == {"a": {"data": ("a",)}, "both": {"data": ("a", "b")}}
    assert dict(study.grid[1].values) == {"linear": {"head": "linear"}, "deconv": {"head": "deconv"}}
    assert study.seeds == (0, 1)
    assert study.rule.compare[0].first == {"train": "both"}
    assert study.evaluate.level == study.rule.level == 0.95
    assert study.data["a"].sources == ("one",)


@pytest.mark.parametrize(
    ("path", "new", "parts"),
    [
        ("quesiton", "?", ("quesiton", "unknown key", "did you mean question?")),
        ("question", None, ("question: required",)),
        ("question", "  ", ("question", "not a text")),
        ("rule/margin", 2, ("rule.margin", "out of range")),
        ("rule/margin", "much", ("rule.margin",)),
        ("rule/claim", "better", ("rule.claim", "not-lower, lower, higher, same")),
        ("rule/metric", "f1", ("rule.metric", "iou, dice")),
        ("rule/compare", [], ("rule.compare", "not a list with something in it")),
        ("rule/compare/0/test", "c", ("rule.compare[0].test", "c")),
        ("rule/compare/0/first", {"train": "c"}, ("compare[0].first.train", "c", "a, both")),
        ("rule/compare/0/first", {"head": "linear"}, ("compare[0]", "differ on the same axes")),
        ("data", {}, ("data: nothing in it",)),
        ("data/a", {"from": "one", "vall": 0}, ("data.a", "vall: unknown key", "did you mean val?")),
        ("data/a", {"val": 0}, ("data.a", "add `from`")),
        ("data/a", {"from": "one", "replace": True}, ("data.a.replace",)),
        ("data/a", {"from": "one", "pairing": "sideways"}, ("data.a.pairing", "unknown pairing rule")),
        ("data/a", {"from": "one", "pairing": "shift:1"}, ("data.a.pairing", "force: true")),
        ("train", {"stepz": 3}, ("train: stepz: unknown key", "did you mean steps?")),
        ("train", {"steps": -1}, ("train: steps", "greater than 0")),
        ("train", {"seed": 1}, ("train.seed", "use `seeds`")),
        ("grid", {}, ("grid: nothing in it",)),
        ("grid/head", [], ("grid.head", "not a list with something in it")),
        ("grid/head", ["linear", "linear"], ("grid.head: stands twice",)),
        ("grid/head", ["huge"], ("grid.head: head",)),
        ("grid/haed", ["linear"], ("grid.haed", "did you mean head?")),
        ("grid/other", {"x": {"head": "dpt"}}, ("grid.other", "head, which head sets too")),
        ("grid/train", {"a": ["c"]}, ("grid.train", "not among the study's data", "got c")),
        ("tests", ["c"], ("tests", "not among the study's data")),
        ("seeds", [0, 0], ("seeds: stands twice",)),
        ("seeds", [0, -1], ("seeds: not numbers of 0 or more",)),
        ("seeds", 5, ("seeds",)),
        ("evaluate", {"metricks": "full"}, ("evaluate: metricks: unknown key",)),
        ("evaluate", {"level": 0.9}, ("evaluate.level", "elsewhere")),
        ("trend", {"axis": "x", "title": "t"}, ("trend.axis", "no such axis")),
        ("trend", {"axis": "head", "title": "t"}, ("trend.at", "not numbers")),
        ("name", "../up", ("not a usable study name",)),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_its_key(value, write, path, new, parts) -> None:
    _at(value, path, new)
    file = write(value)
    with pytest.raises(UsageError) as caught:
        load_study(file)
    line = str(caught.value)
    assert "\n" not in line
    for part in (*parts, *([] if path == "name" else [file.name])):
        assert part in line


def test_a_key_that_stands_twice_is_an_error(write) -> None:
    with pytest.raises(UsageError, match="'name' stands twice, line 2"):
        load_study(write("name: a\nname: b\n"))


@pytest.mark.parametrize("text", ["- a\n", "a: [1\n", "just text", ""])
def test_a_file_that_is_no_study_is_told(write, text) -> None:
    with pytest.raises(UsageError, match=r"study\.yaml"):
        load_study(write(text))


def test_a_missing_file_is_missing(tmp_path) -> None:
    with pytest.raises(MissingError, match="no such study"):
        load_study(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_studies_that_ship_are_right_and_named_as_their_files(path) -> None:
    study = load_study(path)
    assert study.name == path.stem
    assert study.question.endswith("?")
    assert study.rule.compare
    assert len(study.seeds) >= 3
