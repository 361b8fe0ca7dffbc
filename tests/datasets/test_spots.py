"""Tiles around positions: the right pixels, each row read once, and tables that are not to be trusted."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emvfm.datasets.compose import compose
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import load_dataset
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.rows import ArrayRows
from emvfm.datasets.spots import Section, cut_tiles, read_spots, tile_side
from emvfm.errors import CorruptError, EmvfmError, MissingError, RefusedError, UsageError
from emvfm.workspace import Workspace

RNG = np.random.default_rng(0)


class _Watched(ArrayRows):
    """An image that remembers how often each row was read."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__(values)
        self.reads = np.zeros(len(values), int)

    def rows(self, start: int, stop: int) -> np.ndarray:
        self.reads[start:stop] += 1
        return super().rows(start, stop)


@pytest.mark.parametrize("shape", [(1500, 90), (1500, 90, 3)])
@pytest.mark.parametrize("side", [8, 33, 600])
def test_tiles_are_cut_around_their_centres_and_no_row_is_read_twice(shape, side: int) -> None:
    values = RNG.integers(0, 255, shape, np.uint8)
    if side == 600:
        values = np.resize(values, (1500, 700, *shape[2:]))
    image = _Watched(values)
    centres = RNG.random((60, 2)) * [values.shape[1], values.shape[0]]
    found = dict(cut_tiles(image, centres, side))
    assert image.reads.max() <= 1
    for i, (x, y) in enumerate(centres):
        left, top = (int(np.floor(c - (side - 1) / 2 + 0.5)) for c in (x, y))
        inside = left >= 0 and top >= 0 and left + side <= values.shape[1] and top + side <= values.shape[0]
        assert (i in found) == inside
        if inside:
            assert np.array_equal(found[i], values[top : top + side, left : left + side])
            assert abs(left + (side - 1) / 2 - x) <= 0.5


def test_rows_without_spots_are_not_read() -> None:
    image = _Watched(np.zeros((5000, 50), np.uint8))
    assert len(list(cut_tiles(image, [(25, 4000), (25, 4010)], 20))) == 2
    assert image.reads[:3000].sum() == 0
    assert image.reads[4608:].sum() == 0


def test_rows_that_happen_to_be_grey_stay_colour() -> None:
    class Collapsing(ArrayRows):
        def rows(self, start: int, stop: int) -> np.ndarray:
            return super().rows(start, stop)[..., 0]

    values = np.repeat(RNG.integers(0, 255, (100, 80, 1), np.uint8), 3, axis=2)
    ((_, tile),) = cut_tiles(Collapsing(values), [(40, 50)], 20)
    assert np.array_equal(tile, values[41:61, 31:51])


@pytest.mark.parametrize(
    ("text", "side"),
    [("224", 224), ("64px", 64), ("112um", 160), ("112 µm", 160), ("0.112mm", 160), ("35000nm", 50)],
)
def test_a_size_is_in_pixels_or_a_length(text: str, side: int) -> None:
    assert tile_side(text, Section("s", Path("x.png"), 700.0, ())) == side


@pytest.mark.parametrize("text", ["", "abc", "-5", "0", "3", "9um um", "1e9", "112um", "99999"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        tile_side(text, Section("s", Path("x.png"), None, ()))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, seed in (("one.png", 1), ("two.png", 2)):
        values = np.random.default_rng(seed).integers(0, 255, (200, 160, 3), np.uint8)
        Image.fromarray(values).save(folder / name)
    return folder


def _table(folder: Path, text: str, name: str = "spots.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


TABLE = "image,x,y,patient,section,spot\n" + "".join(
    f"{name},{20 + 30 * i},{60 + 20 * i},{name[0]},S{name[0]},{i}x1\n"
    for name in ("one.png", "two.png")
    for i in range(4)
)


def test_a_table_becomes_a_dataset(tmp_path: Path, images: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    table = _table(tmp_path, TABLE + "two.png,1,1,t,St,edge\n")
    compose("st", [], workspace, ComposeOptions(spots=table, images=images, tile="32", pixel_size=500.0))
    dataset = load_dataset(workspace.datasets / "st")
    assert len(dataset) == 8
    assert dataset.meta["sources"][0]["left_out_at_edges"] == {"So": 0, "St": 1}
    assert {s.volume for s in dataset.samples} == {"So", "St"}
    sample = next(s for s in dataset.samples if s.id == "St-2x1")
    assert dict(sample.facts) == {"section": "St", "spot": "2x1", "x": "80", "y": "100", "patient": "t"}
    assert (sample.pixel_size_nm, sample.z, sample.mask, sample.split) == (500.0, None, None, "train")
    whole = read_image(images / "two.png")
    assert np.array_equal(read_image(dataset.image_path(sample)), whole[85:117, 65:97])


def test_one_image_needs_no_column_and_tiffs_are_read_by_strips(tmp_path: Path) -> None:
    values = RNG.integers(0, 60000, (900, 120), np.uint16)
    tifffile.imwrite(tmp_path / "big.tif", values, rowsperstrip=64)
    table = _table(tmp_path, "pixel_x\tpixel_y\tx\ty\n60\t450\t3\t7\n60\t700\t4\t7\n", "spots.tsv.gz")
    (section,) = read_spots(table, tmp_path / "big.tif")
    assert [(s.name, s.x, s.y) for s in section.spots] == [("1", 60.0, 450.0), ("2", 60.0, 700.0)]
    workspace = Workspace(tmp_path / "ws")
    dataset = compose(
        "st", [], workspace, ComposeOptions(spots=table, images=tmp_path / "big.tif", tile="40")
    )
    assert np.array_equal(read_image(dataset.image_path(dataset.samples[0])), values[431:471, 41:81])


def test_a_split_in_the_table_stands(tmp_path: Path, images: Path) -> None:
    table = _table(tmp_path, "image,x,y,split\none.png,50,50,train\ntwo.png,60,60,test\n")
    options = ComposeOptions(spots=table, images=images, tile="32", domain=("tissue",))
    dataset = compose("st", [], Workspace(tmp_path / "ws"), options)
    assert [(s.split, s.domain, s.id) for s in dataset.samples] == [
        ("train", "tissue", "one-1"), ("test", "tissue", "two-2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("image,x\none.png,5\n", UsageError),
        ("x,y\n5,5\n", UsageError),
        ("image,x,y\none.png,a,5\n", CorruptError),
        ("image,x,y\none.png,nan,5\n", CorruptError),
        ("image,x,y\none.png,1e999,5\n", CorruptError),
        ("image,x,y\n../../secret.png,5,5\n", CorruptError),
        ("image,x,y\nlost.png,5,5\n", MissingError),
        ("image,x,y,split\none.png,5,5,exam\n", CorruptError),
        ("image,x,y,id\none.png,5,5,volume\n", None),
        ("image,x,y,volume=3\none.png,5,5,1\n", CorruptError),
        ("image,x,y,spot\none.png,50,50,a\none.png,60,60,a\n", RefusedError),
        ("image,x,y,section\none.png,50,50,a\ntwo.png,60,60,a\n", RefusedError),
        ("image,x,y,pixel_size_nm\none.png,50,50,5\none.png,60,60,6\n", RefusedError),
        ("image,x,y\none.png,5,5,9\n", CorruptError),
        ("", CorruptError),
        ("image,x,y\none.png,1,1\n", None),
    ],
)
def test_hostile_tables_are_refused_in_one_line(tmp_path: Path, images: Path, text: str, error) -> None:
    options = ComposeOptions(spots=_table(tmp_path, text), images=images, tile="32")
    with pytest.raises(error or EmvfmError) as caught:
        compose("st", [], Workspace(tmp_path / "ws"), options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ws" / "datasets" / "st").exists()


def test_options_that_do_not_go_together(tmp_path: Path, images: Path) -> None:
    table, workspace = _table(tmp_path, TABLE), Workspace(tmp_path / "ws")
    for options in (
        ComposeOptions(spots=table),
        ComposeOptions(spots=table, images=images, masks=images),
        ComposeOptions(spots=tmp_path, images=images),
        ComposeOptions(spots=tmp_path / "lost.csv", images=images),
        ComposeOptions(spots=table, images=tmp_path / "nowhere"),
    ):
        with pytest.raises(EmvfmError):
            compose("st", [], workspace, options)


def test_the_layout_of_her2st_is_understood(tmp_path: Path) -> None:
    root = tmp_path / "her2st"
    for section in ("A1", "B1"):
        folder = root / "data" / "ST-imgs" / section[0] / section
        folder.mkdir(parents=True)
        Image.fromarray(RNG.integers(0, 255, (700, 600, 3), np.uint8)).save(folder / "some_HE.jpg")
        (root / "data" / "ST-spotfiles").mkdir(exist_ok=True)
        rows = "".join(
            f"{i}\t{j}\t{i}.1\t{j}.2\t{100 * i + 10}\t{100 * j + 20}\t{int(j != 4)}\n"
            for i in range(1, 5)
            for j in range(1, 5)
        )
        header = "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n"
        (root / "data" / "ST-spotfiles" / f"{section}_selection.tsv").write_text(header + rows)
    a, b = read_spots(root)
    assert (a.name, b.name, len(a.spots)) == ("A1", "B1", 12)
    assert a.pixel_size_nm == pytest.approx(2000.0)  # 200 um are 100 px
    assert a.spots[0].name == "1x1"
    dataset = compose("st", [], Workspace(tmp_path / "ws"), ComposeOptions(spots=root, tile="100um"))
    assert {(s.height, s.facts["patient"]) for s in dataset.samples} == {(50, "A"), (50, "B")}
    (root / "data" / "ST-imgs" / "B" / "B1" / "some_HE.jpg").unlink()
    with pytest.raises(MissingError):
        read_spots(root)


def test_the_real_spots_lie_on_tissue(shared_data: Path) -> None:
    sections = read_spots(shared_data / "her2st")
    assert {s.name: len(s.spots) for s in sections} == {"B4": 284, "C2": 187, "C3": 182, "C4": 187, "C5": 183}
    assert all(s.pixel_size_nm == pytest.approx(690, abs=1) for s in sections)
