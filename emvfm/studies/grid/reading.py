"""Reading a study's file, strictly: one line names the file, the key, and what is wrong with it.

::

    name: both
    question: Does one model for two datasets lose on either?
    rule:                                   # written before anything runs
      subject: training on both
      claim: not-lower                      # not-lower | lower | higher | same
      margin: 0.05
      shown: no collapse
      refuted: collapse
      compare:
        - {first: {train: both}, second: {train: vnc}, test: vnc}
    data:
      vnc: {from: vnc, val: 0}              # the options of `emvfm data compose`
      lucchi: {from: lucchi++, val: 0}
    train: {backbone: dinov2_vits14}        # the options of `emvfm train`
    grid:
      train: {vnc: [vnc], both: [lucchi, vnc]}
      head: [deconv, linear]                # an option of `emvfm train` with its values, or
      adaptation: {frozen: {}, LoRA: {lora: true}}    # labels, each with options
    tests: [vnc]
    seeds: [0, 1, 2]
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import yaml

from emvfm.config import resolve
from emvfm.datasets.catalog import parse_reference
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.pairing import check_rule
from emvfm.errors import MissingError, UsageError
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.evaluation_options import EvalConfig
from emvfm.studies.grid.spec import Axis, Claim, Comparison, Recipe, Rule, StudySpec, Trend
from emvfm.workspace import check_name

__all__ = ["load_study", "parse_study"]


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key that stands twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice, line {key_node.start_mark.line + 1}", None
                )
            seen.add(key if isinstance(key, str) else repr(key))
        return super().construct_mapping(node, deep)


def load_study(path: Path) -> StudySpec:
    """Read and check a study's file.

    Raises
    ------
    MissingError
        There is no such file.
    UsageError
        It is no YAML, or says something unknown, empty, contradictory or twice; the line names file and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = yaml.load(text, _Loader)  # noqa: S506 - derived from the safe loader
    except FileNotFoundError:
        raise MissingError("no such study", where=path) from None
    except yaml.constructor.ConstructorError as error:
        raise UsageError(error.problem or "not valid YAML", where=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError("not valid YAML", where=path, got=error) from None
    return parse_study(value, str(path), text)


def parse_study(value: Any, where: str, text: str = "") -> StudySpec:
    """Check what a study's file holds; errors are those of `load_study`, `where` stands for the file."""
    top = _mapping(value, where)
    needed = ("name", "question", "rule", "data", "grid", "tests")
    _known(top, where, (*needed, "train", "seeds", "evaluate", "notes", "trend"), needed)
    name = check_name(_text(top["name"], f"{where}: name"), "study")
    data = {key: _recipe(key, each, f"{where}: data.{key}") for key, each in _filled(top, "data", where)}
    grid = tuple(_axis(key, each, f"{where}: grid.{key}") for key, each in _filled(top, "grid", where))
    train = _options(top.get("train") or {}, f"{where}: train")
    for axis in grid:
        for settings in axis.values.values():
            _named(settings.get("data", ()), data, f"{where}: grid.{axis.name}")
    if "data" not in train and not any("data" in s for axis in grid for s in axis.values.values()):
        raise UsageError("nothing to train on", where=f"{where}: grid", todo="add an axis `train`")
    _named(train.get("data", ()), data, f"{where}: train.data")
    _one_axis_an_option(grid, where)
    tests = tuple(_text(each, f"{where}: tests") for each in _list(top["tests"], f"{where}: tests"))
    _named(tests, data, f"{where}: tests")
    rule = _rule(top["rule"], grid, tests, f"{where}: rule")
    scoring = _mapping(top.get("evaluate") or {}, f"{where}: evaluate")
    if own := sorted(set(scoring) & {"data", "level"}):
        raise UsageError("stands elsewhere in the study", where=f"{where}: evaluate.{own[0]}")
    evaluate = _resolved(EvalConfig, {**scoring, "level": rule.level}, f"{where}: evaluate")
    return StudySpec(
        name=name,
        question=_text(top["question"], f"{where}: question"),
        rule=rule,
        data=data,
        train=train,
        grid=grid,
        tests=tests,
        seeds=_seeds(top.get("seeds", [0]), f"{where}: seeds"),
        evaluate=evaluate,
        notes=_text(top["notes"], f"{where}: notes") if "notes" in top else "",
        trend=_trend(top["trend"], grid, f"{where}: trend") if "trend" in top else None,
        text=text,
    )


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, (str, int, float)) for key in value):
        raise UsageError("not a mapping of names to values", where=where, got=type(value).__name__)
    return {_label(key): each for key, each in value.items()}


def _known(value: Mapping[str, Any], where: str, known: Sequence[str], needed: Sequence[str] = ()) -> None:
    for key in value:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else None
            raise UsageError("unknown key", where=f"{where}: {key}", expected=", ".join(known), todo=hint)
    for key in needed:
        if key not in value:
            raise UsageError("required", where=f"{where}: {key}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError("not a text", where=where, got=repr(value))
    return " ".join(value.split())


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UsageError("not a list with something in it", where=where, got=repr(value))
    for i, each in enumerate(value):
        if each in value[:i]:
            raise UsageError("stands twice", where=where, got=repr(each))
    return value


def _filled(top: Mapping[str, Any], key: str, where: str) -> Iterator[tuple[str, Any]]:
    found = _mapping(top[key], f"{where}: {key}")
    if not found:
        raise UsageError("nothing in it", where=f"{where}: {key}")
    yield from found.items()


def _resolved(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    try:
        return resolve(kind, flags=values)
    except UsageError as error:
        raise UsageError(str(error).removeprefix("bad configuration: "), where=where) from None


def _label(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _options(value: Any, where: str) -> dict[str, Any]:
    """Return options of ``train`` as they were given, once they are known to be right."""
    given = _mapping(value, where)
    if "seed" in given:
        raise UsageError("seeds have a key of their own", where=f"{where}.seed", todo="use `seeds`")
    resolved = _resolved(TrainConfig, given, where)
    return {key: getattr(resolved, key) for key in given}


def _axis(name: str, value: Any, where: str) -> Axis:
    if isinstance(value, dict):
        given = _mapping(value, where)
        if not given:
            raise UsageError("an axis without values", where=where)
        shaped = {
            label: {"data": each} if isinstance(each, list) and name == "train" else each
            for label, each in given.items()
        }
        return Axis(name, {label: _options(each or {}, f"{where}.{label}") for label, each in shaped.items()})
    known = [field.name for field in fields(TrainConfig)]
    if name not in known or name in ("seed", "data"):
        close = difflib.get_close_matches(name, known, n=1)
        raise UsageError(
            "a list of values is for an option of `emvfm train`", where=where,
            todo=f"did you mean {close[0]}?" if close else "give labels, each with its options",
        )  # fmt: skip
    values = _list(value, where)
    labels = [" ".join(map(_label, v)) if isinstance(v, list) else _label(v) for v in values]
    return Axis(name, {label: _options({name: v}, where) for label, v in zip(labels, values, strict=True)})


def _one_axis_an_option(grid: Sequence[Axis], where: str) -> None:
    owner: dict[str, str] = {}
    for axis in grid:
        for option in {option for settings in axis.values.values() for option in settings}:
            if owner.setdefault(option, axis.name) != axis.name:
                raise UsageError(
                    "two axes set the same option", where=f"{where}: grid.{axis.name}",
                    got=f"{option}, which {owner[option]} sets too",
                )  # fmt: skip


def _recipe(name: str, value: Any, where: str) -> Recipe:
    check_name(name, "dataset")
    given = _mapping(value or {}, where)
    sources = given.pop("from", [])
    sources = [sources] if isinstance(sources, str) else sources
    if sources:
        sources = [_text(each, f"{where}.from") for each in _list(sources, f"{where}.from")]
    if given and not sources:
        raise UsageError("options of a dataset that is not composed", where=where, todo="add `from`")
    if "replace" in given:
        raise UsageError("a study replaces no dataset", where=f"{where}.replace")
    options = _resolved(ComposeOptions, given, where)
    try:
        rule = check_rule(options.pairing)[0]
    except UsageError as error:
        raise UsageError(str(error), where=f"{where}.pairing") from None
    if rule != "numbers" and not options.force:
        raise UsageError(
            "a pairing that is wrong on purpose", where=f"{where}.pairing", got=options.pairing,
            todo="add `force: true`, so that nobody takes it for an oversight",
        )  # fmt: skip
    return Recipe(tuple(sources), options, given)


def _named(references: Sequence[str], data: Mapping[str, Recipe], where: str) -> None:
    for reference in references:
        if parse_reference(reference)[0] not in data:
            raise UsageError(
                "not among the study's data", where=where, got=reference, expected=", ".join(data)
            )


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    seeds = _list(value, where)
    if not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
        raise UsageError("not numbers of 0 or more", where=where, got=seeds)
    return tuple(seeds)


def _place(value: Any, grid: Sequence[Axis], where: str) -> dict[str, str]:
    place = {key: _label(each) for key, each in _mapping(value, where).items()}
    labels = {axis.name: list(axis.values) for axis in grid}
    _known(place, where, list(labels))
    for axis, label in place.items():
        if label not in labels[axis]:
            got, expected = label, ", ".join(labels[axis])
            raise UsageError("no such value", where=f"{where}.{axis}", got=got, expected=expected)
    return place


def _rule(value: Any, grid: Sequence[Axis], tests: Sequence[str], where: str) -> Rule:
    given = _mapping(value, where)
    needed = ("subject", "claim", "margin", "shown", "refuted", "compare")
    _known(given, where, (*needed, "metric", "level"), needed)
    for key, allowed in (("claim", get_args(Claim)), ("metric", ("iou", "dice"))):
        if key in given and given[key] not in allowed:
            raise UsageError(
                "no such value", where=f"{where}.{key}", got=given[key], expected=", ".join(allowed)
            )
    for key, most in (("margin", 1.0), ("level", 1.0)):
        number = given.get(key, 0.95)
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < most:
            raise UsageError("out of range", where=f"{where}.{key}", got=number, expected="a number, 0 to 1")
    if given.get("level", 0.95) == 0:
        raise UsageError("out of range", where=f"{where}.level", got=0, expected="above 0")
    compare = []
    for n, each in enumerate(_list(given["compare"], f"{where}.compare")):
        at = f"{where}.compare[{n}]"
        entry = _mapping(each, at)
        _known(entry, at, ("first", "second", "test"), ("first", "second", "test"))
        first, second = (_place(entry[key], grid, f"{at}.{key}") for key in ("first", "second"))
        if set(first) != set(second) or first == second:
            raise UsageError("first and second are to differ on the same axes", where=at)
        if entry["test"] not in tests:
            raise UsageError("not a test of the study", where=f"{at}.test", got=entry["test"])
        compare.append(Comparison(first, second, entry["test"]))
    texts = {key: _text(given[key], f"{where}.{key}") for key in ("subject", "shown", "refuted")}
    return Rule(
        **texts,
        claim=given["claim"],
        margin=float(given["margin"]),
        compare=tuple(compare),
        metric=given.get("metric", "iou"),
        level=float(given.get("level", 0.95)),
    )


def _trend(value: Any, grid: Sequence[Axis], where: str) -> Trend:
    given = _mapping(value, where)
    _known(given, where, ("axis", "title", "at"), ("axis", "title"))
    labels = {axis.name: list(axis.values) for axis in grid}
    if given["axis"] not in labels:
        expected = ", ".join(labels)
        raise UsageError("no such axis", where=f"{where}.axis", got=given["axis"], expected=expected)
    own = labels[given["axis"]]
    at = _mapping(given["at"], f"{where}.at") if "at" in given else {label: label for label in own}
    _known(at, f"{where}.at", own)
    try:
        numbers = {label: float(number) for label, number in at.items()}
    except (TypeError, ValueError):
        raise UsageError("not numbers", where=f"{where}.at", got=", ".join(map(str, at.values()))) from None
    return Trend(given["axis"], _text(given["title"], f"{where}.title"), numbers)
