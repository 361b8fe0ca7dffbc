"""However a training is stopped, in every way of training, it ends with the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emvfm.segmentation.batches import ImageCrops, TokenCrops
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.history import read_steps
from emvfm.segmentation.runs import RunFolder
from emvfm.segmentation.training import train
from emvfm.workspace import Workspace

UNET = {"backbone": "unet", "untrained": False, "layers": None, "unet_width": 4, "unet_depth": 2}
MODES: dict[str, dict[str, Any]] = {
    "unet": UNET,
    "unet, warped, foreground": {**UNET, "warp": 1.0, "sampling": "foreground", "foreground_crops": 0.5},
    "full": {"full": True, "full_lr": 1e-3},
    "moving average": {"ema": 0.9, "sampling": "foreground"},
    "LoRA, moving average, accumulated": {"lora": True, "ema": 0.9, "accumulate": 3, "lora_dropout": 0.2},
    "early stop": {"early_stop": 1, "evaluate_every": 2, "steps": 12, "lr": 0.5, "data": ("a", "b")},
    "fused": {"fuse": "shift", "views": 2},
    "pixels beside tokens, warped": {"head": "unet", "warp": 0.5, "token_dropout": 0.5},
    "LoRA, fused": {"lora": True, "fuse": "scale", "steps": 5},
    "whole slices, by the loss": {
        "crop": 0,
        "validation": "random",
        "select": "loss",
        "flips": False,
        "schedule": "constant",
        "clip": 0.0,
        "class_weights": (1.0, 5.0),
        "loss": "ce+dice",
    },
    "half precision": {**UNET, "amp": True},
}


def _bytes(run: RunFolder) -> dict[str, bytes]:
    files = sorted(run.checkpoints.rglob("*.safetensors"))
    return {str(file.relative_to(run.path)): file.read_bytes() for file in files}


def _story(run: RunFolder) -> tuple[list[Any], list[Any]]:
    clocks = ("seconds", "images_per_second")
    rows = [{key: value for key, value in row.items() if key not in clocks} for row in run.history()]
    return rows, [(s.step, s.epoch, s.loss, s.lr) for s in read_steps(run.steps_path)]


@pytest.fixture
def interrupt_at(monkeypatch) -> Callable[..., None]:
    """Interrupt when a batch is drawn for the n-th time, counted over all trainings of the test."""

    def arrange(*calls: int) -> None:
        seen = [0]
        for kind in (TokenCrops, ImageCrops):
            draw = kind.batch

            def batch(self: Any, picks: Any, rng: Any, draw: Any = draw) -> Any:
                seen[0] += 1
                if seen[0] in calls:
                    raise KeyboardInterrupt
                return draw(self, picks, rng)

            monkeypatch.setattr(kind, "batch", batch)

    return arrange


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupted_training_ends_with_the_same_bytes(
    workspace, whole, fast, interrupt_at, mode: str
) -> None:
    config = fast(**MODES[mode])
    expected = whole(config)
    interrupt_at(2, 6)
    interruptions = 0
    while True:
        try:
            run = train(config, workspace)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions == 2
    assert _bytes(run) == _bytes(expected)
    assert _bytes(run)
    assert _story(run) == _story(expected)
    assert run.metrics["train"]["best_step"] == expected.metrics["train"]["best_step"]
    assert run.metrics["train"]["steps"] == expected.metrics["train"]["steps"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["unet, warped, foreground", "full"])
def test_a_killed_training_ends_with_the_same_bytes(
    workspace, whole, fast, kill_in_sixth_batch, mode: str
) -> None:
    config: TrainConfig = fast(**MODES[mode])
    expected = whole(config)
    kill_in_sixth_batch("ImageCrops", expected, workspace)
    run = train(config, Workspace(workspace.root))
    assert run.path.name == expected.path.name
    assert _bytes(run) == _bytes(expected)
    assert _story(run) == _story(expected)


def test_an_early_stop_stops_early_and_is_a_finished_run(workspace, whole, fast) -> None:
    run = whole(fast(**MODES["early stop"]))
    metrics, rows = run.metrics["train"], run.history()
    assert run.finished
    assert metrics["steps"] == rows[-1]["step"]
    scores = [row["val_iou"] for row in rows]
    if metrics["steps"] < 12:
        assert scores[-1] <= max(scores[:-1])


def test_steps_beyond_a_checkpoint_are_written_once(tmp_path: Path) -> None:
    from emvfm.segmentation.history import Step, StepLog

    path = tmp_path / "steps.csv"
    with StepLog(path, 0) as log:
        for n in range(1, 6):
            log.add(Step(n, n / 2, 1 / n, 1e-3, float(n), 4.0))
    with path.open("a") as file:
        file.write("6,3,0.1")  # torn by a kill
    with StepLog(path, 3) as log:
        assert [s.step for s in read_steps(path)] == [1, 2, 3]
        log.add(Step(4, 2.0, 0.5, 1e-3, 9.0, 4.0))
    assert [(s.step, s.seconds) for s in read_steps(path)] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 9.0)]
    path.write_text("step,loss\n1,2\n")
    from emvfm.errors import CorruptError

    with pytest.raises(CorruptError, match="steps"):
        read_steps(path)
