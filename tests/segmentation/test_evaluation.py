"""Scores are those of the predictions at native size, however they are pooled, and are kept with the run."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import save_dataset
from emvfm.datasets.masks import read_mask
from emvfm.datasets.options import ComposeOptions
from emvfm.errors import MissingError, UsageError
from emvfm.segmentation import evaluation, recipe
from emvfm.segmentation.boundary import boundary_score
from emvfm.segmentation.checkpoints import load_run
from emvfm.segmentation.config import EvalConfig, TrainConfig
from emvfm.segmentation.evaluation import PROTOCOL, Panel, evaluate
from emvfm.segmentation.histograms import ProbabilityHistogram, probability_histogram
from emvfm.segmentation.instances import label_instances, match_instances, panoptic
from emvfm.segmentation.metrics import bootstrap_pooled
from emvfm.segmentation.scoring import measure
from emvfm.segmentation.thresholds import best_threshold
from emvfm.segmentation.training import train


def _scores_of(*data: str, **changes: object) -> EvalConfig:
    return EvalConfig(**{"data": data, "samples": 100, **changes})  # type: ignore[arg-type]


def _predictions(run, workspace, reference: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return id → (prediction, mask), from the tokens that `evaluate` stored."""
    segmenter, dataset = load_run(run.path, workspace), open_dataset(workspace, reference)
    slices = segmenter.slices(dataset, workspace)
    return {
        s.id: (
            slices.probability(i) > 0.5,
            read_mask(dataset.mask_path(s)),
        )
        for i, s in enumerate(dataset.samples)
    }


def _jaccard(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    predicted, true = (torch.from_numpy(np.concatenate([p[k].ravel() for p in pairs])) for k in (0, 1))
    return float(binary_jaccard_index(predicted.int(), true.int()))


@pytest.fixture
def both(workspace):
    """A dataset of two sources whose slices have different sizes."""
    return compose(
        "both", [workspace.datasets / "a", workspace.datasets / "b"], workspace, ComposeOptions(link="copy")
    )


@pytest.mark.parametrize("changes", [{}, {"lora": True, "loss": "dice"}, {"input_size": "x0.6"}])
def test_scores_are_those_of_the_predictions_at_native_size(trained, workspace, fast, both, changes) -> None:
    run = trained(fast(**changes))
    (cell,) = evaluate([run.path], _scores_of("both"), workspace)
    pairs = _predictions(run, workspace, "both:test")
    assert {(p.shape, m.shape) for p, m in pairs.values()} == {((96, 96),) * 2, ((120, 120),) * 2}
    assert cell.iou.value == pytest.approx(_jaccard(list(pairs.values())), abs=1e-6)
    predicted, true = (
        torch.from_numpy(np.concatenate([p[k].ravel() for p in pairs.values()])).int() for k in (0, 1)
    )
    assert cell.dice.value == pytest.approx(float(binary_f1_score(predicted, true)), abs=1e-6)
    assert 0 < cell.iou.value < 1
    per_image = []
    assert [image.id for image in cell.images] == list(pairs)
    for image in cell.images:
        prediction, mask = pairs[image.id]
        counts = image.counts
        assert counts.tp == int((prediction & mask).sum())
        assert counts.fp == int((prediction & ~mask).sum())
        assert counts.fn == int((~prediction & mask).sum())
        assert counts.tp + counts.fp + counts.fn + counts.tn == mask.size
        per_image.append(_jaccard([pairs[image.id]]))
    assert cell.iou_per_image == pytest.approx(float(np.mean(per_image)), abs=1e-6)
    sources = {s.id: s.domain for s in both.samples}
    assert sorted(cell.per_source) == ["a", "b"]
    for name, estimate in cell.per_source.items():
        own = [pair for key, pair in pairs.items() if sources[key] == name]
        assert len(own) == estimate.n == 2
        assert estimate.value == pytest.approx(_jaccard(own), abs=1e-6)
    assert cell.macro == pytest.approx(np.mean([e.value for e in cell.per_source.values()]))


def test_predictions_from_images_score_as_those_from_stored_tokens(trained, workspace, fast) -> None:
    run = trained(fast(lora=True, loss="dice"))
    (cell,) = evaluate([run.path], _scores_of("b"), workspace)
    segmenter, dataset = load_run(run.path, workspace), open_dataset(workspace, "b:test")
    pairs = [
        (segmenter.predict(read_image(dataset.image_path(s))) > 0.5, read_mask(dataset.mask_path(s)))
        for s in dataset.samples
    ]
    assert cell.iou.value == pytest.approx(_jaccard(pairs), abs=5e-3)


def test_intervals_bracket_the_value_and_widen_with_the_level(trained, workspace, fast) -> None:
    run = trained(fast())
    cells = {
        level: evaluate([run.path], _scores_of("a:train", samples=500, level=level), workspace)[0]
        for level in (0.5, 0.99)
    }
    for level, cell in cells.items():
        for estimate in (cell.iou, cell.dice, *cell.per_source.values()):
            assert estimate.low <= estimate.value <= estimate.high
            assert estimate.level == level
            assert "blocks of consecutive slices" in estimate.method
    wide, narrow = cells[0.99].iou, cells[0.5].iou
    assert wide.low < narrow.low < narrow.high < wide.high
    # Slices 0 … 6 of one volume, in blocks of about sqrt(7).
    counts = [image.counts for image in cells[0.5].images]
    want = bootstrap_pooled(counts, [0, 0, 0, 1, 1, 2, 2], samples=500, level=0.5)
    assert (narrow.low, narrow.high) == (want.low, want.high)


def test_the_seed_decides_the_intervals_and_not_the_values(trained, workspace, fast) -> None:
    run = trained(fast())
    first, again, other = (
        evaluate([run.path], _scores_of("a:train", samples=20, seed=seed), workspace)[0] for seed in (0, 0, 1)
    )
    assert first.to_json() == again.to_json()
    assert first.iou.value == other.iou.value
    assert (first.iou.low, first.iou.high) != (other.iou.low, other.iou.high)


def test_a_single_slice_has_no_interval_and_strict_json(trained, workspace, fast) -> None:
    run = trained(fast())
    (cell,) = evaluate([run.path], _scores_of("a:val"), workspace)
    assert (cell.iou.low, cell.iou.high, cell.iou.n) == (None, None, 1)
    value = json.loads(json.dumps(cell.to_json(), allow_nan=False))
    assert value["iou"]["low"] is None
    assert value["n"] == 1


def test_the_json_of_a_cell_says_what_was_scored(trained, workspace, fast) -> None:
    config = fast(data=("a", "b"), seed=3)
    run = trained(config)
    (cell,) = evaluate([run.path], _scores_of("b"), workspace)
    value = json.loads(json.dumps(cell.to_json(), allow_nan=False))
    assert value["run"] == run.path.name
    assert (value["train"], value["adaptation"], value["test"]) == ("a+b", "frozen", "b:test")
    assert (value["seed"], value["n"], value["protocol"]) == (3, 2, PROTOCOL)
    assert "untrained" in value["backbone"]
    assert set(value["images"][0]) == {"id", "source", "block", "tp", "fp", "fn", "tn", "iou", "dice"}
    for image in value["images"]:
        whole = image["tp"] + image["fp"] + image["fn"]
        assert image["iou"] == pytest.approx(image["tp"] / whole if whole else 1.0)
        assert math.isfinite(image["dice"])


def test_all_runs_are_scored_on_all_tests_and_each_keeps_its_own(trained, workspace, fast) -> None:
    runs = [trained(fast()), trained(fast(seed=1))]
    before = [run.metrics["train"] for run in runs]
    cells = evaluate([run.path for run in runs], _scores_of("a", "b:val,test"), workspace)
    assert [(c.run, c.test) for c in cells] == [
        (run.path.name, test) for run in runs for test in ("a:test", "b:val,test")
    ]
    for k, run in enumerate(runs):
        assert run.metrics["train"] == before[k]
        assert run.metrics["eval"] == {c.test: c.to_json() for c in cells if c.run == run.path.name}
    assert cells[0].iou != cells[2].iou


def test_scoring_again_replaces_its_own_result_and_keeps_the_others(trained, workspace, fast) -> None:
    run = trained(fast())
    run.update_metrics("notes", {"kept": True})
    train = run.metrics["train"]
    evaluate([run.path], _scores_of("a"), workspace)
    first = run.metrics["eval"]["a:test"]
    evaluate([run.path], _scores_of("b"), workspace)
    evaluate([run.path], _scores_of("a", level=0.5), workspace)
    assert list(run.metrics["eval"]) == ["a:test", "b:test"]
    assert run.metrics["eval"]["a:test"]["iou"]["level"] == 0.5
    assert run.metrics["eval"]["a:test"]["images"] == first["images"]
    assert run.metrics["train"] == train
    assert run.metrics["notes"] == {"kept": True}


def test_the_test_split_is_meant_unless_another_is_named(trained, workspace, fast) -> None:
    run = trained(fast())
    path = workspace.root / "odd:name" / "a"
    shutil.copytree(workspace.datasets / "a", path)
    want = [s.id for s in open_dataset(workspace, "a:test").samples]
    cells = evaluate([run.path], _scores_of("a", str(path), f"{path}:val"), workspace)
    assert [image.id for image in cells[0].images] == want
    assert [image.id for image in cells[1].images] == want
    assert len(cells[2].images) == 1


def test_the_worst_the_median_and_the_best_slice_are_drawn(trained, workspace, fast) -> None:
    run, drawn = trained(fast()), []

    def draw(panels: Sequence[Panel]) -> bytes:
        drawn.append(panels)
        return b"picture %d" % len(drawn)

    cells = evaluate([run.path], _scores_of("a:train", str(workspace.datasets / "b")), workspace, draw=draw)
    assert len(drawn) == 2
    names = sorted(p.name for p in (run.path / "figures").iterdir())
    assert len(names) == 2
    assert "a-train.png" in names
    assert all(name.endswith(".png") and not name.startswith((".", "-")) for name in names)
    assert (run.path / "figures/a-train.png").read_bytes() == b"picture 1"
    dataset = open_dataset(workspace, "a:train")
    ordered = sorted(cells[0].images, key=lambda image: image.counts.iou)
    pairs = _predictions(run, workspace, "a:train")
    assert [panel[3].split(",")[0] for panel in drawn[0]] == ["worst", "median", "best"]
    for panel, image in zip(drawn[0], (ordered[0], ordered[3], ordered[6]), strict=True):
        pixels, mask, prediction, title = panel
        assert image.id in title
        assert f"{image.counts.iou:.2f}" in title
        sample = next(s for s in dataset.samples if s.id == image.id)
        np.testing.assert_array_equal(pixels, read_image(dataset.image_path(sample)))
        np.testing.assert_array_equal(prediction, pairs[image.id][0])
        np.testing.assert_array_equal(mask, pairs[image.id][1])


def test_slices_without_a_mask_are_left_out(trained, workspace, fast) -> None:
    run, dataset = trained(fast()), open_dataset(workspace, "b")
    first = next(s for s in dataset.samples if s.split == "test")
    samples = tuple(replace(s, mask=None, mask_sha256=None) if s is first else s for s in dataset.samples)
    save_dataset(replace(dataset, samples=samples))
    (cell,) = evaluate([run.path], _scores_of("b"), workspace)
    assert len(cell.images) == 1
    assert cell.images[0].id != first.id
    samples = tuple(replace(s, mask=None, mask_sha256=None) for s in dataset.samples)
    save_dataset(replace(dataset, samples=samples))
    with pytest.raises(UsageError, match="no annotated slices"):
        evaluate([run.path], _scores_of("b"), workspace)


def test_misuse_leaves_the_metrics_as_they_were(trained, workspace, fast) -> None:
    run = trained(fast())
    before = run.metrics
    for config, kind in (
        (_scores_of(), UsageError),
        (_scores_of("a", "nothing"), MissingError),
        (_scores_of("a:nonsense"), UsageError),
    ):
        with pytest.raises(kind):
            evaluate([run.path], config, workspace)
    run.set_state("running")
    with pytest.raises(UsageError, match="not finished"):
        evaluate([run.path], _scores_of("a"), workspace)
    assert run.metrics == before


def test_the_full_scores_are_those_of_the_predictions(trained, workspace, fast) -> None:
    run = trained(fast())
    (cell,) = evaluate([run.path], _scores_of("a", metrics="full", smallest=3, tolerance=1), workspace)
    pairs = list(_predictions(run, workspace, "a:test").values())
    outlines = [boundary_score(p, m, tolerance=1) for p, m in pairs]
    assert cell.scores["boundary_f1"].value == pytest.approx(sum(outlines[1:], start=outlines[0]).f1)
    objects = [
        match_instances(label_instances(m, minimum=3), label_instances(p, minimum=3)).counts()
        for p, m in pairs
    ]
    assert cell.scores["pq"].value == pytest.approx(float(panoptic(np.sum(objects, axis=0))["pq"]))
    for image, outline, table in zip(cell.images, outlines, objects, strict=True):
        assert image.extra["boundary_f1"] == pytest.approx(outline.f1)
        assert image.extra["objects_matched"] == table[1]
    rows = list(csv.DictReader((run.path / "evaluation/a-test-slices.csv").open()))
    assert [row["id"] for row in rows] == [image.id for image in cell.images]
    assert float(rows[0]["boundary_f1"]) == pytest.approx(outlines[0].f1)
    failures = list(csv.DictReader((run.path / "evaluation/a-test-failures.csv").open()))
    kinds = [row["kind"] for row in failures]
    assert (kinds.count("missed"), kinds.count("false")) == tuple(np.sum(objects, axis=0)[[3, 2]])
    dataset = open_dataset(workspace, "a:test")
    for row in failures:  # the centre is inside of the object's image, and its area is that of its pixels
        assert row["image"] in {s.id for s in dataset.samples}
        assert 0 <= float(row["row"]) < 96
        assert int(row["area_px"]) >= 3


def test_a_run_is_scored_once_unless_something_changed(trained, workspace, fast, monkeypatch) -> None:
    run = trained(fast())
    scored = []
    monkeypatch.setattr(evaluation, "measure", lambda *a, **k: (scored.append(k["id"]), measure(*a, **k))[1])
    first = evaluate([run.path], _scores_of("a"), workspace)
    n = len(scored)
    assert n == 2
    assert evaluate([run.path], _scores_of("a"), workspace) == first
    assert len(scored) == n
    assert evaluate([run.path], _scores_of("a"), workspace, again=True) == first
    assert len(scored) == 2 * n
    evaluate([run.path], _scores_of("a", metrics="full"), workspace)
    assert len(scored) == 3 * n
    dataset = open_dataset(workspace, "a")
    changed = tuple(replace(s, pixel_size_nm=7.0) for s in dataset.samples)
    save_dataset(replace(dataset, samples=changed))
    evaluate([run.path], _scores_of("a", metrics="full"), workspace)
    assert len(scored) == 4 * n


def test_the_threshold_comes_from_validation_slices_alone(trained, workspace, fast) -> None:
    run = trained(fast())
    (cell,) = evaluate([run.path], _scores_of("a", threshold="validation"), workspace)
    segmenter, dataset = load_run(run.path, workspace), open_dataset(workspace, "a:val")
    slices = segmenter.slices(dataset, workspace)
    total = ProbabilityHistogram.empty()
    for i, sample in enumerate(dataset.samples):
        total += probability_histogram(slices.probability(i), read_mask(dataset.mask_path(sample)))
    assert cell.threshold == best_threshold(total)
    assert cell.chosen_on == "1 validation slices of a"
    assert f"above {cell.threshold:g} (chosen on 1 validation" in cell.to_json()["protocol"]
    # Scores do follow the threshold …
    (given,) = evaluate([run.path], _scores_of("a", threshold=cell.threshold), workspace)
    assert given.iou == cell.iou
    assert given.chosen_on is None
    # … and test slices can't move it: with all their masks inverted it is the same.
    whole = open_dataset(workspace, "a")
    for sample in whole.split("test").samples:
        path = whole.mask_path(sample)
        Image.fromarray((~read_mask(path)).astype(np.uint8) * 255).save(path)
    config = _scores_of("a", threshold="validation")
    (other,) = evaluate([run.path], config, workspace, again=True)
    assert other.threshold == cell.threshold
    assert other.iou.value != cell.iou.value
    assert set(run.metrics["eval"]) >= {"a:test (threshold validation)"}


def test_a_threshold_is_not_chosen_where_it_is_scored_nor_on_other_data(trained, workspace, fast) -> None:
    run = trained(fast())
    for reference in ("a:val", "a:val,test"):
        with pytest.raises(UsageError, match="chosen on slices that are scored"):
            evaluate([run.path], _scores_of(reference, threshold="validation"), workspace)
    dataset = open_dataset(workspace, "a")
    moved = tuple(
        replace(s, split={"val": "train", "train": "val"}.get(s.split, s.split)) for s in dataset.samples
    )
    save_dataset(replace(dataset, samples=moved))
    with pytest.raises(UsageError, match="data changed"):
        evaluate([run.path], _scores_of("b", threshold="validation"), workspace)
    assert "eval" not in run.metrics


def test_averaging_over_turns_is_that_of_the_predictions(trained, workspace, fast) -> None:
    run = trained(fast())
    (plain,) = evaluate([run.path], _scores_of("a"), workspace)
    (turned,) = evaluate([run.path], _scores_of("a", tta="flips"), workspace)
    segmenter, dataset = load_run(run.path, workspace), open_dataset(workspace, "a:test")
    pairs = []
    for sample in dataset.samples:
        image = read_image(dataset.image_path(sample))
        views = [
            segmenter.predict(np.ascontiguousarray(image[flip]))[flip]
            for flip in (np.s_[:, :], np.s_[::-1], np.s_[:, ::-1], np.s_[::-1, ::-1])
        ]
        pairs.append((np.mean(views, axis=0) > 0.5, read_mask(dataset.mask_path(sample))))
    assert turned.iou.value == pytest.approx(_jaccard(pairs), abs=1e-4)
    assert set(run.metrics["eval"]) == {"a:test", "a:test (tta flips)"}
    assert "4 turned images" in turned.protocol
    assert plain.protocol == PROTOCOL


def test_a_run_by_the_paper_is_scored_as_there_beside_the_native_score(workspace, monkeypatch) -> None:
    monkeypatch.setattr(recipe, "_LONG_EDGE", 111)  # the real one takes minutes
    config = TrainConfig(
        data=("b",), backbone="timm:test_vit", untrained=True, device="cpu", protocol="paper", steps=1,
        evaluate_every=1, early_stop=1,
    )  # fmt: skip
    run = train(config, workspace)
    (cell,) = evaluate([run.path], _scores_of("b"), workspace)
    segmenter, dataset = load_run(run.path, workspace), open_dataset(workspace, "b:test")
    slices, pairs = segmenter.slices(dataset, workspace), []
    for i, sample in enumerate(dataset.samples):
        logits, _ = slices.input_logits(i)
        mask = Image.fromarray(read_mask(dataset.mask_path(sample)))
        small = np.asarray(mask.resize((96, 96), Image.Resampling.NEAREST))
        pairs.append((logits[0].argmax(dim=0).numpy() == 1, small))
    assert cell.scores["iou_resized"].value == pytest.approx(_jaccard(pairs), abs=1e-6)
    counts = [image.counts for image in cell.images]
    assert sum(c.tp + c.fp + c.fn + c.tn for c in counts) == 2 * 120 * 120
    assert cell.scores["iou_resized"].n == 2
