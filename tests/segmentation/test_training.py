"""Training is repeatable to the bit, goes on to the same weights however it was stopped, and keeps the best."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emvfm.backbones.backbone import Backbone
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.images import read_image, write_image
from emvfm.datasets.manifest import Dataset, load_dataset, save_dataset
from emvfm.datasets.masks import read_mask
from emvfm.datasets.options import ComposeOptions
from emvfm.errors import CorruptError, EmvfmError, MissingError, RefusedError, UsageError
from emvfm.segmentation import model, state, training
from emvfm.segmentation.batches import ImageCrops, TokenCrops
from emvfm.segmentation.checkpoints import load_run
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.metrics import count, pooled
from emvfm.segmentation.recipe import resolved
from emvfm.segmentation.runs import RunFolder
from emvfm.segmentation.training import train
from emvfm.workspace import Workspace


def _weights(run: RunFolder) -> dict[str, torch.Tensor]:
    """Return every tensor of the run's result, head and adapter."""
    files = sorted(run.checkpoints.rglob("*.safetensors"))
    return {f"{file.name}:{name}": tensor for file in files for name, tensor in load_file(file).items()}


def _story(run: RunFolder) -> list[dict[str, Any]]:
    clocks = ("seconds", "images_per_second")
    return [{key: value for key, value in row.items() if key not in clocks} for row in run.history()]


def _assert_same_weights(run: RunFolder, other: RunFolder) -> None:
    first, second = _weights(run), _weights(other)
    assert list(first) == list(second)
    assert first
    for name in first:
        assert torch.equal(first[name], second[name]), name
    scores, others = ([(row["step"], row["val_iou"]) for row in r.history()] for r in (run, other))
    assert scores == others
    assert run.metrics["train"]["best_step"] == other.metrics["train"]["best_step"]


def _assert_same(run: RunFolder, other: RunFolder) -> None:
    _assert_same_weights(run, other)
    assert _story(run) == _story(other)


@pytest.fixture
def elsewhere(workspace, tmp_path) -> Callable[[], Workspace]:
    """Make more workspaces with the same data, so that the same run can be trained again."""

    def make() -> Workspace:
        copy = Workspace(tmp_path / f"elsewhere{len(list(tmp_path.iterdir()))}")
        shutil.copytree(workspace.datasets, copy.datasets)
        return copy

    return make


@pytest.fixture
def at_batch(monkeypatch) -> Callable[..., None]:
    """Call a function when a batch is drawn for the n-th time, counted over all trainings of the test."""

    def arrange(act: Callable[[], None], *calls: int) -> None:
        seen = [0]
        for kind in (TokenCrops, ImageCrops):
            draw = kind.batch

            def batch(self: Any, picks: Any, rng: Any, draw: Any = draw) -> Any:
                seen[0] += 1
                if seen[0] in calls:
                    act()
                return draw(self, picks, rng)

            monkeypatch.setattr(kind, "batch", batch)

    return arrange


def _interrupt() -> None:
    raise KeyboardInterrupt


def _to_the_end(config: TrainConfig, workspace: Workspace) -> tuple[RunFolder, int]:
    """Repeat an interrupted training until it is done; return how often it was interrupted, too."""
    for interruptions in range(10):
        try:
            return train(config, workspace), interruptions
        except KeyboardInterrupt:
            (folder,) = workspace.runs.glob("*")
            assert not RunFolder(folder).finished
    raise AssertionError("never done")


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({}, (1,)),
        ({}, (3, 4, 9)),
        ({}, (7, 8)),
        ({"data": ("a", "b"), "sampling": "balanced"}, (5, 8)),
        ({"lora": True, "lora_dropout": 0.3}, (5, 8)),
    ],
)
def test_an_interrupted_training_ends_with_the_same_weights(
    workspace, whole, fast, at_batch, changes: dict[str, Any], calls: Sequence[int]
) -> None:
    config = fast(**changes)
    expected = whole(config)
    at_batch(_interrupt, *calls)
    run, interruptions = _to_the_end(config, workspace)
    assert interruptions == len(calls)
    _assert_same(run, expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_between_steps_and_loses_none(
    workspace, whole, fast, at_batch, number: signal.Signals
) -> None:
    config, before = fast(steps=8), signal.getsignal(number)
    expected = whole(config)
    at_batch(lambda: os.kill(os.getpid(), number), 2, 5)
    drawn = [0]
    at_batch(lambda: drawn.__setitem__(0, drawn[0] + 1), *range(100))
    run, interruptions = _to_the_end(config, workspace)
    assert interruptions == 2
    assert drawn[0] == 8  # no step was done twice
    assert signal.getsignal(number) is before
    _assert_same_weights(run, expected)


def test_a_signal_between_validations_leaves_the_losses_as_they_were(
    workspace, whole, fast, at_batch
) -> None:
    expected = whole(fast())
    at_batch(lambda: os.kill(os.getpid(), signal.SIGINT), 5)
    run, _ = _to_the_end(fast(), workspace)
    assert _story(run) == _story(expected)


def test_a_crash_between_the_best_head_and_the_checkpoint_changes_nothing(
    workspace, whole, fast, monkeypatch
) -> None:
    config, write, seen = fast(), state.write_bytes, []
    expected = whole(config)

    def write_until_the_second_checkpoint(path: Path, data: bytes) -> Path:
        if path.name == "state.pt":
            seen.append(path)
            if len(seen) == 2:
                raise KeyboardInterrupt
        return write(path, data)

    monkeypatch.setattr(state, "write_bytes", write_until_the_second_checkpoint)
    run, interruptions = _to_the_end(config, workspace)
    assert interruptions == 1
    _assert_same(run, expected)


@pytest.mark.slow
def test_a_killed_process_leaves_a_run_that_goes_on_to_the_same_weights(
    workspace, whole, fast, kill_in_sixth_batch
) -> None:
    config = fast()
    expected = whole(config)
    kill_in_sixth_batch("TokenCrops", expected, workspace)
    (folder,) = workspace.runs.glob("*")
    assert folder.name == expected.path.name
    assert [row["step"] for row in RunFolder(folder).history()] == [3]
    assert not RunFolder(folder).finished
    _assert_same(train(config, workspace), expected)


def test_the_seed_alone_decides_the_weights(workspace, elsewhere, fast) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the state that careless code would read
    first = train(fast(), workspace)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    state = torch.get_rng_state()
    _assert_same(train(fast(), elsewhere()), first)
    assert torch.equal(torch.get_rng_state(), state)
    other = train(fast(seed=1), workspace)
    assert other.path != first.path
    ours, theirs = _weights(first), _weights(other)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run_is_returned_untouched(workspace, fast, at_batch) -> None:
    def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}

    run = train(fast(), workspace)
    before = snapshot(run.path)
    at_batch(_interrupt, *range(100))
    for same in (fast(), fast(device="auto"), fast(lora_rank=7, lora_lr=1.0, warm_start=True)):
        assert train(same, workspace).path == run.path
    assert train(fast(data=("a:train,val",)), workspace).path == run.path
    assert snapshot(run.path) == before
    assert not (run.checkpoints / "state.pt").exists()
    with pytest.raises(KeyboardInterrupt):
        train(fast(lr=1e-3), workspace)


def test_other_bytes_of_data_are_another_run(workspace, fast) -> None:
    first = train(fast(), workspace)
    dataset = open_dataset(workspace, "a")
    sample = next(s for s in dataset.samples if s.split == "train")
    pixels = read_image(dataset.image_path(sample)).copy()
    pixels[0, 0] ^= 1
    write_image(dataset.image_path(sample), pixels)
    with pytest.raises(
        CorruptError
    ):  # the manifest still names the old bytes, but the tokens are in the store
        train(fast(seed=9), _without_store(workspace))
    from emvfm.provenance import sha256_file

    digest = sha256_file(dataset.image_path(sample))
    samples = tuple(replace(s, image_sha256=digest) if s is sample else s for s in dataset.samples)
    save_dataset(replace(dataset, samples=samples))
    second = train(fast(), workspace)
    assert second.path != first.path


def _without_store(workspace: Workspace) -> Workspace:
    shutil.rmtree(workspace.store)
    return workspace


def _change(workspace: Workspace, change: Callable[[Dataset], Dataset]) -> None:
    save_dataset(change(load_dataset(workspace.datasets / "a")))


@pytest.mark.parametrize("verdict", [None, "refused", "forced"])
def test_data_without_a_passed_audit_is_refused_unless_forced(workspace, fast, verdict) -> None:
    _change(workspace, lambda d: replace(d, meta={**d.meta, "audit": verdict}))
    with pytest.raises(RefusedError, match="audit") as caught:
        train(fast(), workspace)
    assert caught.value.exit_code == 4
    assert not workspace.runs.exists()
    run = train(fast(), workspace, force=True)
    assert run.provenance["data"][0]["audit"] == verdict
    with pytest.raises(RefusedError):  # being trained already is no pardon
        train(fast(), workspace)


def test_without_validation_slices_the_last_step_is_kept(workspace, fast, monkeypatch) -> None:
    heads = []
    keep = training._keep
    monkeypatch.setattr(training, "_keep", lambda run, head, *rest: (heads.append(1), keep(run, head, *rest)))
    config = fast(data=("a:train",))
    run = train(config, workspace)
    metrics = run.metrics["train"]
    assert (metrics["val_slices"], metrics["best_val_iou"], metrics["best_step"]) == (0, None, config.steps)
    assert [row["val_iou"] for row in run.history()] == [None] * 3
    assert heads == [1]
    assert load_run(run.path, workspace).run.finished


def test_wrongly_paired_data_is_refused(workspace, composed, fast) -> None:
    source = composed.parent.parent / "a"
    compose("shifted", [source], workspace, ComposeOptions(pairing="shift:3", force=True, link="copy"))
    with pytest.raises(RefusedError, match="shifted"):
        train(fast(data=("a", "shifted")), workspace)


def test_training_slices_without_masks_are_a_usage_error(workspace, fast) -> None:
    def without_masks(dataset: Dataset) -> Dataset:
        samples = (
            replace(s, mask=None, mask_sha256=None) if s.split == "train" else s for s in dataset.samples
        )
        return replace(dataset, samples=tuple(samples))

    _change(workspace, without_masks)
    with pytest.raises(UsageError, match="no annotated slices in the train split"):
        train(fast(), workspace)
    assert not workspace.runs.exists()


def test_misuse_is_told_before_anything_is_made(workspace, fast) -> None:
    for config, kind, match in (
        (fast(data=()), UsageError, "no data"),
        (fast(data=("nothing",)), MissingError, "nothing"),
        (fast(adapter="somewhere"), UsageError, "--adapter"),
        (fast(layers=(0, 99)), UsageError, "layers"),
        (fast(input_size="huge"), UsageError, "input size"),
        (fast(backbone="nonsense"), EmvfmError, "nonsense"),
    ):
        with pytest.raises(kind, match=match):
            train(config, workspace)
    assert not workspace.runs.exists()


def test_a_loss_that_is_not_finite_is_one_clear_error(workspace, fast) -> None:
    config = fast(lr=1e30, steps=20)
    for _ in range(2):  # repeating it does not help, and does not pass for a success either
        with pytest.raises(EmvfmError, match="loss is not finite") as caught:
            train(config, workspace)
        assert caught.value.exit_code == 1
        (folder,) = workspace.runs.glob("*")
        assert not RunFolder(folder).finished


def test_a_run_that_is_being_trained_is_left_alone(workspace, whole, fast, at_batch) -> None:
    expected = whole(fast())

    def train_it_as_well() -> None:
        with pytest.raises(UsageError, match="another process trains this run"):
            train(fast(), workspace)

    at_batch(train_it_as_well, 2, 6)
    _assert_same(train(fast(), workspace), expected)


def test_training_in_another_thread_gives_the_same(workspace, whole, fast) -> None:
    results: list[RunFolder] = []
    thread = threading.Thread(target=lambda: results.append(train(fast(), workspace)))
    thread.start()
    thread.join()
    _assert_same(results[0], whole(fast()))


def _damage(kind: str, path: Path) -> None:
    data = path.read_bytes()
    if kind == "another":
        torch.save({"head": {}}, path)
    else:
        path.write_bytes(
            {"empty": b"", "cut": data[: len(data) // 2], "text": b"hello", "hole": data[:-99]}[kind]
        )


@pytest.mark.parametrize(
    "kind",
    ["empty", "cut", "hole", "text", "another"],
)
def test_a_damaged_checkpoint_is_named_and_training_starts_anew_without_it(
    workspace, whole, fast, at_batch, kind: str
) -> None:
    expected = whole(fast())
    at_batch(_interrupt, 5)
    with pytest.raises(KeyboardInterrupt):
        train(fast(), workspace)
    (path,) = workspace.runs.glob("*/checkpoints/state.pt")
    _damage(kind, path)
    with pytest.raises(CorruptError, match=r"state\.pt"):
        train(fast(), workspace)
    path.unlink()
    _assert_same(train(fast(), workspace), expected)


def test_frozen_training_reads_stored_tokens_and_never_runs_the_backbone(
    workspace, whole, fast, monkeypatch
) -> None:
    train(fast(seed=5), workspace)
    expected = whole(fast())

    def tokens(self: Backbone, *_: Any) -> None:
        raise AssertionError("a frozen backbone was run although its tokens are stored")

    monkeypatch.setattr(Backbone, "tokens", tokens)
    _assert_same(train(fast(), workspace), expected)


@pytest.mark.parametrize("lora", [False, True])
def test_the_weights_of_the_backbone_stay_as_they_are(workspace, fast, monkeypatch, lora: bool) -> None:
    load, loaded = model.load_backbone, []

    def load_and_remember(*arguments: Any) -> Backbone:
        backbone = load(*arguments)
        loaded.append((backbone, {k: v.clone() for k, v in backbone.module.state_dict().items()}))
        return backbone

    monkeypatch.setattr(model, "load_backbone", load_and_remember)
    run = train(fast(lora=lora), workspace)
    ((backbone, before),) = loaded
    after = {k.replace(".base_layer", ""): v for k, v in backbone.module.state_dict().items()}
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    assert (len(after) > len(before)) == lora
    assert (run.checkpoints / "adapter").is_dir() == lora


def test_lora_moves_every_tensor_of_the_adapter(workspace, fast) -> None:
    short, long = (train(fast(lora=True, layers=None, steps=n, evaluate_every=n), workspace) for n in (1, 4))
    tensors = {k: v for k, v in _weights(long).items() if k.startswith("adapter")}
    assert len(tensors) >= 8
    assert long.metrics["train"]["adapter_parameters"] == sum(t.numel() for t in tensors.values())
    early = _weights(short)
    for name, tensor in tensors.items():
        assert tensor.abs().max() > 0, name
        assert not torch.equal(tensor, early[name]), name


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora": True, "loss": "dice-background"}, {"data": ("b",), "head": "linear", "input_size": "x0.7"}],
)
def test_the_best_step_is_kept_and_its_score_is_that_of_the_kept_model(
    workspace, fast, changes: dict[str, Any]
) -> None:
    config = fast(steps=11, evaluate_every=2, **changes)
    run = train(config, workspace)
    history, metrics = run.history(), run.metrics["train"]
    assert [row["step"] for row in history] == [2, 4, 6, 8, 10, 11]
    scores = [row["val_iou"] for row in history]
    assert metrics["best_val_iou"] == max(scores)
    assert metrics["best_step"] == history[int(np.argmax(scores))]["step"]
    assert metrics["last_val_iou"] == scores[-1]
    assert len(set(scores)) > 1
    segmenter, dataset = load_run(run.path, workspace), open_dataset(workspace, f"{config.data[0]}:val")
    counts = [
        count(
            segmenter.predict(read_image(dataset.image_path(sample))) > 0.5,
            read_mask(dataset.mask_path(sample)),
        )
        for sample in dataset.samples
    ]
    # Stored tokens are float16, predictions from images float32: a few pixels may fall the other way.
    assert pooled(counts).iou == pytest.approx(max(scores), abs=5e-3)


def test_the_adapter_drops_out_while_it_learns_and_never_while_it_is_judged(
    workspace, fast, monkeypatch
) -> None:
    run_backbone, modes = Backbone.tokens, []

    def tokens(self: Backbone, images: torch.Tensor, layers: Any = None) -> Any:
        if self.adapter is not None:
            modes.append((len(images), any(m.training for m in self.module.modules())))
        return run_backbone(self, images, layers)

    monkeypatch.setattr(Backbone, "tokens", tokens)
    train(fast(lora=True, lora_dropout=0.5, steps=2, batch=3, evaluate_every=1), workspace)
    assert modes.count((3, True)) == 2
    judged = [training for n, training in modes[modes.index((3, True)) :] if n != 3]
    assert len(judged) == 2
    assert not any(judged)


def test_a_warm_start_begins_with_the_head_of_the_frozen_run(workspace, elsewhere, fast, at_batch) -> None:
    rates = {"warm_lr": 1e-12, "lora_lr": 1e-12}
    config = fast(lora=True, warm_start=True, steps=1, head_steps=5, evaluate_every=1, **rates)
    run = train(config, workspace)
    assert {p.name.split("-")[2] for p in workspace.runs.glob("*")} == {"frozen", "lora"}
    (frozen,) = workspace.runs.glob("*-frozen-*")
    head = load_file(frozen / "checkpoints/best.safetensors")
    for name, tensor in load_file(run.checkpoints / "best.safetensors").items():
        torch.testing.assert_close(tensor, head[name], atol=1e-6, rtol=0)
    other = elsewhere()
    train(replace(config, lora=False, steps=5, batch=None), other)
    _assert_same(train(config, other), run)  # whether the frozen run was there or is made on the way
    at_batch(_interrupt, 3)
    third = elsewhere()
    with pytest.raises(KeyboardInterrupt):
        train(config, third)
    _assert_same(train(config, third), run)


def test_the_run_tells_what_it_was_made_of(workspace, fast) -> None:
    config = fast(data=("a", "b"), lora=True)
    run = train(config, workspace)
    assert run.finished
    assert asdict(run.config) == asdict(resolved(config, 14))
    assert [d["name"] for d in run.provenance["data"]] == ["a", "b"]
    assert "untrained" in run.provenance["backbone"]
    assert run.provenance["adaptation"] == "LoRA r2"
    metrics = run.metrics["train"]
    assert (metrics["train_slices"], metrics["val_slices"], metrics["steps"]) == (14, 2, 7)


def test_a_crop_smaller_than_a_patch_is_a_usage_error(workspace, fast) -> None:
    for lora in (False, True):
        with pytest.raises(UsageError, match="crop"):
            train(fast(crop=8, lora=lora), workspace)
