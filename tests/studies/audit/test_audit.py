"""The audit: planted differences are found, none is made up, and what can't be paired is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.errors import CorruptError, EmvfmError, MissingError, RefusedError, UsageError
from emvfm.expression.correlation import pearson
from emvfm.studies.audit.reading import parse_role, read_runs
from emvfm.studies.audit.scored import Drawn, Scored, draw_units
from emvfm.studies.audit.verdicts import audit_runs
from emvfm.workspace import Workspace

UNITS = tuple(f"u{i:02d}" for i in range(40))


def _scored(name: str, role: Any, values: np.ndarray, **changed: Any) -> Scored:
    def replicate(drawn: Drawn, _: np.ndarray) -> np.ndarray:
        return drawn.units @ values / drawn.units.sum(axis=1)

    given: dict[str, Any] = {
        "name": name, "role": role, "metric": "mean", "what": "units", "units": UNITS, "columns": (), "rows": "r",
        "strata": ("",) * len(UNITS), "defined": np.ones(1, bool), "replicate": replicate,
    }  # fmt: skip
    return Scored(**{**given, **changed})


def _values(mean: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.1, len(UNITS))


def test_a_planted_difference_is_found_and_paired() -> None:
    shared = np.random.default_rng(9).normal(0, 5, len(UNITS))  # hard units are hard for all
    runs = [
        _scored("a", "trained", shared + _values(0.2)),
        _scored("b", "untrained", shared + _values(0.0, 1)),
    ]
    (one,) = audit_runs(runs, samples=500).verdicts
    assert one.estimate.value == pytest.approx((_values(0.2) - _values(0.0, 1)).mean())
    assert 0.1 < one.estimate.low < one.estimate.high < 0.3
    assert one.says.startswith("a beats b here")


def test_no_difference_is_no_evidence_and_its_interval_is_honest() -> None:
    covered = 0
    for seed in range(60):
        runs = [
            _scored("a", "trained", _values(0, 2 * seed)),
            _scored("b", "confound", _values(0, 2 * seed + 1)),
        ]
        (one,) = audit_runs(runs, samples=300, seed=seed).verdicts
        covered += one.estimate.low <= 0 <= one.estimate.high
        if one.estimate.low <= 0 <= one.estimate.high:
            assert one.says.startswith("no evidence that a beats b here")
    assert covered >= 50


def test_the_best_of_several_is_said_to_be_so_and_a_chosen_one_is_taken() -> None:
    runs = [
        _scored("a", "trained", _values(0.5)), _scored("low", "baseline", _values(0.1, 1)),
        _scored("high", "baseline", _values(0.3, 2)), _scored("s0", "untrained", _values(0.0, 3)),
        _scored("s1", "untrained", _values(0.2, 4)),
    ]  # fmt: skip
    found = {v.role: v for v in audit_runs(runs, samples=300).verdicts}
    assert (found["baseline"].rival, found["baseline"].choice) == ("high", "best of 2, after the fact")
    assert found["baseline"].estimate.value == pytest.approx((_values(0.5) - _values(0.3, 2)).mean())
    assert found["untrained"].choice == "their mean"
    seeds = (_values(0.0, 3) + _values(0.2, 4)) / 2
    assert found["untrained"].estimate.value == pytest.approx((_values(0.5) - seeds).mean())
    chosen = {v.role: v for v in audit_runs(runs, chosen="low", samples=300).verdicts}["baseline"]
    assert (chosen.rival, chosen.choice) == ("low", "chosen beforehand")
    assert chosen.estimate.value == pytest.approx((_values(0.5) - _values(0.1, 1)).mean())
    assert all(v.p_holm >= v.p_value for v in found.values())


def test_ways_of_channels_are_compared_each_with_its_own() -> None:
    runs = [
        _scored("a · map", "trained", _values(0.5), way="map"),
        _scored("a · mean", "trained", _values(0.4), way="mean"),
        _scored("s0 · map", "untrained", _values(0.0, 3), way="map"),
        _scored("s1 · map", "untrained", _values(0.1, 4), way="map"),
        _scored("s0 · mean", "untrained", _values(0.3, 5), way="mean"),
        _scored("pixel:all", "baseline", _values(0.2, 6)),
    ]
    found = {(v.trained, v.role): v for v in audit_runs(runs, samples=300).verdicts}
    both = (_values(0.0, 3) + _values(0.1, 4)) / 2
    assert found["a · map", "untrained"].estimate.value == pytest.approx((_values(0.5) - both).mean())
    assert found["a · mean", "untrained"].rival == "s0 · mean"
    assert {found[name, "baseline"].rival for name in ("a · map", "a · mean")} == {"pixel:all"}


def test_equal_baselines_after_the_fact_raise_what_must_be_beaten() -> None:
    runs = [_scored("a", "trained", _values(0.0))]
    runs += [_scored(f"b{i}", "baseline", _values(0.0, i + 1)) for i in range(8)]
    (one,) = audit_runs(runs, samples=300).verdicts
    alone = max(_values(0.0, i + 1).mean() for i in range(8))
    assert one.estimate.value == pytest.approx(_values(0.0).mean() - alone)


@pytest.mark.parametrize(
    ("runs", "error"),
    [
        ([_scored("a", "trained", _values(0))], UsageError),
        ([_scored("a", "baseline", _values(0)), _scored("b", "confound", _values(0))], UsageError),
        ([_scored("a", "trained", _values(0)), _scored("a", "confound", _values(0))], UsageError),
        ([_scored("a", "trained", _values(0)), _scored("b", "confound", _values(0), rows="other")], RefusedError),
        ([_scored("a", "trained", _values(0)), _scored("b", "confound", _values(0), metric="IoU")], RefusedError),
        ([_scored("a", "trained", _values(0), defined=np.zeros(1, bool)), _scored("b", "confound", _values(0))],
         RefusedError),
        ([_scored(n, r, _values(0)[:1], units=("u",), strata=("",)) for n, r in (("a", "trained"), ("b", "confound"))],
         RefusedError),
    ],
)  # fmt: skip
def test_what_can_not_be_compared_is_refused(runs: list[Scored], error: type[EmvfmError]) -> None:
    with pytest.raises(error) as caught:
        audit_runs(runs, samples=100)
    assert "\n" not in str(caught.value)


def test_units_are_drawn_within_their_strata() -> None:
    one = _scored("a", "trained", _values(0), strata=("x",) * 10 + ("y",) * 30, columns=("g", "h"))
    drawn = draw_units(one, samples=20, seed=3)
    assert (drawn.units[:, :10].sum(axis=1) == 10).all()
    assert (drawn.columns.sum(axis=1) == 2).all()
    assert (drawn.units[0] == 1).all()
    assert np.array_equal(draw_units(one, samples=20, seed=3).units, drawn.units)


def _csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def _run(root: Path, name: str, config: str, record: dict[str, Any] | None = None) -> Path:
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "metrics.json").write_text(json.dumps(record or {}))
    return folder


def _slices(folder: Path, quality: float, seed: int, test: str = "vnc") -> np.ndarray:
    rng, truth = np.random.default_rng(seed), 1000 + 10 * np.arange(24)
    tp = np.round(truth * np.clip(quality + rng.normal(0, 0.02, 24), 0, 1))
    counts = np.column_stack([tp, rng.integers(50, 60, 24), truth - tp, 9000 - truth])
    rows = [[f"s{i}", "vnc", i // 3, *map(int, counts[i])] for i in range(24)]
    _csv(
        folder / "evaluation" / f"{test}-slices.csv", ["id", "source", "block", "tp", "fp", "fn", "tn"], rows
    )
    return counts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def test_segmentation_is_pooled_iou_over_blocks(root: Path) -> None:
    counts = _slices(_run(root, "good", "backbone: dinov2\n"), 0.9, 1)
    _slices(_run(root, "raw", "backbone: dinov2\nuntrained: true\n"), 0.7, 2)
    _slices(_run(root, "simple", "backbone: pixel:all\n"), 0.88, 3)
    runs = read_runs(Workspace(root), ["good", "raw", "simple"])
    assert [run.role for run in runs] == ["trained", "untrained", "baseline"]
    found = audit_runs(runs, samples=300)
    tp, fp, fn, _ = counts.sum(axis=0)
    assert {n: e.value for n, _, e in found.runs}["good"] == pytest.approx(tp / (tp + fp + fn))
    says = [v.says for v in found.verdicts]
    assert says[0].startswith("good beats raw here")
    assert len(runs[0].units) == 8
    # A twin that repeats slices of the blocks drawn.
    drawn = draw_units(runs[0], samples=5)
    for r in range(6):
        weights = np.repeat(drawn.units[r], 3)[
            np.argsort(np.argsort([str(i) for i in range(8)])).repeat(3) * 3
        ]
        tp, fp, fn, _ = weights @ counts
        assert runs[0].replicate(drawn, np.ones(1, bool))[r] == pytest.approx(tp / (tp + fp + fn))


def test_several_test_sets_need_a_name(root: Path) -> None:
    folder = _run(root, "good", "backbone: dinov2\n")
    _slices(folder, 0.9, 1)
    _slices(folder, 0.8, 2, "lucchi-test")
    with pytest.raises(EmvfmError, match="--test"):
        read_runs(Workspace(root), ["good"])
    assert read_runs(Workspace(root), ["good"], test="lucchi:test")[0].name == "good"


def _queries(folder: Path, mean: float, seed: int) -> list[list[Any]]:
    rng = np.random.default_rng(seed)
    rows = [[f"q{i}", f"c{i % 12}", float(np.clip(rng.normal(mean, 0.1), 0, 1))] for i in range(60)]
    rows[7][2] = ""  # a query without a positive
    rows = [[*row[:2], row[2]] for row in rows]
    _csv(folder / "queries.csv", ["id", "group", "average_precision"], rows)
    return rows


def test_retrieval_is_the_mean_over_groups(root: Path) -> None:
    rows = _queries(_run(root, "good", "backbone: dinov2\n"), 0.6, 1)
    _queries(_run(root, "plate", "backbone: random:onehot=plate\n"), 0.6, 2)
    runs = read_runs(Workspace(root), ["good", "plate"])
    assert runs[1].role == "confound"
    found = audit_runs(runs, samples=300)
    groups = [np.mean([r[2] for r in rows if r[1] == f"c{g}" and r[2] != ""]) for g in range(12)]
    assert found.runs[0][2].value == pytest.approx(np.mean(groups))
    assert found.verdicts[0].says.startswith("no evidence that good beats plate here")
    assert len(runs[0].units) == 12


def _labels(folder: Path, errors: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.random((120, 4)) < [0.5, 0.3, 0.2, 0.4]
    own = np.random.default_rng(seed)
    said = truth ^ (own.random(truth.shape) < errors)
    fold = np.arange(120) // 4 % 5
    rows = [
        [
            f"r{i}",
            f"p{i // 4}",
            int(fold[i]),
            *(";".join(f"k{c}" for c in np.flatnonzero(v[i])) for v in (truth, said)),
        ]
        for i in range(120)
    ]
    _csv(folder, ["id", "group", "fold", "labels", "predicted"], rows)
    return truth, said, fold


def test_localisation_is_macro_f1_over_folds_and_a_grid_is_many_runs(root: Path) -> None:
    members = [
        {"name": "net", "backbone": "dinov2", "profiles": "DINOv2"},
        {"name": "raw", "backbone": "dinov2", "profiles": "DINOv2, untrained (seed 0)"},
        {"name": "pixels", "backbone": "pixel:all", "profiles": "pixel baseline (all)"},
    ]
    folder = _run(root, "grid", "backbone: dinov2\n", {"runs": members})
    truth, said, fold = _labels(folder / "predictions" / "1-net.csv", 0.1, 1)
    _labels(folder / "predictions" / "2-raw.csv", 0.3, 2)
    _labels(folder / "predictions" / "3-pixels.csv", 0.1, 3)
    runs = read_runs(Workspace(root), ["grid"])
    assert [(run.name, run.role) for run in runs] == [
        ("net", "trained"),
        ("raw", "untrained"),
        ("pixels", "baseline"),
    ]
    found = audit_runs(runs, samples=300)
    own = [f1_score(truth[fold == f], said[fold == f], average="macro") for f in range(5)]
    assert found.runs[0][2].value == pytest.approx(np.mean(own))
    assert found.verdicts[0].says.startswith("net beats raw here")
    assert found.verdicts[1].says.startswith("no evidence that net beats pixels here")
    with pytest.raises(UsageError, match="role of no run"):
        read_runs(Workspace(root), ["grid"], ["other=confound"])
    changed = read_runs(Workspace(root), ["grid"], ["pixels=confound"])
    assert changed[2].role == "confound"


def _expression(root: Path, noise: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kinds = ["backbone", "untrained", "pixel", "permuted", "mean"]
    record = {"models": [{"name": kind, "kind": kind} for kind in kinds]}
    folder = _run(root, "expr", "backbone: dinov2\n", record)
    rng = np.random.default_rng(0)
    y, folds = rng.normal(size=(80, 5)), np.repeat(["a", "b"], 40)
    genes = ["g0", "g1", "g2", "g3", "g4"]

    def write(name: str, values: np.ndarray) -> None:
        rows = []
        for i, row in enumerate(values):
            shown = [
                f"{v:.9g}" if folds[i] == "a" or g < 4 else "" for g, v in enumerate(row)
            ]  # g4 only in fold a
            rows.append([f"s{i}", f"{folds[i]}#{i // 5}", folds[i], *shown])
        _csv(folder / name, ["id", "group", "fold", *genes], rows)

    write("measured.csv", y)
    predicted = y + rng.normal(size=y.shape) * noise[0]
    for number, (kind, scale) in enumerate(zip(kinds, [*noise, 9.0, 9.0], strict=True), 1):
        values = predicted if number == 1 else y + rng.normal(size=y.shape) * scale
        if kind == "pixel":
            values[folds == "b", 2] = 0.5  # undefined
        write(f"predictions/{number}-{kind}.csv", values)
    return y, predicted, folds


def test_expression_brings_its_rivals_along(root: Path) -> None:
    y, predicted, folds = _expression(root, (0.5, 2.0, 0.5))
    runs = read_runs(Workspace(root), ["expr"])
    assert [run.name for run in runs] == ["backbone", "untrained", "pixel"]
    found = audit_runs(runs, samples=300)
    assert found.parts == (8, 9)
    a, b = (pearson(predicted[folds == f], y[folds == f]) for f in "ab")
    assert found.runs[0][2].value == pytest.approx((a.mean() + b[[0, 1, 3]].mean()) / 2, abs=1e-6)
    assert found.verdicts[0].says.startswith("backbone beats untrained here")
    assert found.verdicts[1].says.startswith("no evidence that backbone beats pixel here")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("queries.csv", "id,group\nq,a\n"),
        ("queries.csv", "id,group,average_precision\nq,a,x\n"),
        ("queries.csv", "id,group,average_precision\nq,a,inf\n"),
        ("queries.csv", "id,group,average_precision\n"),
        ("queries.csv", "id,group,average_precision\nq,a,\n"),
        ("queries.csv", ""),
        ("evaluation/t-slices.csv", "id,block,tp,fp,fn,tn\ns,0,1,1,-5,1\n"),
        ("evaluation/t-slices.csv", "id,block,tp,fp,fn\ns,0,1,1,1\n"),
        ("predictions/1-x.csv", "id,group,fold,labels,predicted\nr,p,0,,\n"),
    ],
)
def test_damaged_tables_are_refused_in_one_line(root: Path, name: str, text: str) -> None:
    folder = _run(root, "bad", "backbone: dinov2\n", {"runs": [{"name": "x"}]})
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    with pytest.raises(CorruptError) as caught:
        read_runs(Workspace(root), ["bad"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a", "a=", "=trained", "a=best", ""])
def test_a_role_is_one_of_four(text: str) -> None:
    with pytest.raises(UsageError):
        parse_role(text)
    assert parse_role("a=b=confound") == ("a=b", "confound")


def test_the_command_says_it_in_words(root: Path) -> None:
    _queries(_run(root, "good", "backbone: dinov2\n"), 0.6, 1)
    _queries(_run(root, "raw", "backbone: dinov2\nuntrained: true\n"), 0.3, 2)
    _queries(_run(root, "pix", "backbone: pixel:all\n"), 0.6, 3)
    words = ["bench", "audit", "net:good", "raw", "pix", "--root", str(root), "--samples", "200"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "net beats raw here" in text
    assert "no evidence that net beats pix here" in text
    assert "nothing is said against what is not here: confound" in text
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    folder = Path(found["folder"])
    assert len(list(csv.DictReader((folder / "verdicts.csv").open()))) == 2
    with Image.open(folder / "figures" / "verdicts.png") as image:
        assert image.width > 300
    assert [v["role"] for v in found["verdicts"]] == ["untrained", "baseline"]


def test_a_colon_in_a_name_or_a_path_is_no_end_of_a_name(root: Path, tmp_path: Path) -> None:
    """NAME:RUN is cut at the first colon that has nothing but runs behind it; a run as a whole is not cut."""
    _queries(_run(root, "good", "backbone: dinov2\n"), 0.6, 1)
    _queries(_run(root, "pixel:all", "backbone: pixel:all\n"), 0.6, 2)
    folder = tmp_path / "a:b,c" / "run:1"
    folder.parent.mkdir()
    (root / "runs" / "good").rename(root / "runs" / "moved")
    (root / "runs" / "moved").rename(folder)

    def names(*references: str) -> list[str]:
        return [one.name for one in read_runs(Workspace(root), references)]

    assert names("pixel:all") == ["pixel:all"]
    assert names(str(folder)) == ["run:1"]
    assert names(f"net:{folder}") == ["net"]
    assert names(f"pixel:intensity:{folder}") == ["pixel:intensity"]
    assert names("x:y:pixel:all") == ["x:y"]
    assert names(f"net:{folder}", "simple:pixel:all") == ["net", "simple"]
    for wrong in ("net:nowhere", "x:y:nowhere", ":", "nowhere:", "net:pixel:all,nowhere"):
        with pytest.raises(MissingError):
            names(wrong)


def test_folds_of_a_model_are_runs_behind_one_name(root: Path) -> None:
    for fold in (1, 2):
        folder = _run(root, f"fold:{fold}", "backbone: dinov2\n")
        rows = [[f"{fold}s{i}", "vnc", i // 3, 900, 50, 100, 9000] for i in range(12)]
        header = ["id", "source", "block", "tp", "fp", "fn", "tn"]
        _csv(folder / "evaluation" / f"vnc{fold}-slices.csv", header, rows)
    (one,) = read_runs(Workspace(root), ["a:net:fold:1,fold:2"])
    assert one.name == "a:net"
    with pytest.raises(MissingError, match="fold:3"):
        read_runs(Workspace(root), ["a:net:fold:1,fold:3"])


@pytest.mark.parametrize(
    ("words", "code"),
    [(("good",), 2), (("nowhere",), 3), (("good", "raw", "--chosen", "raw"), 2), (("good", "empty"), 3)],
)
def test_the_command_refuses_in_one_line(root: Path, words: tuple[str, ...], code: int) -> None:
    _queries(_run(root, "good", "backbone: dinov2\n"), 0.6, 1)
    _queries(_run(root, "raw", "backbone: dinov2\nuntrained: true\n"), 0.3, 2)
    _run(root, "empty", "backbone: dinov2\n")
    result = CliRunner().invoke(app, ["bench", "audit", *words, "--root", str(root)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
