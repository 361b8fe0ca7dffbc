"""Strict configuration: defaults, a YAML file, ``--set``, flags; one frozen dataclass a command.

A configuration is a frozen standard-library dataclass whose fields are
``Annotated[type, bounds, Doc("help")]``. The same class is what a library call takes, what a YAML
file may hold, and what the command line turns into options, so the three can't disagree. Unknown
keys are errors, and all errors are reported together.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from emvfm.errors import MissingError, UsageError

__all__ = ["FORBID_EXTRA", "Doc", "dump_yaml", "read_yaml", "resolve", "to_dict"]

#: Set as ``__pydantic_config__`` of a configuration dataclass.
FORBID_EXTRA = {"extra": "forbid"}

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Doc:
    """The help text of a field (the form of PEP 727, without its dependency)."""

    text: str


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader; anything else is an error that names the file."""
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError("no such configuration file", where=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError("not valid YAML", where=path, got=error) from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UsageError("not a mapping of names to values", where=path, got=type(value).__name__)
    return value


def dump_yaml(value: Any) -> str:
    """Return block-style YAML with the keys in the order given."""
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


@functools.cache
def _adapter(kind: Any) -> Any:
    """Return what checks and dumps a configuration class; making it takes tens of milliseconds."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain YAML values (paths as text, tuples as lists)."""
    return _adapter(type(config)).dump_python(config, mode="json")  # type: ignore[arg-type]


def _assignments(sets: Sequence[str]) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = {}
    for item in sets:
        key, separator, text = item.partition("=")
        if not separator or not key.strip():
            raise UsageError("not key=value", where="--set", got=repr(item))
        *parents, leaf = key.strip().split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        try:
            inner[leaf] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError("not a YAML value", where=f"--set {key}", got=error) from None
    return values


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _describe(error: dict[str, Any], known: Sequence[str]) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "configuration"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        close = difflib.get_close_matches(key.rsplit(".", 1)[-1], known, n=1)
        return f"{key}: unknown key" + (f", did you mean {close[0]}?" if close else "")
    if error["type"] in ("missing", "missing_argument"):
        return f"{key}: required"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key}: {message}, got {error['input']!r}"


def _joined(errors: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the errors with those of one value merged: of ``a | b``, neither of which it is, each has its own."""
    joined: list[dict[str, Any]] = []
    for error in errors:
        field, member = error["loc"][:1], error["loc"][1:]
        last = joined[-1] if joined else None
        same = last is not None and last["loc"][:1] == field and last["input"] is error["input"]
        if last is not None and same and len(member) == 1 and isinstance(member[0], str):
            expected = error["msg"].removeprefix("Input should be ")
            last["msg"] = f"{last['msg'].partition(', unable')[0]} or {expected}"
            last["loc"] = field
        else:
            joined.append(dict(error))
    return joined


def resolve(
    kind: type[Config],
    *,
    file: Path | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Return a `kind` from defaults < `file` < `sets` (``a.b=1``) < `flags`.

    Raises
    ------
    UsageError
        One line that lists every unknown key and every value out of range.
    MissingError
        `file` does not exist.
    """
    from pydantic import ValidationError

    values = _merge(_merge(read_yaml(file) if file else {}, _assignments(sets)), flags or {})
    try:
        return _adapter(kind).validate_python(values)  # type: ignore[arg-type]
    except ValidationError as error:
        known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
        problems = "; ".join(_describe(item, known) for item in _joined([dict(e) for e in error.errors()]))
        raise UsageError(f"bad configuration: {problems}", where=file) from None
