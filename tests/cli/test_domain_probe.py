"""``emvfm domain probe`` from the command line: what it prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
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
from emvfm.domain.folds import plan_folds
from emvfm.domain.probe import ProbeSettings, probe_domains
from emvfm.domain.reference_probe import reference_probe
from emvfm.domain.task_probe import TaskSettings, balanced_patches, probe_task
from emvfm.extraction.pipeline import embed_dataset
from emvfm.segmentation.metrics import block_labels
from emvfm.workspace import Workspace

BACKBONE = ("--backbone", "timm:test_vit", "--untrained", "--device", "cpu", "--precision", "float32")
OPTIONS = (*BACKBONE, "--layers", "0", "--layers", "1", "--permutations", "19", "--pca", "4")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    # Brackets in a path are markup to the library that prints the result.
    root = tmp_path_factory.mktemp("probe") / "odd [/b] [red]folder"
    workspace = Workspace(root / "workspace")
    for name, domain, seed in (("a", "a", 3), ("b", "b", 4), ("bare", "a", 5)):
        write_phantom(root / name, domain, 12, 96, seed=seed)
        if name == "bare":
            images = ComposeOptions(link="copy", images=root / name / "images", allow_unmasked=True)
            compose(name, [], workspace, images)
        else:
            compose(name, [root / name], workspace, ComposeOptions(link="copy"))
    return workspace


@pytest.fixture(scope="module")
def probe(workspace: Workspace) -> Callable[..., Result]:
    """Call ``emvfm domain probe`` in the workspace of the module."""
    return lambda *arguments: CliRunner().invoke(
        app, ["domain", "probe", "--root", str(workspace.root), *map(str, arguments)]
    )


@pytest.fixture(scope="module")
def pair(probe: Callable[..., Result]) -> dict:
    return _json(probe("a", "b", *OPTIONS, "--seed", "7", "--json"))


def _json(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return json.loads(result.stdout)


def _embedded(workspace: Workspace, name: str):
    options = BackboneOptions(
        backbone="timm:test_vit", untrained=True, device="cpu", precision="float32", layers=(0, 1)
    )
    dataset = open_dataset(workspace, name)
    return embed_dataset(dataset, load_backbone(options, workspace), options, workspace)


def test_the_numbers_are_those_of_the_library(workspace: Workspace, pair: dict) -> None:
    vectors, plans, samples = [], [], []
    for name in ("a", "b"):
        embeddings = _embedded(workspace, name)
        volumes, z = [s.volume for s in embeddings.samples], [s.z for s in embeddings.samples]
        plans.append(plan_folds(block_labels(volumes, z), volumes, z))
        vectors.append(embeddings.image_embeddings())
        images = [
            (embeddings.patches(i)[-1].reshape(-1, embeddings.width), embeddings.foreground(i).ravel())
            for i in range(12)  # 96 px are whole patches, so none is padding
        ]
        samples.append(balanced_patches(images, 12, TaskSettings(seed=7)))
    (found,) = pair["results"]
    assert found["layer"] == 1
    for kind, probe in zip(("linear", "knn"), found["domain"], strict=True):
        expected = probe_domains(
            ("a", "b"), vectors, plans, ProbeSettings(kind, pca=4, permutations=19, seed=7)
        ).to_json()
        for name in ("balanced_accuracy", "auroc", "proxy_a_distance", "null", "confusion", "blocks"):
            assert probe[name] == json.loads(json.dumps(expected[name])), name
        assert (probe["classifier"], probe["n"], probe["seed"]) == (kind, [12, 12], 7)
    expected = probe_task(("a", "b"), samples, plans, TaskSettings(seed=7)).to_json()
    for cell, wanted in zip(found["task"]["cells"], expected["cells"], strict=True):
        assert (cell["train"], cell["test"], cell["n"]) == (wanted["train"], wanted["test"], wanted["n"])
        for name in ("auroc", "balanced_accuracy", "average_precision"):
            assert cell[name]["value"] == pytest.approx(wanted[name]["value"], abs=1e-6)
            assert cell[name]["low"] <= cell[name]["high"]
    assert [n["name"] for n in found["stacks"]] == ["a", "b"] * 2
    assert "mitochondria" in " ".join(found["verdicts"])


def test_text_and_files_hold_what_was_said(workspace: Workspace, probe: Callable[..., Result]) -> None:
    record = _json(probe("a", "b", "bare", *OPTIONS, "--classifier", "knn", "--all-layers", "--json"))
    result = probe("a", "b", "bare", *OPTIONS, "--classifier", "knn", "--all-layers")
    assert result.exit_code == 0, result.output
    unfolded = "".join(result.stdout.split())
    last = record["results"][-1]
    assert [r["layer"] for r in record["results"]] == [0, 1]
    for part in (*last["verdicts"], record["folder"], record["backbone"]):
        assert "".join(part.split()) in unfolded
    assert [p["names"] for p in last["domain"]] == [
        ["a", "b"],
        ["a", "bare"],
        ["b", "bare"],
        ["a", "b", "bare"],
    ]
    assert sum(map(sum, last["domain"][-1]["confusion"])) == sum(last["domain"][-1]["tested"])
    assert last["task"]["names"] == ["a", "b"]
    assert last["impossible"] == {"bare": "no masks"}
    folder = Path(record["folder"])
    assert folder.parent == workspace.runs
    assert json.loads((folder / "metrics.json").read_text())["results"] == record["results"]
    rows = list(csv.DictReader((folder / "domain.csv").open()))
    probes = [p for r in record["results"] for p in r["domain"]]
    assert [float(r["balanced_accuracy"]) for r in rows] == [p["balanced_accuracy"]["value"] for p in probes]
    assert len(list(csv.DictReader((folder / "task.csv").open()))) == 2 * 4
    assert len(list(csv.DictReader((folder / "directions.csv").open()))) == 2
    assert len(list(csv.DictReader((folder / "stacks.csv").open()))) == 2 * 3
    for name in ("domain-probe", "task-probe", "layers"):
        with Image.open(folder / "figures" / f"{name}.png") as figure:
            assert min(figure.size) > 100


def test_without_masks_the_domain_probe_still_runs(probe: Callable[..., Result]) -> None:
    record = _json(probe("bare", "a:train", *OPTIONS, "--classifier", "knn", "--foreground", "1", "--json"))
    (found,) = record["results"]
    assert found["impossible"]["bare"] == "no masks"
    none = _json(probe("bare", "bare:train", *OPTIONS, "--classifier", "knn", "--json"))
    assert none["results"][0]["task"] is None
    assert none["results"][0]["domain"]
    assert not (Path(none["folder"]) / "task.csv").exists()
    assert any("not possible" in verdict for verdict in none["results"][0]["verdicts"])
    assert probe("bare", "bare:train", *OPTIONS, "--classifier", "knn").exit_code == 0


def test_the_reference_is_its_recipe_with_the_majority_beside_it(
    workspace: Workspace, probe: Callable[..., Result]
) -> None:
    record = _json(probe("a", "b", *OPTIONS, "--preset", "reference", "--seed", "3", "--json"))
    vectors = [_embedded(workspace, n).image_embeddings() for n in ("a", "b")]
    expected = reference_probe(("a", "b"), vectors, seed=3).to_json()
    assert record["reference"] == [json.loads(json.dumps(expected))]
    text = probe("a", "b", *OPTIONS, "--preset", "reference", "--seed", "3").stdout
    assert "always naming the largest dataset gives" in " ".join(text.split())
    folder = Path(record["folder"])
    assert (folder / "figures" / "reference-probe.png").is_file()
    (row,) = csv.DictReader((folder / "reference.csv").open())
    assert float(row["accuracy"]) == expected["accuracy"]


def test_the_configuration_written_repeats_the_run(
    probe: Callable[..., Result], pair: dict, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes((Path(pair["folder"]) / "config.yaml").read_bytes())
    again = _json(probe("a", "b", "--config", config, "--json"))
    assert again == pair


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("--folds", "3"), "domain"),
        (("--gap", "0"), "domain"),
        (("--pca", "2"), "domain"),
        (("--neighbours", "2"), "domain"),
        (("--patches", "2"), "task"),
        (("--foreground", "0.5"), "task"),
        (("--target", "holes"), "verdicts"),
        (("--level", "0.5"), "task"),
        (("--layer", "0"), "task"),
    ],
)
def test_each_option_decides(probe: Callable[..., Result], change: tuple[str, ...], part: str) -> None:
    shared = (*OPTIONS, "--classifier", "knn", "--seed", "7")
    plain, other = (_json(probe("a", "b", *shared, *c, "--json")) for c in ((), change))
    assert plain["folder"] != other["folder"]
    assert plain["results"][0][part] != other["results"][0][part]


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("a",), 2, ("nothing to compare with",)),
        (("a", "nothing-like-it"), 3, ("nothing-like-it",)),
        (("a", "b", "--folds", "1"), 2, ("folds",)),
        (("a", "b", "--permutations", "18"), 2, ("permutations",)),
        (("a", "b", "--background", "0.9"), 2, ("background",)),
        (("a", "b", "--layer", "2"), 2, ("layer",)),
        (("a", "b", "--preset", "reference", "--all-layers"), 2, ("preset",)),
        (("a:test", "b:test", "--preset", "reference"), 2, ("stratified",)),
    ],
)
def test_what_it_refuses(
    probe: Callable[..., Result], arguments: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    result = probe(*OPTIONS, *arguments)
    assert result.exit_code == code, result.output
    line = result.stderr.strip()
    assert "\n" not in line
    assert all(part in line for part in parts), line
