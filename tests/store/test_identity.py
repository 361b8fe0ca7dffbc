"""A store's name follows from everything that decides its numbers, and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from emvfm.errors import UsageError
from emvfm.store.identity import SCHEMA, EmbeddingIdentity

Make = Callable[..., EmbeddingIdentity]

#: One change a field; the test below demands one for each field there is.
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


@pytest.mark.parametrize("field", CHANGES)
def test_the_key_changes_with_each_field(make_identity: Make, field: str) -> None:
    assert make_identity(**{field: CHANGES[field]}).key != make_identity().key


def test_all_single_changes_have_keys_of_their_own(make_identity: Make) -> None:
    keys = {make_identity(**{name: value}).key for name, value in CHANGES.items()}
    assert len(keys | {make_identity().key}) == len(CHANGES) + 1


def test_the_key_is_a_folder_name_and_does_not_depend_on_the_order_of_facts(make_identity: Make) -> None:
    one = make_identity()
    turned = replace(one, preprocess=dict(reversed(list(one.preprocess.items()))))
    assert list(turned.preprocess) != list(one.preprocess)
    assert turned.key == one.key
    assert len(one.key) == 32
    assert set(one.key) <= set("0123456789abcdef")


def test_an_identity_survives_json(make_identity: Make) -> None:
    one = make_identity(adapter="cd" * 32)
    facts = json.loads(json.dumps(one.to_json(), allow_nan=False))
    again = EmbeddingIdentity(**{**facts, "layers": tuple(facts["layers"])})
    assert again == one
    assert again.key == one.key


def test_an_unknown_storage_type_is_refused(make_identity: Make) -> None:
    with pytest.raises(UsageError, match="float64"):
        make_identity(dtype="float64")
