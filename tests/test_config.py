from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Le

from emvfm.config import FORBID_EXTRA, Doc, dump_yaml, read_yaml, resolve, to_dict
from emvfm.errors import MissingError, UsageError


@dataclass(frozen=True)
class Options:
    __pydantic_config__ = FORBID_EXTRA
    data: Annotated[tuple[str, ...], Doc("Datasets.")]
    rank: Annotated[int, Gt(0), Doc("Rank.")] = 16
    head: Literal["linear", "deconv"] = "deconv"
    weights: Path | None = None


def test_flags_win_over_set_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: [a]\nrank: 1\nhead: linear\n")
    options = resolve(Options, file=file, sets=["rank=2", "weights=w.pt"], flags={"rank": 3})
    assert options == Options(data=("a",), rank=3, head="linear", weights=Path("w.pt"))


def test_all_problems_are_told_together_and_near_misses_suggested(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("rnk: 4\nrank: -1\nhead: unet\n")
    with pytest.raises(UsageError) as caught:
        resolve(Options, file=file)
    text = str(caught.value)
    for part in (
        str(file),
        "did you mean rank?",
        "rank: input should be greater than 0",
        "head:",
        "data: required",
    ):
        assert part in text
    assert "\n" not in text


@dataclass(frozen=True)
class Cut:
    threshold: Annotated[float, Ge(0), Le(1)] | Literal["validation"] = 0.5
    size: Annotated[int, Ge(1)] | None = None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("2", "threshold: input should be less than or equal to 1 or 'validation', got '2'"),
        ("best", "threshold: input should be a valid number or 'validation', got 'best'"),
    ],
)
def test_a_value_that_is_no_member_of_a_union_is_told_of_once(given: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(Cut, flags={"threshold": given, "size": 0})
    size = "size: input should be greater than or equal to 1, got 0"
    assert str(error.value) == f"bad configuration: {said}; {size}"


def test_a_dumped_configuration_reproduces_itself(tmp_path: Path) -> None:
    options = Options(data=("a", "b:test"), rank=4, weights=Path("x/y.safetensors"))
    file = tmp_path / "c.yaml"
    file.write_text(dump_yaml(to_dict(options)))
    assert resolve(Options, file=file) == options


def test_yaml_cannot_build_python_objects(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        read_yaml(file)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "1: 2\n"])
def test_yaml_that_is_no_mapping_of_names_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match="not a mapping"):
        read_yaml(file)


def test_a_missing_file_and_a_bad_assignment_say_so(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such configuration file"):
        resolve(Options, file=tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="not key=value"):
        resolve(Options, sets=["rank"])
