"""Images of the kind a run was trained on pass, others are flagged, and the reference is made once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.images import read_image
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.errors import CorruptError
from emvfm.segmentation.checkpoints import Segmenter, load_run
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.prediction import Windows
from emvfm.segmentation.prediction_config import PredictConfig
from emvfm.segmentation.training import train
from emvfm.studies.novelty import Reference, novelty_of
from emvfm.workspace import Workspace

CONFIG = PredictConfig(tile=64, overlap=16)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Segmenter]:
    root = tmp_path_factory.mktemp("novelty")
    write_phantom(root / "a", "a", 24, 96, seed=3)
    workspace = Workspace(root / "workspace")
    compose("a", [root / "a"], workspace, ComposeOptions(link="copy"))
    config = TrainConfig(
        data=("a",), backbone="timm:test_vit", untrained=True, init="kaiming", layers=(0, 1), precision="float32",
        device="cpu", head="linear", steps=2, batch=2, crop=48, warmup=1, evaluate_every=2, views=1,
    )  # fmt: skip
    run = train(config, workspace)
    return workspace, load_run(run.path, workspace)


def _embeddings(segmenter: Segmenter, image: np.ndarray) -> np.ndarray:
    pixels = segmenter.preprocess.prepare(image).pixels
    corners = [(y, x) for y in (0, 32) for x in (0, 32)]
    makers = [lambda y=y, x=x: pixels[:, y : y + 64, x : x + 64] for y, x in corners]
    return np.stack([answer.embedding for answer in Windows(segmenter, embed=True)(makers)])


def test_a_test_slice_passes_and_another_kind_of_image_does_not(place) -> None:
    workspace, segmenter = place
    judge, remark = novelty_of(segmenter, CONFIG, workspace)
    assert judge is not None
    assert remark == ""
    dataset = judge._datasets[0]
    own = judge.verdict(
        judge.scores(_embeddings(segmenter, read_image(dataset.image_path(dataset.samples[3]))))
    )
    stripes = np.tile(np.array([[0] * 4 + [255] * 4], np.uint8), (96, 12))
    other = judge.verdict(judge.scores(_embeddings(segmenter, stripes)))
    assert not own.flagged
    assert other.flagged
    assert other.score > other.limit >= own.score
    assert other.p_value == pytest.approx(1 / (other.blocks + 1))
    assert other.p_value < own.p_value <= 1
    assert f"{other.p_value:.2g}" in other.sentence
    assert other.to_json()["n"] == 4


def test_the_embedding_is_the_mean_of_the_last_layers_tokens_of_the_same_pass(place) -> None:
    _, segmenter = place
    image = np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)
    found = _embeddings(segmenter, image)
    pixels = segmenter.preprocess.prepare(image).pixels[None, :, 32:, 32:]
    import torch

    patches = segmenter.model.backbone.tokens(torch.from_numpy(pixels), [1]).patches
    np.testing.assert_allclose(found[3], patches[0, 0].mean((0, 1)).detach().numpy(), atol=1e-5)


def test_the_reference_is_made_once_and_kept_with_the_run(place, monkeypatch) -> None:
    workspace, segmenter = place
    first = novelty_of(segmenter, CONFIG, workspace)[0]
    assert first is not None
    made = first.reference
    assert first.path.is_file()
    assert first.path.is_relative_to(segmenter.run.path)
    monkeypatch.setattr(Windows, "_compute", None)
    again = novelty_of(segmenter, CONFIG, workspace)[0]
    np.testing.assert_array_equal(again.reference.embeddings, made.embeddings)
    np.testing.assert_array_equal(again.reference.blocks, made.blocks)
    other = novelty_of(segmenter, replace(CONFIG, tile=32), workspace)[0]
    assert other.path != first.path


def test_a_damaged_reference_is_told(place) -> None:
    workspace, segmenter = place
    judge = novelty_of(segmenter, replace(CONFIG, tile=80), workspace)[0]
    judge.path.parent.mkdir(exist_ok=True)
    judge.path.write_bytes(b"nothing")
    with pytest.raises(CorruptError, match="remove it"):
        _ = novelty_of(segmenter, replace(CONFIG, tile=80), workspace)[0].reference
    judge.path.unlink()


def test_what_cannot_be_judged_says_why(place, tmp_path: Path) -> None:
    workspace, segmenter = place
    judge, remark = novelty_of(segmenter, CONFIG, Workspace(tmp_path))
    assert judge is None
    assert "not at hand" in remark
    shutil.copytree(workspace.datasets, tmp_path / "datasets")
    dataset = open_dataset(Workspace(tmp_path), "a:train")
    dataset.image_path(dataset.samples[2]).unlink()
    assert "not at hand" in novelty_of(segmenter, CONFIG, Workspace(tmp_path))[1]
    unet = replace(segmenter, model=replace(segmenter.model, backbone=None))
    assert "U-Net" in novelty_of(unet, CONFIG, workspace)[1]


def test_new_blocks_of_the_same_kind_are_flagged_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    flagged, promised = [], 0.0
    for _ in range(60):
        centres = rng.normal(size=(24, 8))
        blocks = np.repeat(np.arange(24), 4)
        windows = centres[blocks] + 0.3 * rng.normal(size=(96, 8))
        reference = Reference(windows.astype(np.float32), blocks)
        promised = reference.calibration.promised
        new = rng.normal(size=(20, 8))[:, None] + 0.3 * rng.normal(size=(20, 4, 8))
        flagged += [reference.judge(reference.detector.score(image)).flagged for image in new]
    assert promised == 0.05
    assert np.mean(flagged) < 0.08
    assert np.mean(flagged) > 0.005


def test_an_image_file_of_another_kind_is_flagged_through_the_whole_way(place, tmp_path: Path) -> None:
    from emvfm.segmentation.prediction_job import predict

    workspace, segmenter = place
    judge = novelty_of(segmenter, CONFIG, workspace)[0]
    stripes = np.tile(np.array([[0] * 4 + [255] * 4], np.uint8), (96, 12))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    found = predict(
        segmenter, str(tmp_path / "stripes.png"), tmp_path / "o.tif", CONFIG, workspace, judge=judge
    )
    (image,) = found.record["images"]
    assert image["ood"]["flagged"]
    want = judge.verdict(judge.scores(_embeddings(segmenter, stripes)))
    assert image["ood"]["n"] == want.n == 4
    assert image["ood"]["score"] == pytest.approx(want.score, rel=1e-4)
