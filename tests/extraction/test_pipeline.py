"""What the store holds is what the model says of each image, computed once, whoever dies or races."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from emvfm.backbones.backbone import Backbone, Tokens
from emvfm.backbones.loading import load_backbone
from emvfm.backbones.lora import inject_lora
from emvfm.backbones.options import LoraOptions
from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.views import View
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset, load_dataset, save_dataset
from emvfm.datasets.masks import read_mask
from emvfm.errors import CorruptError, EmvfmError, MissingError, UsageError
from emvfm.extraction import pipeline
from emvfm.extraction.config import EmbedConfig
from emvfm.extraction.pipeline import embed_dataset, identity_of, open_embeddings
from emvfm.provenance import sha256_file
from emvfm.store.care import verify
from emvfm.store.store import EmbeddingStore
from emvfm.store.view import Embeddings
from emvfm.workspace import Workspace

MakeDataset = Callable[..., Dataset]
MakeConfig = Callable[..., EmbedConfig]

#: Whole patches, padded ones, two images of one grid but of different size, and colour.
SIZES = [(64, 64), (48, 80), (50, 70), (64, 64), (49, 80), (33, 40, 3)]


def _direct(dataset: Dataset, i: int, backbone: Backbone, options: EmbedConfig) -> Tokens:
    """The tokens of one image, without the store and without a batch."""
    preprocess = Preprocess.for_backbone(backbone.spec, options)
    pixels = preprocess.prepare(read_image(dataset.image_path(dataset.samples[i]))).pixels
    with torch.inference_mode():
        return backbone.tokens(torch.from_numpy(pixels)[None], options.layers)


def _check(found: Embeddings, dataset: Dataset, backbone: Backbone, options: EmbedConfig) -> None:
    """Every sample of `dataset` has its own numbers, and no image has two rows."""
    assert found.samples == dataset.samples
    half = options.dtype == "float16"
    for i in range(len(dataset)):
        tokens = _direct(dataset, i, backbone, options)
        patches = found.patches(i)
        assert patches.dtype == np.dtype(options.dtype)
        expected = tokens.patches[0].numpy()
        np.testing.assert_allclose(
            patches, expected, rtol=1e-3 if half else 1e-5, atol=2e-3 if half else 1e-5
        )
    live = [image for manifest in found.store.finished().values() for image in manifest["images"]]
    assert len(live) == len(set(live))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_stored_tokens_are_the_models(
    vit: Backbone,
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
    dtype: str,
    batch_size: int,
) -> None:
    dataset, options = make_dataset("data", SIZES), make_config(dtype=dtype, batch_size=batch_size)
    found = embed_dataset(dataset, vit, options, workspace)
    _check(found, dataset, vit, options)
    assert found.layers == (4, 1)
    for layer in range(2):
        cls = np.stack([_direct(dataset, i, vit, options).cls[0, layer].numpy() for i in range(len(SIZES))])
        np.testing.assert_allclose(found.image_embeddings("cls", layer), cls, atol=1e-5)


def test_validity_and_foreground_agree_with_a_loop_over_pixels(
    vit: Backbone, make_dataset: MakeDataset, make_config: MakeConfig, workspace: Workspace
) -> None:
    dataset = make_dataset("data", SIZES)
    found = embed_dataset(dataset, vit, make_config(), workspace)
    for i, (height, width, *_) in enumerate(SIZES):
        mask = np.asarray(Image.open(dataset.root / f"masks/s{i:03d}.png")) > 0
        rows, columns = found.grid(i)
        assert (rows, columns) == (-(-height // 16), -(-width // 16))
        for y in range(rows):
            for x in range(columns):
                real = mask[16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
                assert found.valid(i)[y, x] == pytest.approx(real.size / 256)
                assert found.foreground(i)[y, x] == pytest.approx(real.mean(), abs=1e-6)


def test_pooling_leaves_padding_out(
    vit: Backbone, make_dataset: MakeDataset, make_config: MakeConfig, workspace: Workspace
) -> None:
    dataset, options = make_dataset("data", SIZES), make_config()
    found = embed_dataset(dataset, vit, options, workspace).image_embeddings("mean", 1)
    for i, (height, width, *_) in enumerate(SIZES):
        patches = _direct(dataset, i, vit, options).patches[0, 1].numpy()
        pixels = patches.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
        np.testing.assert_allclose(found[i], pixels.mean(axis=(0, 1), dtype=np.float64), atol=1e-5)


# ---------------------------------------------------------------------- nothing is computed twice


def test_more_images_compute_only_themselves(
    vit: Backbone,
    computed: list[int],
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
) -> None:
    whole, options = make_dataset("data", [(32, 32)] * 5 + [(32, 48)] * 2), make_config(batch_size=1)
    embed_dataset(whole.where(lambda s: int(s.id[1:]) in (0, 2, 5)), vit, options, workspace)
    assert sum(computed) == 3
    embed_dataset(whole, vit, options, workspace)
    assert sum(computed) == 7
    found = embed_dataset(whole, vit, options, workspace)
    assert sum(computed) == 7
    _check(found, whole, vit, options)


def test_one_changed_byte_is_one_image_to_compute(
    vit: Backbone,
    computed: list[int],
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
) -> None:
    dataset, options = make_dataset("data", [(32, 32)] * 4), make_config()
    embed_dataset(dataset, vit, options, workspace)
    path = dataset.image_path(dataset.samples[2])
    path.write_bytes(path.read_bytes() + b"\0")  # after the end of the PNG: the same pixels
    changed = replace(dataset.samples[2], image_sha256=sha256_file(path))
    other = replace(dataset, samples=(*dataset.samples[:2], changed, dataset.samples[3]))
    before = sum(computed)
    found = embed_dataset(other, vit, options, workspace)
    assert sum(computed) == before + 1
    _check(found, other, vit, options)


def _renamed(dataset: Dataset, folder: Path) -> Dataset:
    """Copy a dataset with other file names and sample names, and with its rows in reverse."""
    samples = []
    for n, sample in enumerate(reversed(dataset.samples)):
        assert sample.mask is not None
        moved = replace(sample, id=f"r{n}", image=f"a/{n}.png", mask=f"b/{n}.png")
        for old, new in ((sample.image, moved.image), (sample.mask, moved.mask)):
            (folder / str(new)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(dataset.root / old, folder / str(new))
        samples.append(moved)
    return save_dataset(Dataset("renamed", folder, tuple(samples)))


def test_other_names_another_folder_and_another_order_compute_nothing(
    vit: Backbone,
    computed: list[int],
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
    tmp_path: Path,
) -> None:
    dataset, options = make_dataset("data", [(32, 32), (32, 48), (40, 32), (32, 32)]), make_config()
    one = embed_dataset(dataset, vit, options, workspace)
    shutil.move(dataset.root, tmp_path / "moved")
    assert len(embed_dataset(load_dataset(tmp_path / "moved"), vit, options, workspace)) == 4
    renamed = _renamed(load_dataset(tmp_path / "moved"), tmp_path / "renamed")
    other = embed_dataset(renamed, vit, options, workspace)
    assert sum(computed) == 4
    for i in range(4):
        np.testing.assert_array_equal(other.patches(3 - i), one.patches(i))
        np.testing.assert_array_equal(other.foreground(3 - i), one.foreground(i))


def test_an_image_that_occurs_twice_is_computed_once(
    vit: Backbone,
    computed: list[int],
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
) -> None:
    dataset = make_dataset("data", [(32, 32)] * 3)
    again = replace(dataset.samples[1], id="again", split="test")
    dataset = replace(dataset, samples=(*dataset.samples, again))
    found = embed_dataset(dataset, vit, make_config(), workspace)
    assert sum(computed) == 3
    np.testing.assert_array_equal(found.patches(3), found.patches(1))


def test_what_decides_the_numbers_decides_the_store(
    vit: Backbone, make_config: MakeConfig, workspace: Workspace
) -> None:
    plain = identity_of(vit, make_config())
    adapted = load_backbone(make_config(), workspace)
    inject_lora(adapted, LoraOptions(lora_rank=2))
    adapter = identity_of(adapted, make_config())
    with torch.no_grad():
        next(p for n, p in adapted.module.named_parameters() if "lora_B" in n).add_(0.1)
    others = [
        adapter,
        identity_of(adapted, make_config()),
        identity_of(load_backbone(make_config(init_seed=1), workspace), make_config()),
        identity_of(load_backbone(make_config(init="kaiming"), workspace), make_config()),
        identity_of(load_backbone(make_config(precision="bfloat16"), workspace), make_config()),
        identity_of(vit, make_config(input_size="x0.5")),
        identity_of(vit, make_config(layers=(1, 4))),
        identity_of(vit, make_config(layers=None)),
        identity_of(vit, make_config(dtype="float16")),
        identity_of(vit, make_config(), View(turns=1)),
    ]
    assert len({plain.key} | {o.key for o in others}) == len(others) + 1
    for same in (make_config(batch_size=7), make_config(input_size="native"), make_config(device="auto")):
        assert identity_of(vit, same).key == plain.key
    assert identity_of(load_backbone(make_config(), workspace), make_config()).key == plain.key


# ---------------------------------------------------------------------- what can't be stored or read


def _scaled(vit: Backbone, factor: float) -> Callable[..., Tokens]:
    tokens = vit.tokens

    def scaled(*arguments: Any) -> Tokens:
        found = tokens(*arguments)
        return replace(found, patches=found.patches * factor)

    return scaled


def test_a_value_beyond_float16_is_refused_and_float32_takes_it(
    vit: Backbone,
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = make_dataset("data", [(32, 32)] * 2)
    with monkeypatch.context() as patched:
        patched.setattr(vit, "tokens", _scaled(vit, 1e6))
        with pytest.raises(EmvfmError, match=r"do not fit float16.*float32"):
            embed_dataset(dataset, vit, make_config(dtype="float16"), workspace)
        with pytest.raises(MissingError, match="2 images of made-up"):
            open_embeddings(dataset, vit, make_config(dtype="float16"), workspace)
        large = embed_dataset(dataset, vit, make_config(dtype="float32"), workspace)
    assert np.abs(large.patches(0)).max() > np.finfo(np.float16).max
    options = make_config(dtype="float16")
    _check(embed_dataset(dataset, vit, options, workspace), dataset, vit, options)


def test_an_image_that_is_not_the_manifests_is_refused(
    vit: Backbone, make_dataset: MakeDataset, make_config: MakeConfig, workspace: Workspace
) -> None:
    dataset = make_dataset("data", [(32, 32)] * 3)
    other = make_dataset("other", [(32, 32)] * 3, seed=1)
    path = dataset.image_path(dataset.samples[1])
    kept = path.read_bytes()
    shutil.copyfile(other.image_path(other.samples[1]), path)
    with pytest.raises(CorruptError, match=r"s001\.png.*not the one the manifest names"):
        embed_dataset(dataset, vit, make_config(), workspace)
    path.unlink()
    with pytest.raises(CorruptError, match=r"s001\.png"):
        embed_dataset(dataset, vit, make_config(), workspace)
    path.write_bytes(kept)
    _check(embed_dataset(dataset, vit, make_config(), workspace), dataset, vit, make_config())


def test_a_mask_that_is_not_the_manifests_gives_no_foreground(
    vit: Backbone, make_dataset: MakeDataset, make_config: MakeConfig, workspace: Workspace
) -> None:
    dataset = make_dataset("data", [(32, 32)] * 3)
    path, other = (dataset.root / f"masks/s00{i}.png" for i in (1, 2))
    kept = path.read_bytes()
    shutil.copyfile(other, path)
    with pytest.raises(CorruptError, match=r"s001\.png.*mask is not the one the manifest names"):
        embed_dataset(dataset, vit, make_config(), workspace)
    path.write_bytes(kept)
    found = embed_dataset(dataset, vit, make_config(), workspace)
    assert found.foreground(1).mean() == pytest.approx((np.asarray(Image.open(path)) > 0).mean())


def test_a_dataset_without_masks_has_no_foreground(
    vit: Backbone, make_dataset: MakeDataset, make_config: MakeConfig, workspace: Workspace
) -> None:
    dataset = make_dataset("data", [(32, 32)] * 2, masks=False)
    found = embed_dataset(dataset, vit, make_config(), workspace)
    _check(found, dataset, vit, make_config())
    with pytest.raises(MissingError, match="no mask"):
        found.foreground(0)


def test_nothing_to_embed_is_said(
    vit: Backbone, make_dataset: MakeDataset, make_config: MakeConfig, workspace: Workspace
) -> None:
    with pytest.raises(UsageError, match="no images to embed"):
        embed_dataset(make_dataset("data", [(32, 32)]).split("gap"), vit, make_config(), workspace)


def test_a_batch_that_is_too_large_for_the_memory_is_halved(
    vit: Backbone,
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset, options, tokens, tried = make_dataset("data", [(32, 32)] * 7), make_config(batch_size=5), [], []
    tokens = vit.tokens

    def scarce(images: torch.Tensor, layers: Any) -> Tokens:
        tried.append(len(images))
        if len(images) > 2:
            raise RuntimeError("DefaultCPUAllocator: out of memory")
        return tokens(images, layers)

    monkeypatch.setattr(vit, "tokens", scarce)
    found = embed_dataset(dataset, vit, options, workspace)
    assert tried[0] == 5
    assert sum(n for n in tried if n <= 2) == 7
    assert tried.count(5) == 1  # once too large, never tried again
    _check(found, dataset, vit, options)


def test_another_error_of_the_model_is_not_taken_for_a_lack_of_memory(
    vit: Backbone,
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> Tokens:
        raise RuntimeError("the model is broken")

    monkeypatch.setattr(vit, "tokens", broken)
    with pytest.raises(RuntimeError, match="broken"):
        embed_dataset(make_dataset("data", [(32, 32)] * 2), vit, make_config(), workspace)


def test_a_full_disk_publishes_nothing_by_halves(
    vit: Backbone,
    computed: list[int],
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from zarr.storage import LocalStore

    dataset, options, put = make_dataset("data", [(32, 32)] * 20), make_config(), LocalStore.set

    async def full(self: LocalStore, key: str, value: Any) -> None:
        if "mean/c/1" in key:  # the second shard, when its patches are written already
            raise OSError(errno.ENOSPC, "No space left on device", key)
        await put(self, key, value)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "set", full)
        with pytest.raises(OSError, match="No space left"):
            embed_dataset(dataset, vit, options, workspace)
    first = Dataset(dataset.name, dataset.root, dataset.samples[:16])
    _check(open_embeddings(first, vit, options, workspace), first, vit, options)
    with pytest.raises(MissingError, match="4 images"):
        open_embeddings(dataset, vit, options, workspace)
    before = sum(computed)
    found = embed_dataset(dataset, vit, options, workspace)
    assert sum(computed) == before + 4
    _check(found, dataset, vit, options)
    assert verify(found.store) == {}


def test_a_damaged_shard_is_not_read_and_is_computed_again_once_withdrawn(
    vit: Backbone,
    computed: list[int],
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
) -> None:
    dataset, options = make_dataset("data", [(32, 32)] * 2), make_config()
    found = embed_dataset(dataset, vit, options, workspace)
    shard = next(p for p in (found.store.folder / "grids/2x2/patches/c").rglob("*") if p.is_file())
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptError, match="damaged shard"):
        list(found.iter_patches())
    (name,) = verify(found.store)
    found.store.forget(name)
    before = sum(computed)
    again = embed_dataset(dataset, vit, options, workspace)
    assert sum(computed) == before + 2
    _check(again, dataset, vit, options)


# ---------------------------------------------------------------------- races


def _interrupted_by(vit: Backbone, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
    """Let `meanwhile` happen during the first forward pass, as if by another process."""
    tokens = vit.tokens

    def interrupted(*arguments: Any) -> Tokens:
        monkeypatch.setattr(vit, "tokens", tokens)
        meanwhile()
        return tokens(*arguments)

    monkeypatch.setattr(vit, "tokens", interrupted)


@pytest.mark.parametrize("part", [range(20, 24), range(30, 44)], ids=str)
def test_jobs_whose_datasets_overlap_both_complete(
    vit: Backbone,
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    part: range,
) -> None:
    everything, options = make_dataset("data", [(16, 16)] * 44), make_config()
    whole = everything.where(lambda s: int(s.id[1:]) < 40)
    other = everything.where(lambda s: int(s.id[1:]) in part)  # none of the shard in hand, 0 to 15
    _interrupted_by(vit, monkeypatch, lambda: embed_dataset(other, vit, options, workspace))
    found = embed_dataset(whole, vit, options, workspace)
    _check(found, whole, vit, options)
    _check(open_embeddings(other, vit, options, workspace), other, vit, options)


def test_an_image_that_moved_to_another_shard_is_not_written_in_both(
    vit: Backbone,
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, options = make_dataset("data", [(16, 16)] * 24), make_config()

    def meanwhile() -> None:
        store = EmbeddingStore(workspace.store / identity_of(vit, options).key)
        store.allocate((1, 1), [s.image_sha256 for s in whole.samples[20:]])  # 16 to 19 lose their shard
        embed_dataset(whole.where(lambda s: 16 <= int(s.id[1:]) < 20), vit, options, workspace)

    _interrupted_by(vit, monkeypatch, meanwhile)
    _check(embed_dataset(whole, vit, options, workspace), whole, vit, options)


def test_what_a_dead_job_had_in_hand_is_taken_over_by_one_that_waits_for_a_part_of_it(
    vit: Backbone, make_dataset: MakeDataset, make_config: MakeConfig, workspace: Workspace
) -> None:
    whole, options = make_dataset("data", [(16, 16)] * 6), make_config()
    part = whole.where(lambda s: s.id in ("s002", "s003"))
    dying = EmbeddingStore.ensure(workspace.store, identity_of(vit, options), label="x", width=vit.width)
    (shard,) = dying.allocate((1, 1), [s.image_sha256 for s in whole.samples])
    with ThreadPoolExecutor(1) as other:
        with dying.lease(shard) as mine:
            assert mine
            waiting = other.submit(embed_dataset, part, vit, options, workspace)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
        found = waiting.result(timeout=60)  # the lease is gone and nothing was written
    _check(found, part, vit, options)
    assert set(found.store.rows()) == {s.image_sha256 for s in part.samples}
    _check(embed_dataset(whole, vit, options, workspace), whole, vit, options)


def test_a_table_that_another_job_just_wrote_is_shared(
    vit: Backbone,
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset, options = make_dataset("data", [(32, 32)] * 3), make_config()

    def meanwhile(path: Path) -> np.ndarray:
        monkeypatch.setattr(pipeline, "read_mask", read_mask)
        embed_dataset(dataset, vit, options, workspace)
        return read_mask(path)

    monkeypatch.setattr(pipeline, "read_mask", meanwhile)
    found = embed_dataset(dataset, vit, options, workspace)
    share = (np.asarray(Image.open(dataset.root / "masks/s001.png")) > 0).mean()
    np.testing.assert_allclose(found.foreground(1).mean(), share, rtol=1e-6)


_JOB = """
import sys, time
from pathlib import Path
from emvfm.backbones.loading import load_backbone
from emvfm.datasets.manifest import load_dataset
from emvfm.extraction.config import EmbedConfig
from emvfm.extraction.pipeline import embed_dataset
from emvfm.workspace import Workspace
folder, root, seconds = sys.argv[1:]
options = EmbedConfig(backbone="timm:test_vit", untrained=True, layers=(4, 1), precision="float32",
                      device="cpu", dtype="float32")
workspace = Workspace(Path(root))
backbone = load_backbone(options, workspace)
tokens, computed = backbone.tokens, []
def slow(*arguments):
    time.sleep(float(seconds))
    computed.append(len(arguments[0]))
    return tokens(*arguments)
backbone.tokens = slow
embed_dataset(load_dataset(Path(folder)), backbone, options, workspace)
print(sum(computed))
"""


def _job(dataset: Dataset, workspace: Workspace, seconds: float) -> subprocess.Popen[str]:
    """Embed `dataset` in another process that takes `seconds` an image and prints how many it computed."""
    return subprocess.Popen(
        [sys.executable, "-c", _JOB, str(dataset.root), str(workspace.root), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_after_a_kill_in_the_middle_the_next_run_computes_the_rest(
    vit: Backbone,
    computed: list[int],
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
) -> None:
    dataset, options = make_dataset("data", [(32, 32)] * 20), make_config()
    store = workspace.store / identity_of(vit, options).key
    job = _job(dataset, workspace, 0.1)
    try:
        end = time.monotonic() + 120
        while not (store / "manifest/2x2/000000.json").is_file():
            assert job.poll() is None, job.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        job.kill()
        job.communicate()
    assert job.returncode == -9
    found = embed_dataset(dataset, vit, options, workspace)
    assert sum(computed) == 4  # the first 16 were published
    _check(found, dataset, vit, options)
    assert verify(found.store) == {}


@pytest.mark.slow
def test_two_processes_at_once_share_one_job(
    vit: Backbone,
    computed: list[int],
    make_dataset: MakeDataset,
    make_config: MakeConfig,
    workspace: Workspace,
) -> None:
    dataset, options = make_dataset("data", [(32, 32)] * 40), make_config()
    jobs = [_job(dataset, workspace, 0.02) for _ in range(2)]
    done = [job.communicate(timeout=120) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], done
    assert sum(int(out) for out, _ in done) == 40
    _check(embed_dataset(dataset, vit, options, workspace), dataset, vit, options)
    assert len(computed) == 40  # those of the check alone
