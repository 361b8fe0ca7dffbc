"""``emvfm bench retrieve`` from the command line: presets, controls, corrections, chance, noise, refusals."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from scipy.stats import kstest
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.studies.profiles import ProfileOptions, open_all
from emvfm.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parents[1] / "representations"))
import peers

N_COMPOUNDS, N_PLATES, DIMENSIONS = 12, 3, 16


def screen(folder: Path, *, strength: float = 1.0, shift: float = 0.0, seed: int = 0) -> list[str]:
    """Write a table a plate: every compound once, and eight controls; compounds and plates move all features."""
    rng = np.random.default_rng(seed)
    effects = strength * rng.normal(size=(N_COMPOUNDS, DIMENSIONS))
    names = [f"f{j}" for j in range(DIMENSIONS)]
    paths = []
    for plate in range(N_PLATES):
        moved = shift * rng.normal(size=DIMENSIONS)
        path = folder / f"plate{plate}.csv"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(
                [*(f"Metadata_{c}" for c in ("Plate", "compound", "control_type", "target")), *names]
            )
            for row in range(N_COMPOUNDS + 8):
                control = row >= N_COMPOUNDS
                values = rng.normal(size=DIMENSIONS) + moved + (0 if control else effects[row])
                about = ["DMSO", "negcon", ""] if control else [f"c{row}", "", f"t{row // 3}|t{row % 2 + 10}"]
                writer.writerow([f"p{plate}", *about, *values])
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    root = tmp_path_factory.mktemp("workspace")
    return lambda *arguments: CliRunner().invoke(
        app, ["bench", "retrieve", "--root", str(root), "--draws", "299", *map(str, arguments)]
    )


def _json(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _rows(record: dict, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((Path(record["folder"]) / name).open(newline="")))


RULES = ("--positives", "same compound", "--negatives", "control_type=negcon", "--queries", "compound!=DMSO")


def test_a_screen_is_scored_group_by_group_with_tables_and_figures(call, tmp_path: Path) -> None:
    tables = screen(tmp_path)
    record = _json(call(*tables, *RULES, "--show", "c3", "--show", "c1", "--json"))
    assert record["group"] == "compound"
    assert [g["group"] for g in record["groups"]] == sorted(f"c{i}" for i in range(N_COMPOUNDS))
    assert record["shown"] == ["c3", "c1"]
    profiles = open_all(Workspace(tmp_path), tables, ProfileOptions())
    compound = np.array(profiles.facts["compound"])
    asked, controls = np.flatnonzero(compound != "DMSO"), np.flatnonzero(compound == "DMSO")
    positive = peers.pairs_same(np.where(compound == "DMSO", np.arange(len(compound)).astype(str), compound))
    negative = np.stack([asked.repeat(len(controls)), np.tile(controls, len(asked))], axis=1)
    twin = peers.average_precision(profiles.features.astype(np.float64), positive, negative)
    for group in record["groups"]:
        assert group["precision"]["value"] == pytest.approx(twin[compound == group["group"]].mean(), abs=1e-9)
        assert group["precision"]["n"] == N_PLATES
    queries = _rows(record, "queries.csv")
    assert len(queries) == len(asked)
    assert float(queries[5]["average_precision"]) == pytest.approx(twin[asked[5]], abs=1e-9)
    assert {row["group"] for row in _rows(record, "groups.csv")} == set(compound) - {"DMSO"}
    for figure in ("groups.png", "bars.png"):
        with Image.open(Path(record["folder"]) / "figures" / figure) as picture:
            assert min(picture.size) > 200
    text = call(*tables, *RULES, "--show", "c3").stdout
    assert "mean over 12 groups" in text
    assert "c3" in text
    assert "R@5" in text


def test_the_replicability_preset_is_the_rules_written_out(call, tmp_path: Path) -> None:
    tables = screen(tmp_path)
    plain = _json(call(*tables, *RULES, "--json"))
    preset = _json(call(*tables, "--preset", "replicability", "--perturbation", "compound", "--json"))
    assert preset["groups"] == plain["groups"]
    assert preset["protocol"]["negatives"] == "control_type=negcon"


def test_the_matching_preset_asks_for_every_label_of_every_consensus(call, tmp_path: Path) -> None:
    tables = screen(tmp_path)
    options = ("--preset", "matching", "--perturbation", "compound", "--target", "target")
    record = _json(call(*tables, *options, "--json"))
    assert record["profiles"]["n"] == N_COMPOUNDS
    assert {g["group"]: g["precision"]["n"] for g in record["groups"]} == {
        **{f"t{i}": 3 for i in range(4)}, "t10": 6, "t11": 6,
    }  # fmt: skip
    assert record["protocol"]["label"] == "target"
    assert record["profiles"]["steps"][0]["by"] == "median"


def test_collapsed_features_score_what_a_random_order_does(call, tmp_path: Path) -> None:
    lines = ["compound,plate,Metadata_x,f,g"] + [f"c{i // 4},p{i % 4},1,2.5,-1" for i in range(24)]
    (tmp_path / "flat.csv").write_text("\n".join(lines))
    record = _json(
        call(tmp_path / "flat.csv", "--positives", "same compound", "--exclude", "plate", "--json")
    )
    assert record["overall"]["value"] == pytest.approx(record["expected"], abs=1e-9)
    assert record["normalised"]["value"] == pytest.approx(0, abs=1e-9)
    assert record["below_alpha"] == 0


def test_noise_gives_even_p_values(call, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(120), 3)
    np.savez(tmp_path / "noise.npz", features=rng.normal(size=(360, 32)), g=groups.astype(str))
    record = _json(call(tmp_path / "noise.npz", "--positives", "same g", "--json"))
    p_values = [group["p_value"] for group in record["groups"]]
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert record["below_alpha"] <= 3


def test_corrections_on_controls_undo_what_plates_add(call, tmp_path: Path) -> None:
    tables = screen(tmp_path, shift=4)
    rules = (
        "--positives",
        "same compound, different plate",
        "--exclude",
        "plate",
        "--queries",
        "compound!=DMSO",
    )
    plain = _json(call(*tables, *rules, "--json"))
    step = ("--correct", "center", "--controls", "control_type=negcon", "--batch", "plate")
    centred = _json(call(*tables, *rules, *step, "--json"))
    assert centred["overall"]["value"] > plain["overall"]["value"] + 0.1
    (said,) = centred["profiles"]["steps"]
    assert (said["name"], said["n_controls"], said["batches"]) == ("center", 24, {"p0": 8, "p1": 8, "p2": 8})
    for name in ("sphere", "tvn", "pca-cs", "coral", "combat"):
        record = _json(call(*tables, *rules, "--correct", name, *step[2:], "--json"))
        assert np.isfinite(record["overall"]["value"]), name
    result = call(*tables, *rules, "--correct", "sphere")
    assert result.exit_code == 2
    assert "--controls" in result.stderr
    result = call(*tables, *rules, "--correct", "tvn", "--controls", "compound=c1", "--batch", "plate")
    assert result.exit_code == 4
    assert "too few controls" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--positives"),
        (("--positives", "like compound"), 2, "not a rule of pairs"),
        (("--positives", "same colour"), 2, "no such column"),
        (("--positives", "control_type=negcon"), 2, "nothing to average by"),
        ((*RULES, "--show", "c99"), 2, "no such group"),
        ((*RULES, "--exclude", "compound"), 2, "no query has a positive"),
        ((*RULES[:4], "--queries", "same compound"), 2, "compares two"),
        (("--preset", "replicability"), 2, "--perturbation: no such column"),
        (
            ("--preset", "replicability", "--perturbation", "compound", "--controls", "all"),
            2,
            "every row is a control",
        ),
        ((*RULES, "--where", "compound=c1, plate=p0"), 2, "fewer than two rows"),
        ((*RULES, "--where", "compound=nothing"), 2, "fewer than two rows"),
        ((*RULES, "--annotations", "gone.csv", "--on", "compound"), 3, "no such table"),
        ((*RULES, "--annotations", "gone.csv"), 2, "--on"),
    ],
)
def test_refusals_are_one_line(
    call, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = call(*screen(tmp_path), *arguments)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_real_command_on_the_jump_pilot_is_copairs(call, shared_data: Path) -> None:
    """Three plates, eight positive controls; a twin of copairs gives the same to 1e-9."""
    tables = sorted(map(str, (shared_data / "jump-cp-pilot").glob("BR*.csv.gz")))
    if len(tables) != 3:
        pytest.skip("no plates of the JUMP pilot")
    record = _json(call(*tables, "--preset", "replicability", "--perturbation", "broad_sample", "--json"))
    assert len(record["groups"]) == 306
    named = _json(call(*tables, "--preset", "replicability", "--json"))
    assert len(named["shown"]) == 8
    profiles = open_all(Workspace(shared_data), tables, ProfileOptions())
    compound = np.array(profiles.facts["broad_sample"])
    compound[np.array(profiles.facts["control_type"]) == "negcon"] = "DMSO"
    asked, controls = np.flatnonzero(compound != "DMSO"), np.flatnonzero(compound == "DMSO")
    positive = peers.pairs_same(np.where(compound == "DMSO", np.arange(len(compound)).astype(str), compound))
    negative = np.stack([asked.repeat(len(controls)), np.tile(controls, len(asked))], axis=1).astype(np.int32)
    twin = peers.average_precision(profiles.features.astype(np.float64), positive, negative)
    for group in record["groups"]:
        assert group["precision"]["value"] == pytest.approx(twin[compound == group["group"]].mean(), abs=1e-9)
    by_name = {group["group"]: group for group in named["groups"]}
    assert all(by_name[name]["q_value"] < 0.05 for name in named["shown"])
