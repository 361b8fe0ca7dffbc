"""``--block-length`` on the domain commands: what is exchanged, and what is said where slices outlast it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.datasets.compose import compose
from emvfm.datasets.phantom import write_phantom
from emvfm.workspace import Workspace

BACKBONE = ("--backbone", "timm:test_vit", "--untrained", "--device", "cpu")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("blocks")
    workspace = Workspace(folder / "ws")
    for name in ("a", "b"):
        write_phantom(folder / name, name, 24, 96, seed=3)
        compose(name, [folder / name], workspace)
    return workspace


def _run(workspace: Workspace, command: str, *options: str, text: bool = False) -> str:
    done = CliRunner().invoke(
        app,
        ["domain", command, "a", "b", *BACKBONE, *options, "--root", str(workspace.root)]
        + ([] if text else ["--json"]),
    )
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("fd", ("--permutations", "99")),
        ("kd", ("--permutations", "99", "--measure", "energy")),
        ("prdc", ("--permutations", "99", "--k", "1")),
        ("probe", ("--permutations", "19", "--classifier", "knn")),
        ("pca", ()),
        ("ood", ("--bootstrap", "99", "--scores", "cosine")),
    ],
)
def test_every_command_cuts_blocks_as_long_as_asked(
    workspace: Workspace, command: str, options: tuple[str, ...]
) -> None:
    said = json.loads(_run(workspace, command, *options, "--block-length", "3"))
    assert [(d["name"], d["blocks"], d["block"]) for d in said["dependence"]] == [("a", 8, 3), ("b", 8, 3)]
    if command in ("fd", "kd", "prdc"):
        assert all(found["blocks"] == [8, 8] for found in said["results"])
        assert {found["least_p_value"] for found in said["results"]} <= {1 / 12870, 2 / 12870}
    if command == "probe":
        assert said["results"][0]["domain"][0]["blocks"] == [8, 8]
    if command == "ood":
        parts = said["parts"]
        assert sum(parts[part]["blocks"] for part in ("fit", "calibration", "test")) == 8
        line = said["results"][0]["calibration"]
        assert line["least_p_value"] == 1 / (line["blocks"] + 1)


def test_blocks_that_are_too_short_are_named_and_the_measured_length_mends_them(workspace: Workspace) -> None:
    options = ("--permutations", "99")
    single = json.loads(_run(workspace, "fd", *options, "--block-length", "1"))
    short = [d for d in single["dependence"] if not d["enough"]]
    assert short, "neighbouring slices of the phantom resemble each other"
    (found,) = single["results"]
    assert all(d["caveat"] in found["caveat"] for d in short)
    assert found["p_value"] > 0.05 or "too small by an unknown amount" in found["verdict"]
    text = "".join(_run(workspace, "fd", *options, "--block-length", "1", text=True).split())
    assert "".join(short[0]["caveat"].split()) in text
    measured = json.loads(_run(workspace, "fd", *options, "--block-length", "0"))
    for before, after in zip(single["dependence"], measured["dependence"], strict=True):
        assert after["length"] == before["length"]
        assert after["enough"] or after["blocks"] == 1
    assert "too small" not in measured["results"][0]["verdict"]


def test_a_length_below_nought_is_refused(workspace: Workspace) -> None:
    done = CliRunner().invoke(
        app, ["domain", "fd", "a", "b", *BACKBONE, "--block-length", "-1", "--root", str(workspace.root)]
    )
    assert done.exit_code == 2
    assert "block" in done.stderr
