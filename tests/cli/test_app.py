from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from emvfm import __version__
from emvfm.cli.app import app
from emvfm.cli.command import Call, command
from emvfm.config import FORBID_EXTRA, Doc
from emvfm.errors import MissingError

HEAVY = ("torch", "timm", "open_clip", "peft", "umap", "matplotlib", "zarr", "scipy", "sklearn", "pydantic")


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom emvfm.cli.app import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    times = []
    for _ in range(3):
        start = time.perf_counter()
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
    assert out.stderr.strip() == "[]"
    assert min(times) < 1.0  # 0.4 s on a quiet machine; the bound leaves room for a loaded one


def test_version_and_unknown_command() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.strip() == f"emvfm {__version__}"
    assert CliRunner().invoke(app, ["no-such-command"]).exit_code == 2


@dataclass(frozen=True)
class Options:
    __pydantic_config__ = FORBID_EXTRA
    rank: Annotated[int, Doc("Rank.")] = 16
    names: Annotated[tuple[str, ...], Doc("Names.")] = ("a",)
    seed: int = 5


def _app(fail: BaseException | None = None) -> typer.Typer:
    small = typer.Typer()

    @command(small, "go", Options)
    def go(call: Call, config: Options, target: Annotated[str, typer.Argument()] = "x") -> None:
        """Go."""
        if fail is not None:
            raise fail
        call.result(
            {"rank": config.rank, "names": config.names, "seed": config.seed, "target": target}, "done"
        )

    return small


def test_options_come_from_the_configuration_class_and_json_is_alone_on_stdout() -> None:
    result = CliRunner().invoke(_app(), ["t", "--rank", "3", "--names", "b", "--names", "c", "--json"])
    assert json.loads(result.stdout) == {"rank": 3, "names": ["b", "c"], "seed": 5, "target": "t"}
    assert json.loads(CliRunner().invoke(_app(), ["--seed", "7", "--json"]).stdout)["seed"] == 7
    assert json.loads(CliRunner().invoke(_app(), ["--set", "rank=9", "--json"]).stdout)["rank"] == 9


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MissingError("no such dataset", where="vnc"), 3, "emvfm: vnc: no such dataset"),
        (KeyboardInterrupt(), 130, "emvfm: interrupted"),
        (OSError(28, "No space left on device", "shard"), 1, "emvfm: shard: no space left"),
        (PermissionError(13, "Permission denied", "store"), 1, "emvfm: store: Permission denied"),
        (ZeroDivisionError("x"), 1, "emvfm: internal error: ZeroDivisionError"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error: BaseException, code: int, line: str) -> None:
    result = CliRunner().invoke(_app(error), [])
    assert result.exit_code == code
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert "Traceback" in CliRunner().invoke(_app(error), ["--debug"]).stderr


def test_a_bad_key_is_a_usage_error() -> None:
    result = CliRunner().invoke(_app(), ["--set", "rnk=1"])
    assert result.exit_code == 2
    assert "did you mean rank?" in result.stderr
