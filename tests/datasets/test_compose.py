from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emvfm.datasets import compose as compose_module
from emvfm.datasets.compose import MAPPING_COLUMNS, compose, refused_folder
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import load_dataset, verify_files
from emvfm.datasets.masks import read_mask
from emvfm.datasets.options import ComposeOptions
from emvfm.errors import CorruptError, MissingError, RefusedError, UsageError
from emvfm.workspace import Workspace


class _Report:
    def __init__(self, verdict: str) -> None:
        self.verdict = verdict
        finding = types.SimpleNamespace(message="masks fit other slices better", samples=("s1", "s2"))
        self.errors = () if verdict == "passed" else (finding,)

    def to_json(self) -> dict:
        return {"verdict": self.verdict}


@pytest.fixture
def audit(monkeypatch):
    """An audit that answers as told and remembers what it saw."""
    fake = types.ModuleType("emvfm.datasets.audit")
    fake.verdict, fake.seen = "passed", []

    def audit_dataset(dataset, seed=0):
        fake.seen.append((dataset, {s.id: dataset.image_path(s).is_file() for s in dataset.samples}))
        return _Report(fake.verdict)

    fake.audit_dataset = audit_dataset
    fake.write_contact_sheet = lambda dataset, path, flagged=(): path.write_bytes(b"sheet")
    monkeypatch.setitem(sys.modules, "emvfm.datasets.audit", fake)
    return fake


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "ws")


def _write(folder: Path, names, seed: int, *, mask: bool = False, size=(20, 24)) -> None:
    """Write images (or masks) whose content tells their position in `names`."""
    folder.mkdir(parents=True, exist_ok=True)
    for position, name in enumerate(names):
        rng = np.random.default_rng((seed, position))
        values = rng.integers(0, 256, size, dtype=np.uint8)
        if mask:
            values = np.zeros(size, np.uint8)
            values[2:8, 3 : 9 + position % 5] = 255
            values[10, position % size[1]] = 255
        (tifffile.imwrite if name.endswith(".tif") else lambda p, v: Image.fromarray(v).save(p))(
            folder / name, values
        )


def _folders(root: Path, n: int = 20, seed: int = 0, size=(20, 24)) -> Path:
    _write(root / "images", [f"im{k:03d}.tif" for k in range(n)], seed, size=size)
    _write(root / "masks", [f"{k}.png" for k in range(n)], seed, mask=True, size=size)
    return root


def _plus_plus(root: Path, n: int = 20) -> Path:
    for part, seed in (("Train", 1), ("Test", 2)):
        _write(root / f"{part}_In", [f"mask{k:04d}.png" for k in range(n)], seed)
        _write(root / f"{part}_Out", [f"{k}.png" for k in range(n)], seed, mask=True)
    return root


def _rows(dataset) -> list[dict[str, str]]:
    return list(csv.DictReader((dataset.root / "mapping.csv").open()))


def test_lucchi_layout_keeps_its_splits_and_carves_validation(tmp_path, workspace, audit):
    dataset = compose("lucchi", [_plus_plus(tmp_path / "src")], workspace)
    assert dataset.root == workspace.datasets / "lucchi"
    assert {s.domain for s in dataset.samples} == {"lucchi"}
    assert {s.pixel_size_nm for s in dataset.samples} == {5.0}
    test = dataset.split("test")
    assert [s.z for s in test.samples] == list(range(20))
    assert {s.volume for s in test.samples} == {"lucchi-test"}
    assert len(dataset.split("val")) == 2
    assert {s.volume for s in dataset.split("train", "val", "gap").samples} == {"lucchi-train"}
    assert dataset.meta["pairing"] == "numbers"
    assert dataset.meta["split"]["scheme"] == "given"
    assert dataset.meta["audit"] == "passed"
    assert "Lucchi" in dataset.meta["citation"]


def test_every_file_is_that_of_its_row(tmp_path, workspace, audit):
    source = _plus_plus(tmp_path / "src")
    dataset = compose("d", [source], workspace)
    rows = _rows(dataset)
    assert tuple(rows[0]) == MAPPING_COLUMNS
    assert len(rows) == len(dataset) == 40
    for sample, row in zip(dataset.samples, rows, strict=True):
        part = "Test" if sample.split == "test" else "Train"
        assert row["src_image_abs"] == str(source / f"{part}_In" / f"mask{sample.z:04d}.png")
        assert row["src_mask_abs"] == str(source / f"{part}_Out" / f"{sample.z}.png")
        assert (row["new_stem"], row["split"], row["dataset"]) == (sample.id, sample.split, sample.domain)
        assert sample.id == f"lucchi-{sample.split}-{sample.z:06d}"
        assert sample.image == row["new_image_rel"] == f"{sample.split}/images/{sample.id}.png"
        assert sample.mask == row["new_mask_rel"] == f"{sample.split}/masks/{sample.id}.png"
        assert np.array_equal(read_image(dataset.image_path(sample)), read_image(Path(row["src_image_abs"])))
        assert np.array_equal(read_mask(dataset.mask_path(sample)), read_mask(Path(row["src_mask_abs"])))
        data = dataset.image_path(sample).read_bytes()
        assert sample.image_sha256 == hashlib.sha256(data).hexdigest()
        assert not dataset.image_path(sample).is_symlink()
        assert (sample.height, sample.width) == (20, 24)


def test_vnc_layout_is_found_in_the_folder_its_parent_and_an_archive(tmp_path, workspace, audit):
    stack = tmp_path / "groundtruth-master" / "stack1"
    _write(stack / "raw", [f"{k:02d}.tif" for k in range(20)], 0)
    _write(stack / "mitochondria", [f"{k:02d}.png" for k in range(20)], 0, mask=True)
    digests = set()
    for n, folder in enumerate((stack, stack.parent, tmp_path)):
        dataset = compose(f"v{n}", [folder], workspace)
        digests.add(dataset.digest)
        assert {s.domain for s in dataset.samples} == {"vnc"}
        assert {s.pixel_size_nm for s in dataset.samples} == {4.6}
        assert all(s.image.endswith(".tif") for s in dataset.samples)
    assert len(digests) == 1
    reference = compose("r", [stack], workspace, ComposeOptions(split="random", val=0))
    assert [s.z for s in reference.split("test").samples] == [0, 3, 8]


def test_block_split_of_plain_folders(tmp_path, workspace, audit):
    source = _folders(tmp_path / "My Stack")
    dataset = compose("d", [source], workspace, ComposeOptions(pixel_size=8.0, gap=2, seed=3))
    assert {s.domain for s in dataset.samples} == {"my-stack"}
    assert {s.pixel_size_nm for s in dataset.samples} == {8.0}
    kept = [(s.z, s.split) for s in dataset.samples if s.split != "gap"]
    assert min(abs(a - b) for a, s in kept for b, t in kept if s != t) > 2
    assert sorted(s.z for s in dataset.samples) == list(range(20))
    named = compose("e", [source], workspace, ComposeOptions(domain=("axon",)))
    assert {s.domain for s in named.samples} == {"axon"}


def test_volumes_are_split_each_for_itself(tmp_path, workspace, audit):
    names = [f"v{v}_z{z:02d}" for v in (1, 2) for z in range(15)]
    _write(tmp_path / "s" / "images", [f"{n}.png" for n in names], 0)
    _write(tmp_path / "s" / "masks", [f"{n}.png" for n in names], 0, mask=True)
    dataset = compose("d", [tmp_path / "s"], workspace)
    for volume in ("s-stack-1", "s-stack-2"):
        part = [s for s in dataset.samples if s.volume == volume]
        assert sorted(s.z for s in part) == list(range(15))
        assert {s.split for s in part} == {"train", "val", "test", "gap"}


def test_images_without_slice_order_are_split_at_random_and_it_says_so(tmp_path, workspace, audit):
    names = [f"{chr(97 + k)}.png" for k in range(20)]
    _write(tmp_path / "s" / "images", names, 0)
    _write(tmp_path / "s" / "masks", names, 0, mask=True)
    dataset = compose("d", [tmp_path / "s"], workspace)
    assert {s.z for s in dataset.samples} == {None}
    assert "random" in dataset.meta["split"]["scheme"]
    assert len(dataset.split("test")) == 4


def test_tiff_stacks_expand_to_slices(tmp_path, workspace, audit):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60_000, (20, 16, 18), dtype=np.uint16)
    masks = np.zeros((20, 16, 18), np.uint8)
    masks[:, 3:9, 2:7] = 1
    masks[np.arange(20), 12, np.arange(20) % 18] = 1
    tifffile.imwrite(tmp_path / "em.tif", images)
    tifffile.imwrite(tmp_path / "gt.tif", masks)
    options = ComposeOptions(images=tmp_path / "em.tif", masks=tmp_path / "gt.tif", domain=("em",))
    dataset = compose("d", [], workspace, options)
    assert sorted(s.z for s in dataset.samples) == list(range(20))
    for sample in dataset.samples:
        assert np.array_equal(read_image(dataset.image_path(sample)), images[sample.z])
        assert np.array_equal(read_mask(dataset.mask_path(sample)), masks[sample.z] > 0)
    assert _rows(dataset)[0]["src_image_abs"].endswith("em.tif#0")


def test_merging_keeps_splits_pixel_sizes_and_origins(tmp_path, workspace, audit):
    compose("a", [_plus_plus(tmp_path / "a")], workspace)
    compose("b", [_folders(tmp_path / "b")], workspace, ComposeOptions(pixel_size=4.0, seed=2))
    both = compose("both", ["a", "b"], workspace)
    parts = [load_dataset(workspace.datasets / name) for name in "ab"]
    key = lambda s: (s.image_sha256, s.mask_sha256, s.split, s.domain, s.volume, s.z, s.pixel_size_nm)  # noqa: E731
    assert sorted(map(key, both.samples)) == sorted(key(s) for d in parts for s in d.samples)
    assert {row["src_image_abs"] for row in _rows(both)} == {
        row["src_image_abs"] for part in parts for row in _rows(part)
    }
    assert both.meta["split"] == {"scheme": "mixed"}
    with pytest.raises(UsageError, match="keep their pairing"):
        compose("c", ["a"], workspace, ComposeOptions(pairing="text-sorted"))


def test_the_same_names_from_two_sources_do_not_collide(tmp_path, workspace, audit):
    one, two = _folders(tmp_path / "x" / "em", seed=1), _folders(tmp_path / "y" / "em", seed=2)
    dataset = compose("d", [one, two], workspace)
    assert len({s.id for s in dataset.samples}) == len(dataset) == 40
    assert len({s.volume for s in dataset.samples}) == 2


def test_text_sorted_pairs_wrongly_and_is_recorded(tmp_path, workspace, audit):
    dataset = compose("d", [_plus_plus(tmp_path / "s")], workspace, ComposeOptions(pairing="text-sorted"))
    assert dataset.meta["pairing"] == "text-sorted"
    by_stem = {row["new_stem"]: row["src_mask_abs"] for row in _rows(dataset)}
    assert by_stem["lucchi-test-000002"].endswith("/10.png")


def test_composed_layout_of_the_reference_is_a_source(tmp_path, workspace, audit):
    dataset = compose("d", [_folders(tmp_path / "s")], workspace, ComposeOptions(gap=0))
    shutil.copytree(dataset.root, tmp_path / "copy")
    for name in ("dataset.json", "manifest.csv"):
        (tmp_path / "copy" / name).unlink()
    again = compose("e", [tmp_path / "copy"], workspace)
    assert {(s.image_sha256, s.mask_sha256, s.split) for s in again.samples} == {
        (s.image_sha256, s.mask_sha256, s.split) for s in dataset.samples
    }


def test_an_edited_source_is_noticed_through_its_hard_link(tmp_path, workspace, audit):
    source = _folders(tmp_path / "s")
    dataset = compose("d", [source], workspace)
    verify_files(dataset)
    with (source / "images" / "im004.tif").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(CorruptError, match=r"000004\.tif: file was changed"):
        verify_files(dataset)
    dataset.mask_path(dataset.samples[0]).unlink()
    with pytest.raises(MissingError, match="gone"):
        verify_files(dataset)


@pytest.mark.parametrize("link", ["hard", "copy", "sym"])
def test_links(tmp_path, workspace, audit, link):
    source = _folders(tmp_path / "s")
    dataset = compose("d", [source], workspace, ComposeOptions(link=link))
    sample = dataset.samples[0]
    path = dataset.image_path(sample)
    same = path.samefile(source / "images" / f"im{sample.z:03d}.tif")
    assert (path.is_symlink(), same) == {"hard": (False, True), "copy": (False, False), "sym": (True, True)}[
        link
    ]


def test_without_hard_links_files_are_copied(tmp_path, workspace, audit, monkeypatch):
    def no_link(*_):
        raise OSError(errno.EXDEV, "cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    dataset = compose("d", [_folders(tmp_path / "s")], workspace)
    assert all(read_mask(dataset.mask_path(s)).any() for s in dataset.samples)


def test_the_audit_sees_files_before_the_name_exists(tmp_path, workspace, audit):
    compose("d", [_folders(tmp_path / "s")], workspace)
    ((seen, files),) = audit.seen
    assert all(files.values())
    assert seen.root != workspace.datasets / "d"
    assert json.loads((workspace.datasets / "d" / "audit.json").read_text()) == {"verdict": "passed"}


def test_refused_data_leaves_only_the_findings(tmp_path, workspace, audit):
    audit.verdict = "refused"
    source = _folders(tmp_path / "s")
    with pytest.raises(RefusedError, match=r"masks fit other slices.*--force") as caught:
        compose("d", [source], workspace)
    assert caught.value.exit_code == 4
    assert not (workspace.datasets / "d").exists()
    kept = refused_folder(workspace, "d")
    assert sorted(p.name for p in kept.iterdir()) == ["audit.json", "contact_sheet.png"]
    forced = compose("d", [source], workspace, ComposeOptions(force=True))
    assert forced.meta["audit"] == "forced"
    assert not kept.exists()
    audit.verdict = "passed"
    assert compose("e", [source], workspace, ComposeOptions(force=True)).meta["audit"] == "passed"


def test_an_existing_dataset_is_replaced_only_on_request(tmp_path, workspace, audit):
    source = _folders(tmp_path / "s")
    first = compose("d", [source], workspace)
    with pytest.raises(UsageError, match="--replace"):
        compose("d", [source], workspace)
    second = compose("d", [source], workspace, ComposeOptions(replace=True, seed=1))
    assert first.digest != second.digest == load_dataset(workspace.datasets / "d").digest


def test_a_failed_replacement_leaves_the_old_dataset(tmp_path, workspace, audit):
    source = _folders(tmp_path / "s")
    first = compose("d", [source], workspace)
    (source / "images" / "im004.tif").write_bytes(b"")  # hard link: a new file, not the old content
    (source / "images" / "im004.tif").unlink()
    (source / "images" / "im004.tif").write_bytes(b"")
    with pytest.raises(CorruptError, match=r"im004\.tif: empty file"):
        compose("d", [source], workspace, ComposeOptions(replace=True))
    assert load_dataset(workspace.datasets / "d").digest == first.digest
    assert [p.name for p in workspace.datasets.iterdir()] == ["d"]


def test_sizes_that_differ_are_refused_together(tmp_path, workspace, audit):
    source = _folders(tmp_path / "s")
    for n in (3, 5):
        Image.fromarray(np.eye(30, dtype=np.uint8) * 255).save(source / "masks" / f"{n}.png")
    with pytest.raises(RefusedError, match=r"2 masks .*im003\.tif is 20x24 px, 3\.png is 30x30 px"):
        compose("d", [source], workspace)
    assert list(workspace.datasets.iterdir()) == []


def test_missing_masks(tmp_path, workspace, audit):
    source = _folders(tmp_path / "s", n=30)
    for n in (0, 1, 29):
        (source / "masks" / f"{n}.png").unlink()
    with pytest.raises(RefusedError, match=r"3 images without a mask .*im000\.tif"):
        compose("d", [source], workspace)
    dataset = compose("d", [source], workspace, ComposeOptions(allow_unmasked=True))
    bare = [s for s in dataset.samples if s.mask is None]
    assert sorted(s.z for s in bare) == [0, 1, 29]
    assert {s.split for s in bare} <= {"train", "gap"}
    kept = [(s.z, s.split) for s in dataset.samples if s.split != "gap"]
    assert min(abs(a - b) for a, s in kept for b, t in kept if s != t) > 1


def test_pairs_file(tmp_path, workspace, audit):
    _write(tmp_path / "i", [f"{c}{k}.png" for k, c in enumerate("qwertyuiop")], 0)
    _write(tmp_path / "m", [f"{c}.png" for c in "abcdefghij"], 0, mask=True)
    options = ComposeOptions(images=tmp_path / "i", masks=tmp_path / "m", split="random", test=0.2)
    with pytest.raises(RefusedError, match="--pairs"):
        compose("d", [], workspace, options)
    rows = "".join(
        f"{c}{k}.png,{m}.png\n" for k, (c, m) in enumerate(zip("qwertyuiop", "jihgfedcba", strict=True))
    )
    (tmp_path / "p.csv").write_text("image,mask\n" + rows)
    dataset = compose("d", [], workspace, ComposeOptions(**{**vars(options), "pairs": tmp_path / "p.csv"}))
    assert dataset.meta["pairing"] == "csv"
    found = {Path(r["src_image_abs"]).name: Path(r["src_mask_abs"]).name for r in _rows(dataset)}
    assert found["q0.png"] == "j.png"
    assert found["p9.png"] == "a.png"


def test_unknown_and_empty_sources(tmp_path, workspace, audit):
    with pytest.raises(MissingError, match="no such source"):
        compose("d", ["nowhere"], workspace)
    with pytest.raises(MissingError, match="data fetch kasthuri"):
        compose("d", ["kasthuri++"], workspace)
    (tmp_path / "empty" / "pictures").mkdir(parents=True)
    with pytest.raises(MissingError, match=r"no known layout.*pictures"):
        compose("d", [tmp_path / "empty"], workspace)
    (tmp_path / "bare" / "images").mkdir(parents=True)
    (tmp_path / "bare" / "masks").mkdir()
    (tmp_path / "bare" / "images" / "a.mrc").write_bytes(b"x")
    with pytest.raises(MissingError, match=r"no images here \(got \.mrc"):
        compose("d", [tmp_path / "bare"], workspace)
    with pytest.raises(UsageError, match="nothing to compose"):
        compose("d", [], workspace)
    for name in ("../x", "", ".hidden"):
        with pytest.raises(UsageError):
            compose(name, [tmp_path], workspace)
    assert not workspace.datasets.exists()


def test_phantom_folders_know_their_pixel_size(tmp_path, workspace, audit):
    from emvfm.datasets.phantom import write_phantom

    truth = write_phantom(tmp_path / "p", "a", 10, 64, 0)
    dataset = compose("d", [tmp_path / "p"], workspace)
    assert {s.domain for s in dataset.samples} == {"phantom-a"}
    assert {s.pixel_size_nm for s in dataset.samples} == {truth["pixel_size_nm"]}


def test_interruption_leaves_nothing(tmp_path, workspace, audit, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compose_module, "sha256_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compose("d", [_folders(tmp_path / "s")], workspace)
    assert list(workspace.datasets.iterdir()) == []


def test_composing_twice_gives_the_same_bytes(tmp_path, workspace, audit):
    source = _folders(tmp_path / "s")
    one, two = (compose(name, [source], workspace, ComposeOptions(seed=5)) for name in "ab")
    assert one.digest == two.digest
    assert (one.root / "manifest.csv").read_bytes() == (two.root / "manifest.csv").read_bytes()


@pytest.mark.slow
def test_real_data_passes_and_its_text_sorted_pairing_is_refused(shared_data, workspace):
    lucchi = compose("lucchi", [shared_data / "lucchi++"], workspace)
    assert (len(lucchi.split("test")), lucchi.meta["audit"]) == (37, "passed")
    vnc = compose("vnc", [shared_data / "vnc"], workspace)
    assert (len(vnc), vnc.meta["audit"]) == (20, "passed")
    with pytest.raises(RefusedError, match="fit other slices better"):
        compose("wrong", [shared_data / "lucchi++"], workspace, ComposeOptions(pairing="text-sorted"))
