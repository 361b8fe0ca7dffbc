"""``emvfm domain fd`` from the command line: what it prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from emvfm.backbones.loading import load_backbone
from emvfm.backbones.options import BackboneOptions
from emvfm.cli.app import app
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.domain.results import compare_frechet
from emvfm.extraction.pipeline import embed_dataset
from emvfm.segmentation.metrics import block_labels
from emvfm.workspace import Workspace

BACKBONE = ("--backbone", "timm:test_vit", "--untrained", "--device", "cpu", "--precision", "float32")
OPTIONS = (*BACKBONE, "--layers", "0", "--layers", "1", "--permutations", "99")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    # Brackets in a path are markup to the library that prints the result.
    root = tmp_path_factory.mktemp("fd") / "odd [/b] [red]folder"
    workspace = Workspace(root / "workspace")
    for name, domain, seed in (("a", "a", 3), ("b", "b", 4), ("again", "a", 5)):
        write_phantom(root / name, domain, 12, 64, seed=seed)
        compose(name, [root / name], workspace, ComposeOptions(link="copy"))
    return workspace


@pytest.fixture(scope="module")
def fd(workspace: Workspace) -> Callable[..., Result]:
    """Call ``emvfm domain fd`` in the workspace of the module."""
    return lambda *arguments: CliRunner().invoke(
        app, ["domain", "fd", "--root", str(workspace.root), *map(str, arguments)]
    )


def _json(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return json.loads(result.stdout)


def _refused(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    line = result.stderr.strip()
    assert "\n" not in line
    assert all(part in line for part in parts), line


def test_the_numbers_are_those_of_the_library(workspace: Workspace, fd: Callable[..., Result]) -> None:
    record = _json(fd("a", "b", *OPTIONS, "--layer", "0", "--level", "0.8", "--seed", "7", "--json"))
    options = BackboneOptions(
        backbone="timm:test_vit", untrained=True, device="cpu", precision="float32", layers=(0, 1)
    )
    backbone = load_backbone(options, workspace)
    vectors, blocks = [], []
    for name in ("a", "b"):
        dataset = open_dataset(workspace, name)
        embeddings = embed_dataset(dataset, backbone, options, workspace)
        # Straight from the patches, in half precision; 64 px are whole patches, so none is padding.
        vectors.append(
            np.stack([embeddings.patches(i)[0].astype(np.float64).mean((0, 1)) for i in range(12)])
        )
        blocks.append(block_labels([s.volume for s in dataset.samples], [s.z for s in dataset.samples]))
    expected = compare_frechet(("a", "b"), *vectors, *blocks, permutations=99, level=0.8, seed=7)
    (found,) = record["results"]
    assert record["backbone"] == backbone.label
    assert "untrained" in record["backbone"]
    for name in ("value", "low", "high", "p_value", "ratio"):
        assert found[name] == pytest.approx(getattr(expected, name), rel=1e-2, abs=1e-6), name
    assert (found["n"], found["blocks"], found["seed"], found["level"]) == ([12, 12], [4, 4], 7, 0.8)
    assert len(found["null"]) == found["permutations"] == 99


def test_text_says_the_numbers_the_verdict_and_the_folder(fd: Callable[..., Result]) -> None:
    record = _json(fd("a", "b", *OPTIONS, "--json"))
    result = fd("a", "b", *OPTIONS)
    assert result.exit_code == 0, result.output
    (found,) = record["results"]
    assert "a × b" in result.stdout
    assert "12 + 12" in result.stdout
    assert f"{found['value']:.4g} [{found['low']:.4g}, {found['high']:.4g}]" in result.stdout
    unfolded = "".join(result.stdout.split())
    for part in (found["verdict"], record["folder"], record["backbone"]):
        assert "".join(part.split()) in unfolded
    with pytest.raises(json.JSONDecodeError):
        json.loads(result.stdout)


def test_files_are_written_and_hold_what_was_said(workspace: Workspace, fd: Callable[..., Result]) -> None:
    record = _json(fd("a", "b", *OPTIONS, "--json"))
    folder = Path(record["folder"])
    assert folder.parent == workspace.runs
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        "config.yaml",
        "metrics.json",
        "provenance.json",
        "distances.csv",
        "figures/fd.png",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == {name: record[name] for name in ("backbone", "results", "matrices", "dependence")}
    (row,) = csv.DictReader((folder / "distances.csv").open())
    (found,) = record["results"]
    assert (row["a"], row["b"], row["n_a"], row["n_b"]) == ("a", "b", "12", "12")
    assert [float(row[c]) for c in ("value", "low", "high", "p_value", "ratio_to_halves")] == [
        found[c] for c in ("value", "low", "high", "p_value", "ratio")
    ]
    assert (row["measure"], row["blocks_a"], row["beyond"]) == ("fd", "4", str(found["p_value"] <= 0.05))
    with Image.open(folder / "figures" / "fd.png") as figure:
        assert min(figure.size) > 100
    provenance = json.loads((folder / "provenance.json").read_text())
    assert folder.name == f"domain-fd-{provenance['identity'][:10]}"
    assert provenance["datasets"] == {n: open_dataset(workspace, n).digest for n in ("a", "b")}


def test_the_configuration_written_repeats_the_run(fd: Callable[..., Result], tmp_path: Path) -> None:
    first = _json(fd("a", "b", *OPTIONS, "--pool", "mean+cls", "--seed", "3", "--json"))
    config = tmp_path / "config.yaml"
    config.write_bytes((Path(first["folder"]) / "config.yaml").read_bytes())
    assert _json(fd("a", "b", "--config", config, "--json")) == first
    assert not list(Path(first["folder"]).parent.glob(".*"))  # no temporary folder is left


def test_each_option_decides(fd: Callable[..., Result]) -> None:
    plain = _json(fd("a", "b", *OPTIONS, "--json"))
    seen = {plain["folder"]}
    for change, same_value in (
        (("--pool", "cls"), False),
        (("--pool", "mean+cls"), False),
        (("--layer", "0"), False),
        (("--init-seed", "1"), False),
        (("--input-size", "x0.5"), False),
        (("--permutations", "120"), True),
        (("--level", "0.5"), True),
        (("--seed", "1"), True),
        (("--set", "level=0.9"), True),
    ):
        other = _json(fd("a", "b", *OPTIONS, *change, "--json"))
        assert other["folder"] not in seen, change
        seen.add(other["folder"])
        assert (other["results"][0]["value"] == plain["results"][0]["value"]) == same_value, change
        assert other["results"] != plain["results"], change
    both = _json(fd("a", "b", *OPTIONS, "--pool", "mean+cls", "--json"))
    assert both["results"][0]["dimension"] == 2 * plain["results"][0]["dimension"]


def test_several_datasets_are_compared_in_pairs(fd: Callable[..., Result]) -> None:
    record = _json(fd("a", "b", "again", *OPTIONS, "--json"))
    assert [r["names"] for r in record["results"]] == [["a", "b"], ["a", "again"], ["b", "again"]]
    pair = _json(fd("a", "b", *OPTIONS, "--json"))
    assert record["results"][0] == pair["results"][0]
    assert record["folder"] != pair["folder"]
    config = yaml.safe_load((Path(record["folder"]) / "config.yaml").read_text())
    assert config["permutations"] == 99
    assert len((Path(record["folder"]) / "distances.csv").read_text().splitlines()) == 4


def test_the_order_of_two_datasets_does_not_change_their_distance(fd: Callable[..., Result]) -> None:
    forth, back = (_json(fd(*pair, *OPTIONS, "--json"))["results"][0] for pair in (("a", "b"), ("b", "a")))
    assert forth["value"] == pytest.approx(back["value"], rel=1e-6)
    assert (forth["low"], forth["high"]) == pytest.approx((back["low"], back["high"]), rel=1e-5)


def test_splits_are_datasets_too(workspace: Workspace, fd: Callable[..., Result]) -> None:
    (found,) = _json(fd("a:train", "b:train", *OPTIONS, "--json"))["results"]
    assert found["names"] == ["a:train", "b:train"]
    n = len(open_dataset(workspace, "a").split("train").samples)
    assert found["n"] == [n, n]
    assert 2 <= n < 12
    (few,) = _json(fd("a:test", "b:test", *OPTIONS, "--json"))["results"]
    assert (few["low"], few["high"]) == (None, None)
    assert "too few blocks" in few["verdict"]
    assert fd("a:test", "b:test", *OPTIONS).exit_code == 0  # the table has no interval and no ratio


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("a", "c"), 3, ("c", "no such dataset")),
        (("nothing-like-it", "b"), 3, ("nothing-like-it",)),
        (("a",), 2, ("nothing to compare with",)),
        (("a", "a"), 2, ("twice",)),
        (("a", "a:val"), 2, ("a:val", "too few images", "got 1")),
        (("a", "b", "--layer", "2"), 2, ("layer", "2")),
        (("a", "b", "--permutations", "98"), 2, ("permutations", "99")),
        (("a", "b", "--level", "1"), 2, ("level",)),
        (("a", "b", "--set", "levle=0.9"), 2, ("levle",)),
        (("a", "b", "--no-untrained"), 3, ("test_vit",)),
    ],
)
def test_what_it_refuses(
    fd: Callable[..., Result], arguments: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    _refused(fd(*OPTIONS, *arguments), code, *parts)
