"""A store's name follows from everything that decides its numbers, and from nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emvfm.errors import UsageError
from emvfm.store.identity import SCHEMA, EmbeddingIdentity

ONE = EmbeddingIdentity(
    backbone={"name": "made-up", "patch": 16},
    weights="ab" * 32,
    adapter=None,
    preprocess={"version": 1, "patch": 16, "input_size": "native", "mean": [0.5, 0.5, 0.5]},
    layers=(1, 3),
    dtype="float32",
    precision="float32",
)

#: One change a field; the first test demands one for each field there is.
CHANGES: dict[str, Any] = {
    "backbone": {"name": "made-up", "patch": 14},
    "weights": "ab" * 31 + "ac",
    "adapter": "cd" * 32,
    "preprocess": {"version": 1, "patch": 16, "input_size": "x0.5", "mean": [0.5, 0.5, 0.5]},
    "layers": (3, 1),
    "dtype": "float16",
    "precision": "bfloat16",
    "schema": SCHEMA + 1,
}


def test_every_field_is_changed_by_a_case() -> None:
    assert {f.name for f in fields(EmbeddingIdentity)} == set(CHANGES)


def test_each_field_gives_a_key_of_its_own() -> None:
    keys = {name: replace(ONE, **{name: value}).key for name, value in CHANGES.items()}
    assert [name for name, key in keys.items() if key == ONE.key] == []
    assert len(set(keys.values())) == len(CHANGES)


def test_the_key_is_a_folder_name_and_does_not_depend_on_the_order_of_facts() -> None:
    turned = replace(ONE, preprocess=dict(reversed(list(ONE.preprocess.items()))))
    assert list(turned.preprocess) != list(ONE.preprocess)
    assert turned.key == ONE.key
    assert len(ONE.key) == 32
    assert set(ONE.key) <= set("0123456789abcdef")


def test_an_identity_survives_json() -> None:
    adapted = replace(ONE, adapter="cd" * 32)
    facts = json.loads(json.dumps(adapted.to_json(), allow_nan=False))
    again = EmbeddingIdentity(**{**facts, "layers": tuple(facts["layers"])})
    assert again == adapted
    assert again.key == adapted.key


def test_an_unknown_storage_type_is_refused() -> None:
    with pytest.raises(UsageError, match="float64"):
        replace(ONE, dtype="float64")


def test_the_key_is_the_same_in_every_process_and_on_every_platform() -> None:
    """Hashing of strings differs from process to process, and this digest was computed on another day."""
    known = "686e48829c4529c246c97d416f652072"
    assert ONE.key == known
    program = (
        "import json, sys; from emvfm.store.identity import EmbeddingIdentity; "
        "f = json.load(sys.stdin); print(EmbeddingIdentity(**{**f, 'layers': tuple(f['layers'])}).key)"
    )
    for hash_seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", program], input=json.dumps(ONE.to_json()), capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == known


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def _reversed(value: Any) -> Any:
    """Return the same value with every mapping the other way round."""
    if isinstance(value, dict):
        return {key: _reversed(inner) for key, inner in reversed(value.items())}
    return [_reversed(inner) for inner in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=8), _JSON, min_size=1, max_size=5))
def test_no_order_and_no_way_through_json_changes_a_key(facts: dict[str, Any]) -> None:
    one = replace(ONE, preprocess=facts)
    for same in (_reversed(facts), json.loads(json.dumps(facts))):
        assert replace(ONE, preprocess=same).key == one.key
    assert replace(ONE, preprocess={**facts, "one more": 1}).key != one.key or "one more" in facts
