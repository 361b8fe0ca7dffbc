"""``emvfm predict`` from the command line: what it says, what it refuses, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.training import train
from emvfm.workspace import Workspace, read_json


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a dataset and a run of a few steps."""
    root = tmp_path_factory.mktemp("predict")
    write_phantom(root / "a", "a", 24, 96, seed=3)
    workspace = Workspace(root / "workspace")
    compose("a", [root / "a"], workspace, ComposeOptions(link="copy", pixel_size=5.0))
    config = TrainConfig(
        data=("a",), backbone="timm:test_vit", untrained=True, init="kaiming", layers=(0, 1), precision="float32",
        device="cpu", head="linear", loss="tversky", lr=2e-2, steps=6, batch=2, crop=48, warmup=1,
        evaluate_every=3, views=1,
    )  # fmt: skip
    train(config, workspace)
    return workspace


@pytest.fixture
def predict(workspace: Workspace) -> Callable[..., Result]:
    """Call ``emvfm predict`` with the only run of the workspace."""
    (run,) = workspace.runs.iterdir()
    common = ["--root", str(workspace.root), "--tile", "64", "--overlap", "16"]
    return lambda *arguments: CliRunner().invoke(app, ["predict", run.name, *map(str, arguments), *common])


def _image(path: Path, size: tuple[int, ...] = (100, 70), seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    Image.fromarray(values).save(path)
    return values


def _stripes(path: Path) -> None:
    """Write what no microscope shows."""
    Image.fromarray(np.tile(np.array([[0] * 4 + [255] * 4], np.uint8), (100, 12))).save(path)


def _refused(result: Result, *parts: str) -> None:
    assert result.exit_code in (1, 2, 3, 4), result.output
    assert result.stdout == ""
    line = [line for line in result.stderr.splitlines() if line.strip()][-1]
    assert line.startswith("emvfm: ")
    assert "internal error" not in line
    for part in parts:
        assert part in line


def test_the_text_tells_what_was_written_and_that_the_image_is_unlike(predict, tmp_path) -> None:
    _stripes(tmp_path / "stripes.png")
    result = predict(tmp_path / "stripes.png", "--out", tmp_path / "out.tif")
    assert result.exit_code == 0, result.output
    first, second, third = result.stdout.splitlines()
    assert first.endswith("out.tif")
    assert second.startswith("mask by test_vit, untrained")
    assert third.startswith("stripes: 100 x 96 px, ")
    assert "looks unlike the run's training images: distance" in result.stderr
    assert "p = " in result.stderr
    assert set(np.unique(tifffile.imread(tmp_path / "out.tif"))) <= {0, 255}
    again = predict(tmp_path / "stripes.png", "--out", tmp_path / "out.tif")
    assert "(was there already)" in again.stdout


def test_refusing_unlike_images_exits_with_4_and_training_images_pass(predict, workspace, tmp_path) -> None:
    _stripes(tmp_path / "stripes.png")
    result = predict(tmp_path / "stripes.png", "--out", tmp_path / "out.tif", "--ood", "refuse")
    assert result.exit_code == 4
    _refused(result, "stripes.png", "unlike", "distance", "--ood warn")
    assert not (tmp_path / "out.tif").exists()
    result = predict("a:test", "--out", tmp_path / "out", "--ood", "refuse")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_a_split_is_meant_where_a_folder_has_the_name_of_the_dataset(predict, tmp_path, monkeypatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    result = predict("a:val", "--out", tmp_path / "out", "--ood", "off")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_json_is_one_object_and_the_record_beside_the_output(predict, tmp_path) -> None:
    _image(tmp_path / "it.png")
    result = predict(tmp_path / "it.png", "--out", tmp_path / "o.ome.zarr", "--what", "instances", "--json")
    assert result.exit_code == 0, result.output
    value, record = json.loads(result.stdout), read_json(tmp_path / "o.ome.zarr.json")
    assert {key: value[key] for key in record} == record
    labels = zarr.open_group(tmp_path / "o.ome.zarr", mode="r")["0"]
    assert labels.shape == (100, 70)
    assert labels[:].max() == record["images"][0]["instances"]


def test_another_pixel_size_than_in_training_is_told(predict, tmp_path) -> None:
    _image(tmp_path / "it.png")
    for size, told in (("5nm", False), ("9nm", True)):
        result = predict(tmp_path / "it.png", "--out", tmp_path / f"{size}.tif", "--pixel-size", size)
        assert result.exit_code == 0, result.output
        line = "it: pixels of 9 nm, but the run was trained at native size on pixels of 5 nm"
        assert (line in " ".join(result.stderr.split())) == told


def test_a_threshold_moves_the_mask(predict, tmp_path) -> None:
    _image(tmp_path / "it.png")
    masks = []
    for threshold in ("0", "0.5", "1"):
        out = tmp_path / f"{threshold}.tif"
        assert (
            predict(tmp_path / "it.png", "--out", out, "--threshold", threshold, "--ood", "off").exit_code
            == 0
        )
        masks.append(tifffile.imread(out) > 0)
    assert masks[0].all()
    assert not masks[2].any()
    _refused(predict(tmp_path / "it.png", "--out", tmp_path / "x.tif", "--threshold", "2"), "threshold")


def _fuzzed(kind: str, folder: Path, rng: np.random.Generator) -> tuple[Path, tuple[int, ...] | None]:
    """Make a file; return it with the shape its prediction has, None where there can be none."""
    height, width = (int(side) for side in rng.integers(16, 90, 2))
    path = folder / "it.tif"
    if kind in ("bool", "uint8", "int8", "uint16", "int16", "int32", "float32", "float64"):
        values = (rng.random((height, width)) * 100).astype(kind)
        tifffile.imwrite(path, values)
        return path, (height, width)
    if kind == "negative":
        tifffile.imwrite(path, (rng.random((height, width)) * 200 - 100).astype(np.int16))
        return path, (height, width)
    if kind in ("nan", "infinite"):
        values = rng.random((height, width))
        values[int(rng.integers(height)), int(rng.integers(width))] = np.nan if kind == "nan" else np.inf
        tifffile.imwrite(path, values)
        return path, None
    if kind == "complex":
        tifffile.imwrite(path, rng.random((height, width)).astype(np.complex64))
        return path, None
    if kind == "rgb":
        tifffile.imwrite(path, rng.integers(0, 255, (height, width, 3), dtype=np.uint8), photometric="rgb")
        return path, (height, width)
    if kind == "rgba":
        Image.fromarray(rng.integers(0, 255, (height, width, 4), dtype=np.uint8)).save(folder / "it.png")
        return folder / "it.png", (height, width)
    if kind == "channels":
        stack = rng.integers(0, 255, (5, height, width), dtype=np.uint8)
        tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "CYX"})
        return path, None
    if kind == "pages":
        tifffile.imwrite(
            path, rng.integers(0, 255, (3, height, width), dtype=np.uint8), photometric="minisblack"
        )
        return path, (3, height, width)
    if kind == "unequal pages":
        with tifffile.TiffWriter(path) as file:
            for extra in (0, 5):
                file.write(np.zeros((height + extra, width), np.uint8), photometric="minisblack")
        return path, None
    if kind == "constant":
        tifffile.imwrite(path, np.full((height, width), 7, np.uint16))
        return path, (height, width)
    if kind in ("one pixel", "one row"):
        Image.fromarray(np.zeros((1, 1 if kind == "one pixel" else width), np.uint8)).save(folder / "it.png")
        return folder / "it.png", None
    if kind.startswith("cut"):
        path = folder / f"it.{kind.split()[1]}"
        values = rng.integers(0, 255, (height, width), dtype=np.uint8)
        if path.suffix == ".tif":
            tifffile.imwrite(path, values, compression="zlib", rowsperstrip=8)
        else:
            Image.fromarray(values).save(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(rng.integers(1, len(data) * 3 // 4))])
        return path, None
    if kind == "empty":
        path.write_bytes(b"")
        return path, None
    if kind == "wrong ending":
        Image.fromarray(np.zeros((height, width), np.uint8)).save(folder / "it.png")
        (folder / "it.png").rename(path)
        return path, None
    if kind == "text":
        path.write_text("not an image")
        return path, None
    if kind == "folder":
        (folder / "in").mkdir()
        return folder / "in", None
    assert kind == "hdf5 colours"
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "it.h5", "w") as file:
        file["raw"] = rng.random((height, width, 3))
    return folder / "it.h5", None


GOOD = (
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "float32",
    "float64",
    "negative",
    "rgb",
    "rgba",
    "constant",
)
BAD = (
    *(
        "nan",
        "infinite",
        "complex",
        "channels",
        "unequal pages",
        "one pixel",
        "one row",
        "cut tif",
        "cut png",
    ),
    *("cut jpg", "empty", "wrong ending", "text", "folder", "hdf5 colours"),
)


@pytest.mark.parametrize("kind", [*GOOD, "pages", *BAD])
def test_an_odd_file_gives_the_right_shape_or_one_clear_line(predict, tmp_path, kind) -> None:
    source, shape = _fuzzed(kind, tmp_path, np.random.default_rng(len(kind)))
    out = tmp_path / "out.tif"
    result = predict(source, "--out", out, "--ood", "off", "--what", "probability")
    if shape is None:
        _refused(result, *(("it.tif: pixels that are not finite",) if kind in ("nan", "infinite") else ()))
        assert not out.exists()
        return
    assert result.exit_code == 0, result.output
    found = tifffile.imread(out)
    assert found.shape == shape
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_damaged_file_among_good_ones_stops_with_its_name(predict, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(3):
        _image(tmp_path / "in" / f"{n}.png", seed=n)
    data = (tmp_path / "in" / "1.png").read_bytes()
    (tmp_path / "in" / "1.png").write_bytes(data[: len(data) // 2])
    _refused(predict(tmp_path / "in", "--out", tmp_path / "out", "--ood", "off"), "1.png")
    assert not (tmp_path / "out").exists()


def test_help_and_completion_load_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from emvfm.cli.app import app; "
        "r = CliRunner().invoke(app, ['predict', '--help']); assert r.exit_code == 0, r.output; "
        "print(sorted({'torch', 'numpy', 'zarr', 'scipy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(workspace, tmp_path) -> None:
    _image(tmp_path / "it.png", (2600, 150))
    (run,) = workspace.runs.iterdir()
    base = [
        *(sys.executable, "-m", "emvfm", "predict", run.name, str(tmp_path / "it.png"), "--ood", "off"),
        *("--root", str(workspace.root), "--tile", "48", "--overlap", "32", "--what", "probability"),
    ]
    subprocess.run([*base, "--out", str(tmp_path / "whole.tif")], check=True, capture_output=True)
    journal = tmp_path / ".parts.tif.predict" / "journal.json"
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "big"))
    progress = [0]
    for _ in range(3):
        with subprocess.Popen(
            [*base, "--out", str(tmp_path / "parts.tif")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None:
                rows = read_json(journal)["row"] if journal.is_file() else 0
                if rows > progress[-1]:
                    time.sleep(float(rng.random()) * 0.2)
                    break
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        if not journal.is_file():  # it was done before the kill
            break
        progress.append(read_json(journal)["row"])
    assert progress[1] > 0
    subprocess.run([*base, "--out", str(tmp_path / "parts.tif")], check=True, capture_output=True)
    assert (tmp_path / "parts.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert not journal.parent.exists()
