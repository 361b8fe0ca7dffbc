"""The page on what representations learn against the program: every command on it runs."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.manifest import save_dataset
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.workspace import Workspace
from tests.test_documentation import ROOT, _calls, _shell_lines

PAGE = (ROOT / "docs" / "representations.md").read_text(encoding="utf-8")
CALLS = [call for line in _shell_lines(PAGE) for call in _calls(line)]
BACKBONE = "timm:test_vit,untrained"


def _write(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def _materials(folder: Path) -> None:
    """Write the files that the page names, small, and a dataset ``cells``."""
    rng = np.random.default_rng(0)
    names = [f"f{j}" for j in range(8)]
    effects = rng.normal(size=(9, 8))
    for plate in (1, 2, 3):
        rows: list[list[object]] = [
            [f"p{plate}", f"c{i}", "", *(effects[i] + rng.normal(size=8))] for i in range(9)
        ]
        rows += [[f"p{plate}", "DMSO", "negcon", *rng.normal(size=8)] for _ in range(6)]
        _write(folder / f"plate{plate}.csv", ["plate", "compound", "control_type", *names], rows)
    genes: list[list[object]] = [[f"g{i // 2}", f"x{i // 8}", *rng.normal(size=8)] for i in range(64)]
    _write(folder / "genes.csv", ["gene", "complex", *names], genes)
    _write(folder / "corum.csv", ["a", "b"], [[f"g{i}", f"g{i + 1}"] for i in range(0, 32, 2)])
    kinds: list[list[object]] = [
        [
            f"p{i % 2}",
            f"w{i // 4}",
            *(("", "control") if i % 5 == 0 else (f"k{i // 4 % 2}", "treated")),
            *rng.normal(size=8),
        ]
        for i in range(64)
    ]
    _write(folder / "cells.csv", ["plate", "well", "kind", "role", *names], kinds)
    workspace = Workspace(folder / "workspace")
    write_phantom(folder / "cells", "a", 12, 48, seed=1)
    compose("cells", [folder / "cells"], workspace, ComposeOptions(link="copy", split="random", val=0))
    dataset = open_dataset(workspace, "cells")
    facts = [{"plate": f"p{i % 2}", "compound": f"c{i // 4}", "well": f"w{i // 2}"} for i in range(12)]
    samples = tuple(dataclasses.replace(s, facts=f) for s, f in zip(dataset.samples, facts, strict=True))
    save_dataset(dataclasses.replace(dataset, samples=samples))


def _quickly(call: list[str]) -> list[str]:
    """Return the words with small random backbones, and few resamples."""
    words = [
        {"dinov2": BACKBONE, "dinov2,untrained": f"{BACKBONE},init_seed=1"}.get(word, word) for word in call
    ]
    if call[1] == "layers":
        words += ["--backbone", "timm:test_vit", "--untrained", "--resamples", "99"]
    elif "cells" in call and "--backbone" not in call:
        words += ["--backbone", BACKBONE]
    return [
        *words, *{
            "retrieve": ["--draws", "99"], "similarity": ["--permutations", "3"], "localize": ["--samples", "100"],
        }.get(call[1], []),
    ]  # fmt: skip


def test_every_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {"retrieve", "relate", "enrich", "similarity", "geometry", "layers", "localize"}
    assert {call[1] for call in CALLS} == commands
    monkeypatch.chdir(tmp_path)
    _materials(tmp_path)
    for call in CALLS:
        done = CliRunner().invoke(app, [*_quickly(call), "--root", str(tmp_path / "workspace")])
        assert done.exit_code == 0, f"{' '.join(call)}: {done.output}"
        assert "runs/bench-" in done.stdout


def test_the_page_names_every_correction() -> None:
    from emvfm.representations.corrections import CORRECTIONS

    assert "--correct " + "|".join(CORRECTIONS) in PAGE
