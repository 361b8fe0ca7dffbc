"""Predicting by windows is predicting at once, from any kind of file, and an interruption changes no byte."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy.ndimage import label, zoom

from emvfm.backbones.preprocess import Preprocess
from emvfm.datasets.images import read_image
from emvfm.errors import EmvfmError, MissingError, RefusedError, UsageError
from emvfm.segmentation.checkpoints import load_run
from emvfm.segmentation.evaluation import evaluate
from emvfm.segmentation.evaluation_options import EvalConfig
from emvfm.segmentation.prediction import Windows
from emvfm.segmentation.prediction_config import PredictConfig
from emvfm.segmentation.prediction_job import predict
from emvfm.segmentation.prediction_scratch import open_scratch, resample_rows

PATCH = 8


@dataclass
class _Stub:
    """A trained model whose answer at a pixel depends on those up to `reach` away, and nothing else."""

    folder: Path
    reach: int = 4
    input_size: str = "native"
    most: int = 10**9
    stop_after: int = 10**9
    seen: list[int] = field(default_factory=list)
    label: str = "a stand-in"

    def __post_init__(self) -> None:
        (self.folder / "best.safetensors").write_bytes(b"weights")
        self.model = SimpleNamespace(backbone=None, device=torch.device("cpu"))
        self.run = SimpleNamespace(path=self.folder, checkpoints=self.folder, provenance={"identity": "stub"})
        self.preprocess = Preprocess(PATCH, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), self.input_size)

    def window_probability(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > self.most:
            raise MemoryError
        if sum(self.seen) >= self.stop_after:
            raise KeyboardInterrupt
        self.seen.append(len(pixels))
        padded = torch.nn.functional.pad(pixels[:, :1], [self.reach] * 4, mode="replicate")
        return torch.sigmoid(2 * torch.nn.functional.avg_pool2d(padded, 2 * self.reach + 1, 1)[:, 0])


@pytest.fixture
def stub(tmp_path):
    def make(**changes: Any) -> Any:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        return _Stub(folder, **changes)

    return make


def _options(**changes: Any) -> PredictConfig:
    return PredictConfig(**{"what": ("probability",), "tile": 64, "overlap": 32, "ood": "off", **changes})


def _image(path: Path, shape: tuple[int, ...], seed: int = 0, dtype: Any = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.random([max(2, side // 12) for side in shape])
    values = zoom(coarse, [side / c for side, c in zip(shape, coarse.shape, strict=True)], order=1)
    values = (np.clip(values, 0, 1) * (255 if dtype == np.uint8 else 4000)).astype(dtype)
    tifffile.imwrite(path, values, photometric="minisblack")
    return values


def _predicted(segmenter, source, workspace, out: Path, config: PredictConfig, **more: Any) -> np.ndarray:
    predict(segmenter, str(source), out, config, workspace, **more)
    return tifffile.imread(out)


@pytest.mark.parametrize("size", [(200, 150), (8, 8), (63, 300), (129, 65)])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (40, 17), (104, 32), (24, 16)])
def test_tiles_give_what_one_piece_gives(stub, workspace, tmp_path, size, tile, overlap) -> None:
    _image(tmp_path / "it.tif", size)
    whole = _predicted(stub(), tmp_path / "it.tif", workspace, tmp_path / "whole.tif", _options(tile=1024))
    tiles = _options(tile=tile, overlap=overlap)
    found = _predicted(stub(), tmp_path / "it.tif", workspace, tmp_path / "tiles.tif", tiles)
    assert found.shape == size
    assert found.dtype == np.float32
    assert np.ptp(found) > 0.01
    np.testing.assert_allclose(found, whole, atol=1e-5)


@pytest.mark.parametrize("what", ["mask", "probability"])  # values kept as masks, and as probabilities
def test_validation_slices_choose_the_same_threshold_as_for_scores(
    trained, workspace, fast, tmp_path, what
) -> None:
    run = trained(fast())
    segmenter = load_run(run.path, workspace)
    (cell,) = evaluate([run.path], EvalConfig(data=("a",), threshold="validation"), workspace)
    image, out = _image(tmp_path / "it.tif", (96, 96)), tmp_path / "out.tif"
    config = _options(what=(what,), threshold="validation", tile=512)
    found = predict(segmenter, str(tmp_path / "it.tif"), out, config, workspace)
    assert found.record["threshold"] == cell.threshold != 0.5
    assert found.record["chosen_on"] == cell.chosen_on == "1 validation slices of a"
    above = float((segmenter.predict(image) > cell.threshold).mean())
    assert found.record["images"][0]["foreground"] == pytest.approx(above, abs=1e-3)
    assert not predict(segmenter, str(tmp_path / "it.tif"), out, config, workspace).fresh
    given = _options(what=(what,), tile=512)
    other = predict(segmenter, str(tmp_path / "it.tif"), tmp_path / "other.tif", given, workspace)
    assert other.record["threshold"] == 0.5
    assert other.record["chosen_on"] is None


@pytest.mark.parametrize("lora", [False, True])
def test_one_window_gives_what_the_run_predicts(trained, workspace, fast, tmp_path, lora) -> None:
    segmenter = load_run(trained(fast(lora=lora)).path, workspace)
    image = _image(tmp_path / "it.tif", (90, 131))
    found = _predicted(segmenter, tmp_path / "it.tif", workspace, tmp_path / "out.tif", _options(tile=512))
    np.testing.assert_allclose(found, segmenter.predict(image), atol=1e-5)
    mask = _predicted(
        segmenter, tmp_path / "it.tif", workspace, tmp_path / "mask.tif", _options(tile=512, what=("mask",))
    )
    np.testing.assert_array_equal(mask, np.where(found > 0.5, 255, 0))


@pytest.mark.parametrize("scale", [{"input_size": "x0.5"}, {"pixel_size": "9nm"}])
def test_a_run_at_another_scale_answers_at_the_inputs_own(trained, workspace, fast, tmp_path, scale) -> None:
    segmenter = load_run(trained(fast(data=("b",), **scale)).path, workspace)
    image = _image(tmp_path / "it.tif", (180, 131))
    config = _options(tile=512, pixel_size="5nm")
    found = _predicted(segmenter, tmp_path / "it.tif", workspace, tmp_path / "out.tif", config)
    # Probabilities are resized here, logits there.
    np.testing.assert_allclose(found, segmenter.predict(image, 5.0), atol=0.05)


def test_the_inputs_pixel_size_decides_what_the_model_sees(stub, workspace, tmp_path) -> None:
    _image(tmp_path / "it.tif", (160, 120))
    found = _predicted(
        stub(input_size="10nm"),
        tmp_path / "it.tif",
        workspace,
        tmp_path / "a.tif",
        _options(pixel_size="5nm"),
    )
    half = _predicted(stub(input_size="x0.5"), tmp_path / "it.tif", workspace, tmp_path / "b.tif", _options())
    np.testing.assert_array_equal(found, half)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert 'PhysicalSizeX="5.0"' in file.ome_metadata
    with pytest.raises(UsageError, match="--pixel-size"):
        _predicted(stub(input_size="10nm"), tmp_path / "it.tif", workspace, tmp_path / "c.tif", _options())


@pytest.mark.parametrize(
    ("source", "target"), [((20, 30), (41, 17)), ((7, 9), (7, 31)), ((40, 8), (13, 8)), ((1, 1), (5, 4))]
)
def test_rows_are_resampled_as_torch_does(source, target) -> None:
    values = np.random.default_rng(0).random(source).astype(np.float32)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size=target, mode="bilinear"
    )[0, 0]
    rows = [
        resample_rows(lambda a, b: values[a:b], source, target, start, min(start + 3, target[0]))
        for start in range(0, target[0], 3)
    ]
    np.testing.assert_allclose(np.concatenate(rows), want.numpy(), atol=1e-5)


def test_turning_the_image_turns_an_averaged_prediction(trained, workspace, fast, tmp_path) -> None:
    segmenter = load_run(trained(fast()).path, workspace)
    image = _image(tmp_path / "it.tif", (96, 96))
    config = _options(tta=True, tile=96)
    found = _predicted(segmenter, tmp_path / "it.tif", workspace, tmp_path / "a.tif", config)
    for n, turned in enumerate([np.rot90(image), image[:, ::-1], image.T]):
        tifffile.imwrite(tmp_path / "t.tif", turned)
        other = _predicted(segmenter, tmp_path / "t.tif", workspace, tmp_path / f"{n}.tif", config)
        want = [np.rot90(found), found[:, ::-1], found.T][n]
        np.testing.assert_allclose(other, want, atol=1e-4)
    plain = _predicted(segmenter, tmp_path / "it.tif", workspace, tmp_path / "p.tif", _options(tile=96))
    assert np.abs(plain - found).max() > 1e-3


def test_batches_shrink_for_good_when_memory_ends(stub) -> None:
    segmenter = stub(most=2)
    windows = Windows(segmenter, batch_size=8)
    pixels = [np.full((3, 16, 16), n, np.float32) for n in range(7)]
    found = [answer.probability for answer in windows([lambda p=p: p for p in pixels])]
    assert windows.batch_size == 2
    assert segmenter.seen == [2, 2, 2, 1]
    want = [answer.probability for answer in Windows(stub(), batch_size=1)([lambda p=p: p for p in pixels])]
    np.testing.assert_allclose(found, want, atol=1e-6)
    with pytest.raises(EmvfmError, match="--tile"):
        list(Windows(stub(most=0), batch_size=4)([lambda: pixels[0]]))


def test_other_errors_of_a_model_are_not_taken_for_a_lack_of_memory(stub) -> None:
    segmenter = stub()
    segmenter.window_probability = lambda pixels: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError):
        list(Windows(segmenter, batch_size=4)([lambda: np.zeros((3, 8, 8), np.float32)]))


@pytest.mark.parametrize("what", ["probability", "mask", "instances"])
@pytest.mark.parametrize("ending", [".tif", ".ome.zarr"])
def test_going_on_after_an_interruption_gives_the_same_bytes(stub, workspace, tmp_path, what, ending) -> None:
    (tmp_path / "in").mkdir()
    for n, size in enumerate([(200, 150), (90, 64), (300, 100)]):
        _image(tmp_path / "in" / f"{n}.tif", size, n)
    config = _options(what=(what,), format="tiff" if ending == ".tif" else "ome-zarr")
    first = stub()
    predict(first, str(tmp_path / "in"), tmp_path / "whole", config, workspace)
    want = {
        str(p.relative_to(tmp_path / "whole")): p.read_bytes()
        for p in (tmp_path / "whole").rglob("*")
        if p.is_file()
    }
    assert len(want) >= 3
    total, done = sum(first.seen), 0
    rng = np.random.default_rng(len(what))
    for _ in range(4):
        broken = stub(stop_after=int(rng.integers(1, total // 3)))
        with pytest.raises(KeyboardInterrupt):
            predict(broken, str(tmp_path / "in"), tmp_path / "parts", config, workspace)
        assert not (tmp_path / "parts").exists()
        done += sum(broken.seen)
        if done > 0.7 * total:
            break
    last = stub()
    predict(last, str(tmp_path / "in"), tmp_path / "parts", config, workspace)
    found = {
        str(p.relative_to(tmp_path / "parts")): p.read_bytes()
        for p in (tmp_path / "parts").rglob("*")
        if p.is_file()
    }
    assert found == want
    assert sum(last.seen) < total  # it did go on
    assert not (tmp_path / ".parts.predict").exists()


def test_other_options_or_another_image_begin_anew(stub, workspace, tmp_path) -> None:
    source, out = tmp_path / "it.tif", tmp_path / "out.tif"
    _image(source, (200, 150))
    with pytest.raises(KeyboardInterrupt):
        predict(stub(stop_after=9), str(source), out, _options(), workspace)
    _image(source, (200, 150), seed=5)
    again = stub()
    found = _predicted(again, source, workspace, out, _options())
    assert sum(again.seen) == 6 * 4
    np.testing.assert_array_equal(
        found, _predicted(stub(), source, workspace, tmp_path / "x.tif", _options())
    )


def test_what_is_there_is_not_made_again_and_never_overwritten_unasked(stub, workspace, tmp_path) -> None:
    source, out = tmp_path / "it.tif", tmp_path / "out.tif"
    _image(source, (100, 80))
    assert predict(stub(), str(source), out, _options(), workspace).fresh
    repeated = stub()
    assert not predict(repeated, str(source), out, _options(), workspace).fresh
    assert repeated.seen == []
    before = out.read_bytes()
    with pytest.raises(UsageError, match="--overwrite"):
        predict(stub(), str(source), out, _options(what=("mask",)), workspace)
    assert out.read_bytes() == before
    predict(stub(), str(source), out, _options(what=("mask",)), workspace, overwrite=True)
    assert tifffile.imread(out).dtype == np.uint8
    store = tmp_path / "out.ome.zarr"
    for depth in ("float32", "uint8"):
        predict(stub(), str(source), store, _options(depth=depth), workspace, overwrite=True)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_neither_the_input_nor_a_folder_of_others_is_replaced(stub, workspace, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    _image(tmp_path / "in" / "it.tif", (40, 30))
    before = (tmp_path / "in" / "it.tif").read_bytes()
    for source, out in (("in/it.tif", "in/it.tif"), ("in", "in"), ("in", ".")):
        with pytest.raises(UsageError, match="where the input is"):
            predict(stub(), str(tmp_path / source), tmp_path / out, _options(), workspace, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="no prediction"):
        predict(stub(), str(tmp_path / "in"), tmp_path / "mine", _options(), workspace, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"
    assert (tmp_path / "in" / "it.tif").read_bytes() == before


def test_another_process_on_the_same_output_gets_one_clear_line(stub, workspace, tmp_path) -> None:
    _image(tmp_path / "it.tif", (100, 80))
    with open_scratch(tmp_path / "out.tif"), pytest.raises(UsageError, match="another process"):
        predict(stub(), str(tmp_path / "it.tif"), tmp_path / "out.tif", _options(), workspace)
    predict(stub(), str(tmp_path / "it.tif"), tmp_path / "out.tif", _options(), workspace)


def _as_stack(kind: str, folder: Path, values: np.ndarray) -> str:
    if kind == "pages":
        tifffile.imwrite(folder / "v.tif", values, photometric="minisblack")
        return str(folder / "v.tif")
    if kind == "compressed":
        tifffile.imwrite(
            folder / "v.tif", values, photometric="minisblack", compression="zlib", rowsperstrip=7
        )
        return str(folder / "v.tif")
    if kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(folder / "v.h5", "w") as file:
            file.create_dataset("volumes/raw", data=values, chunks=(2, 32, 32))
            file.create_dataset("other", data=values[:1])
        return f"{folder / 'v.h5'}:/volumes/raw"
    if kind == "zarr":
        import zarr

        zarr.create_array(folder / "v.zarr", data=values, chunks=(2, 40, 40))
        return str(folder / "v.zarr")
    tensorstore = pytest.importorskip("tensorstore")
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{folder / 'v.n5'}/"}, "create": True}
    meta = {
        "dimensions": values.shape[::-1],
        "blockSize": [32, 32, 2],
        "dataType": str(values.dtype),
        "compression": {"type": "gzip"},
    }
    tensorstore.open({**spec, "metadata": meta}).result().write(values.T).result()
    return str(folder / "v.n5")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("kind", ["pages", "compressed", "hdf5", "zarr", "n5"])
def test_a_stack_is_predicted_as_its_slices_are(stub, workspace, tmp_path, kind, dtype) -> None:
    values = _image(tmp_path / "all.tif", (3, 70, 90), dtype=dtype)
    found = _predicted(
        stub(), _as_stack(kind, tmp_path, values), workspace, tmp_path / "out.tif", _options(what=("mask",))
    )
    assert found.shape == values.shape
    for z, plane in enumerate(values):
        tifffile.imwrite(tmp_path / f"{z}.tif", plane)
        want = _predicted(
            stub(), tmp_path / f"{z}.tif", workspace, tmp_path / f"out{z}.tif", _options(what=("mask",))
        )
        np.testing.assert_array_equal(found[z], want)


def test_a_dataset_goes_by_its_name_and_a_folder_by_its_files(stub, workspace, tmp_path) -> None:
    predict(stub(), "a:test", tmp_path / "out", _options(), workspace)
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 2
    images = sorted((workspace.datasets / "a").rglob(f"{files[0].stem}*"))
    image = next(p for p in images if p.suffix == ".png" and "mask" not in str(p))
    want = _predicted(stub(), image, workspace, tmp_path / "one.tif", _options())
    np.testing.assert_array_equal(tifffile.imread(files[0]), want)
    assert want.shape == read_image(image).shape


@pytest.mark.parametrize("connect", ["slices", "volume"])
def test_instances_are_the_connected_parts_of_the_mask(stub, workspace, tmp_path, connect) -> None:
    _image(tmp_path / "v.tif", (3, 120, 100))
    config = _options(what=("mask", "instances"), connect=connect)
    record = predict(stub(reach=2), str(tmp_path / "v.tif"), tmp_path / "out", config, workspace).record
    mask, found = (tifffile.imread(tmp_path / "out" / f"{what}.tif") for what in ("mask", "instances"))
    assert found.dtype == np.uint32
    if connect == "volume":
        want, n = label(mask, np.ones((3, 3, 3)))
    else:
        labelled = [label(plane, np.ones((3, 3))) for plane in mask]
        want, n = np.stack([w for w, _ in labelled]), sum(n for _, n in labelled)
    np.testing.assert_array_equal(found, want)
    assert record["images"][0]["instances"] == n >= 3
    assert record["images"][0]["foreground"] == pytest.approx((mask > 0).mean())


def test_a_watershed_splits_what_components_join(stub, workspace, tmp_path) -> None:
    image = np.zeros((80, 120), np.uint8)
    y, x = np.mgrid[:80, :120]
    for centre in (40, 76):
        image[(y - 40) ** 2 + (x - centre) ** 2 < 20**2] = 255
    Image.fromarray(image).save(tmp_path / "it.png")
    counts = {}
    for method in ("components", "watershed"):
        config = _options(what=("instances",), instances=method)
        out = tmp_path / f"{method}.tif"
        counts[method] = predict(stub(reach=1), str(tmp_path / "it.png"), out, config, workspace).record[
            "images"
        ][0]["instances"]
        assert tifffile.imread(out).max() == counts[method]
    assert counts == {"components": 1, "watershed": 2}


@pytest.mark.parametrize(
    ("changes", "out", "words"),
    [
        ({"tile": 32, "overlap": 32}, "a.tif", "overlap"),
        ({}, "a.png", ".tif"),
        ({}, "a", "ending"),
        ({"format": "ome-zarr"}, "a.tif", "ome.zarr"),
        ({"what": ("mask", "probability")}, "a.tif", "folder"),
        ({"what": ("mask", "mask")}, "a", "once"),
        ({"what": ("maks",)}, "a.tif", "probability"),
        ({"what": ("instances",), "instances": "watershed", "connect": "volume"}, "a.tif", "slices"),
    ],
)
def test_contradictions_are_told_before_anything_is_computed(
    stub, workspace, tmp_path, changes, out, words
) -> None:
    _image(tmp_path / "it.tif", (100, 80))
    segmenter = stub()
    with pytest.raises(UsageError, match=words):
        predict(segmenter, str(tmp_path / "it.tif"), tmp_path / out, _options(**changes), workspace)
    assert segmenter.seen == []
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith((".a", "a"))) == []


def test_a_missing_input_and_two_of_one_name_are_told(stub, workspace, tmp_path) -> None:
    with pytest.raises(MissingError, match="nothing"):
        predict(stub(), "nothing", tmp_path / "a.tif", _options(), workspace)
    (tmp_path / "in").mkdir()
    with pytest.raises(MissingError):
        predict(stub(), str(tmp_path / "in"), tmp_path / "a", _options(), workspace)
    for name in ("x.png", "x.tif"):
        _image(tmp_path / "in" / "y.tif", (20, 20))
        (tmp_path / "in" / "y.tif").rename(tmp_path / "in" / "z")
        Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "in" / name)
    with pytest.raises(UsageError, match="one name"):
        predict(stub(), str(tmp_path / "in"), tmp_path / "a", _options(), workspace)


class _Unlike:
    """Judges every image unlike."""

    key, flagged, sentence = "unlike", True, "distance 9"

    def scores(self, embeddings):
        return [9.0] * len(embeddings)

    def verdict(self, scores):
        return self

    def to_json(self):
        return {"flagged": True, "sentence": self.sentence}


def test_a_refused_input_keeps_its_values_and_goes_on_from_them(
    trained, workspace, fast, tmp_path, monkeypatch
) -> None:
    segmenter = load_run(trained(fast()).path, workspace)
    _image(tmp_path / "it.tif", (100, 80))
    with pytest.raises(RefusedError, match="distance 9"):
        predict(
            segmenter,
            str(tmp_path / "it.tif"),
            tmp_path / "a.tif",
            _options(ood="refuse"),
            workspace,
            judge=_Unlike(),
        )
    assert not (tmp_path / "a.tif").exists()
    monkeypatch.setattr(Windows, "_compute", None)  # nothing is left to compute
    found = predict(
        segmenter,
        str(tmp_path / "it.tif"),
        tmp_path / "a.tif",
        _options(ood="warn"),
        workspace,
        judge=_Unlike(),
    )
    assert found.record["images"][0]["ood"]["flagged"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height(stub, workspace, tmp_path) -> None:
    peaks = []
    for height in (2048, 8192):
        values = np.tile(_image(tmp_path / "tile.tif", (256, 512)), (height // 256, 1))
        tifffile.imwrite(tmp_path / f"{height}.tif", values, tile=(128, 128), compression="zlib")
        del values
        segmenter, config = stub(), _options(what=("mask", "instances"), tile=128)
        tracemalloc.start()
        predict(segmenter, str(tmp_path / f"{height}.tif"), tmp_path / f"{height}.out", config, workspace)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0]
