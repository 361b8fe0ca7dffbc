"""Groups load their commands when they are asked for, and look like any group then."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from emvfm.cli import bench, domain
from emvfm.cli.app import app


@pytest.mark.parametrize("group", [bench, domain])
def test_a_group_lists_its_commands_in_order_and_runs_them(group) -> None:
    own = typer.Typer()
    own.callback()(lambda: None)
    group.register(own)
    name = group.__name__.rpartition(".")[2]
    found = typer.main.get_command(own).commands[name]
    assert [command.replace("-", "_") for command in found.commands] == list(group.COMMANDS)
    assert found.list_commands(None) == list(found.commands)
    for command in found.commands:
        result = CliRunner().invoke(app, [name, command, "--help"])
        assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, [name, "no-such"])
    assert result.exit_code == 2
    assert "No such command" in result.output


def test_the_programs_help_loads_no_group() -> None:
    code = (
        "import sys; from emvfm.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'emvfm.cli.bench' in sys.modules\n"
        "assert not [m for m in sys.modules if m.startswith(('emvfm.cli.bench.', 'emvfm.cli.domain.'))]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bench" in done.stdout
