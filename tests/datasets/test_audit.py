"""The audit finds each thing it says it finds, and passes what is right."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from emvfm.datasets.audit import audit_dataset, require_passed, write_contact_sheet
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.datasets.phantom import make_phantom
from emvfm.errors import RefusedError
from emvfm.provenance import sha256_file

N = 12
SPLITS = ["train"] * 6 + ["gap"] + ["val"] + ["gap"] + ["test"] * 3


@pytest.fixture(scope="module")
def phantom():
    return make_phantom("b", N, 128, seed=3)


def _write(folder, images, masks, splits=SPLITS, domain="b", volume="b-1", pixel_size=7.5):
    samples = []
    for k, (image, mask) in enumerate(zip(images, masks, strict=True)):
        names = [f"images/{volume}-{k}.png", f"masks/{volume}-{k}.png"]
        for name, array in zip(names, (image, mask), strict=True):
            if array is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array if array.dtype == np.uint8 else array.astype(np.uint8) * 255).save(
                    folder / name
                )
        samples.append(
            Sample(
                id=f"{volume}-{k:02d}",
                image=names[0],
                mask=None if mask is None else names[1],
                split=splits[k],
                domain=domain,
                volume=volume,
                z=k,
                height=image.shape[0],
                width=image.shape[1],
                pixel_size_nm=pixel_size,
                image_sha256=sha256_file(folder / names[0]),
                mask_sha256=None if mask is None else sha256_file(folder / names[1]),
            )
        )
    return Dataset("d", folder, tuple(samples), {"split": {"scheme": "block", "gap": 1}})


@pytest.fixture
def dataset(tmp_path, phantom):
    return _write(tmp_path, phantom.images, phantom.masks)


def _audit(dataset):
    return audit_dataset(dataset, permutations=200)


def _codes(report, severity=None):
    return {f.code for f in report.findings if severity in (None, f.severity)}


def test_a_right_dataset_passes_without_a_warning(dataset):
    report = _audit(dataset)
    assert report.verdict == "passed"
    assert not _codes(report, "error") | _codes(report, "warning")
    assert report.sentence.startswith("passed: masks fit their own slices")
    assert report.statistics["b"]["samples"] == N
    json.dumps(report.to_json(), allow_nan=False)


def test_audit_is_deterministic(dataset):
    assert _audit(dataset).to_json() == _audit(dataset).to_json()


def test_shifted_masks_are_refused_in_plain_words(tmp_path, phantom):
    report = _audit(_write(tmp_path, phantom.images, np.roll(phantom.masks, -2, axis=0)))
    assert report.verdict == "refused"
    assert _codes(report, "error") == {"pairing"}
    assert "masks fit other slices better than their own" in report.sentence
    assert report.findings[0].samples


def test_a_swap_inside_one_of_two_stacks_names_that_stack(tmp_path, phantom):
    other = make_phantom("a", N, 128, seed=3)
    order = [3, 1, 2, 0, *range(4, N)]
    first = _write(tmp_path, phantom.images, phantom.masks)
    second = _write(tmp_path, other.images, other.masks[order], domain="a", volume="a-1", pixel_size=5.0)
    report = _audit(replace(first, samples=first.samples + second.samples))
    errors = [f for f in report.findings if f.severity == "error"]
    assert [f.code for f in errors] == ["pairing"]
    assert errors[0].message.startswith("a/a-1")
    assert set(errors[0].samples) == {"a-1-00", "a-1-03"}
    assert "pixel-sizes-differ" in _codes(report, "warning")


def test_stacks_with_the_same_z_twice_are_divided_by_split(tmp_path, phantom):
    twice = _write(tmp_path, phantom.images, phantom.masks, splits=["train"] * N)
    other = make_phantom("b", N, 128, seed=9)
    test = _write(tmp_path, other.images, other.masks, splits=["test"] * N, volume="b-2")
    samples = twice.samples + tuple(replace(s, volume="b-1") for s in test.samples)
    report = _audit(replace(twice, samples=samples))
    assert [p.name for p in report.pairings] == ["b/b-1 (train)", "b/b-1 (test)"]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda m: m * 0, "empty-masks"),
        (lambda m: ~m, "inverted-masks"),
        (lambda m: m | True, "full-masks"),
    ],
)
def test_spoilt_masks(tmp_path, phantom, spoil, code):
    masks = phantom.masks.copy()
    masks[4] = spoil(masks[4])
    report = _audit(_write(tmp_path, phantom.images, masks))
    found = {f.code: f for f in report.findings}
    assert found[code].samples == ("b-1-04",)
    assert found[code].severity == ("warning" if code == "empty-masks" else "error")


def test_all_masks_empty_or_inverted_are_refused(tmp_path, phantom):
    empty = _audit(_write(tmp_path / "e", phantom.images, phantom.masks & False))
    assert "empty-masks" in _codes(empty, "error")
    inverted = _audit(_write(tmp_path / "i", phantom.images, ~phantom.masks))
    assert "inverted-masks" in _codes(inverted, "error")


def test_size_mismatch(tmp_path, phantom):
    masks = list(phantom.masks)
    masks[2] = masks[2][:-8]
    report = _audit(_write(tmp_path, phantom.images, masks))
    finding = next(f for f in report.findings if f.code == "size-mismatch")
    assert finding.severity == "error"
    assert "120×128" in finding.message


def test_missing_damaged_and_changed_files(dataset):
    root = dataset.root
    (root / dataset.samples[0].image).unlink()
    (root / dataset.samples[1].mask).write_bytes(b"")
    Image.fromarray(np.zeros((128, 128), np.uint8)).save(root / dataset.samples[2].mask)
    report = _audit(dataset)
    found = {f.code: f.samples for f in report.findings if f.severity == "error"}
    assert found["missing-file"] == ("b-1-00",)
    assert "b-1-01" in found["unreadable"]
    assert {"b-1-01", "b-1-02"} <= set(found["changed-file"])


def test_duplicates_across_splits_are_errors_within_are_warnings(tmp_path, phantom):
    images = phantom.images.copy()
    images[11] = images[0]
    report = _audit(_write(tmp_path / "x", images, phantom.masks))
    assert "duplicates-across-splits" in _codes(report, "error")
    images = phantom.images.copy()
    images[1] = images[0]
    report = _audit(_write(tmp_path / "y", images, phantom.masks))
    assert "duplicates" in _codes(report, "warning")
    assert "duplicates-across-splits" not in _codes(report)


def test_near_duplicates_of_another_stack(tmp_path, phantom):
    first = _write(tmp_path, phantom.images, phantom.masks)
    brighter = np.clip(phantom.images[:4].astype(int) + 3, 0, 255).astype(np.uint8)
    copy = _write(tmp_path, brighter, phantom.masks[:4], splits=["test"] * 4, volume="b-9")
    report = _audit(replace(first, samples=first.samples + copy.samples))
    finding = next(f for f in report.findings if f.code == "near-duplicates-across-splits")
    assert finding.severity == "error"
    assert finding.numbers["pairs"] >= 3


def test_neighbours_across_splits(tmp_path, phantom):
    splits = ["train", "test"] * (N // 2)
    leaking = _write(tmp_path, phantom.images, phantom.masks, splits=splits)
    assert "neighbours-across-splits" in _codes(_audit(leaking), "error")
    by_name = replace(leaking, meta={"split": {"scheme": "random", "gap": 0}})
    report = _audit(by_name)
    assert "neighbours-across-splits" in _codes(report, "warning")
    assert report.verdict == "passed"


def test_merged_datasets_are_held_to_the_gap_all_promised(dataset):
    sources = [{"split": {"scheme": "block", "gap": 3}}, {"split": {"scheme": "block", "gap": 1}}]
    merged = replace(dataset, meta={"split": {"scheme": "mixed"}, "sources": sources})
    assert "neighbours-across-splits" not in _codes(_audit(merged))
    merged = replace(dataset, meta={"split": {"scheme": "mixed"}, "sources": sources[:1]})
    assert "neighbours-across-splits" in _codes(_audit(merged), "error")


def test_a_wider_gap_than_kept_is_seen(dataset):
    wide = replace(dataset, meta={"split": {"scheme": "block", "gap": 3}})
    assert "neighbours-across-splits" in _codes(_audit(wide), "error")


def test_constant_and_saturated_images(tmp_path, phantom):
    images = phantom.images.copy()
    images[0] = 7
    images[1][:64] = 255
    report = _audit(_write(tmp_path, images, phantom.masks))
    found = {f.code: f for f in report.findings}
    assert found["constant-images"].severity == "error"
    assert found["constant-images"].samples == ("b-1-00",)
    assert found["saturated-images"].samples == ("b-1-01",)


def test_unannotated_images_are_no_finding_but_counted(tmp_path, phantom):
    masks = [m if k % 2 else None for k, m in enumerate(phantom.masks)]
    report = _audit(_write(tmp_path, phantom.images, masks))
    assert report.statistics["b"]["annotated"] == N // 2
    assert report.verdict == "passed"


def test_too_few_masks_are_said_to_be_unjudged(tmp_path, phantom):
    report = _audit(_write(tmp_path, phantom.images[:3], phantom.masks[:3], splits=["train"] * 3))
    assert "pairing-not-judged" in _codes(report, "warning")
    assert "few-annotated" in _codes(report, "warning")


def test_long_stacks_are_judged_in_windows(tmp_path, phantom, monkeypatch):
    monkeypatch.setattr("emvfm.datasets.audit.WINDOW", 4)
    monkeypatch.setattr("emvfm.datasets.audit.ENOUGH_MASKS", 4)
    report = _audit(_write(tmp_path, phantom.images, phantom.masks))
    assert [len(p.ids) for p in report.pairings] == [4, 4, 4]
    assert sum((p.ids for p in report.pairings), ()) == tuple(f"b-1-{k:02d}" for k in range(N))


@pytest.mark.parametrize("verdict", [None, "refused", "forced"])
def test_only_a_passed_audit_is_enough(dataset, verdict):
    spoilt = replace(dataset, meta={"audit": verdict} if verdict else {})
    with pytest.raises(RefusedError, match=verdict or "no audit"):
        require_passed(spoilt, force=False)
    require_passed(spoilt, force=True)
    require_passed(replace(dataset, meta={"audit": "passed"}), force=False)


def test_contact_sheet_shows_outlines_and_flags(dataset, tmp_path):
    path = write_contact_sheet(dataset, tmp_path / "sheet.png", max_samples=6, flagged=("b-1-05",))
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert (pixels == (255, 176, 0)).all(axis=1).sum() > 100
    assert (pixels == (214, 40, 57)).all(axis=1).sum() > 100


def test_contact_sheet_of_damaged_and_wide_files(tmp_path, phantom):
    wide = np.tile(phantom.images[0], (1, 6))
    images = [wide, *phantom.images[1:4]]
    masks = [np.tile(phantom.masks[0], (1, 6)), *phantom.masks[1:4]]
    dataset = _write(tmp_path, images, masks, splits=["train"] * 4)
    (tmp_path / dataset.samples[1].image).write_bytes(b"nothing")
    sheet = Image.open(write_contact_sheet(dataset, tmp_path / "s.png"))
    assert sheet.width >= 4 * 240


@pytest.fixture(scope="module")
def real(shared_data):
    from emvfm.datasets.images import natural_key

    def rows(images, masks, split, domain, volume, text_sorted=False):
        images = sorted((shared_data / images).iterdir(), key=lambda p: natural_key(p.name))
        order = (lambda p: p.name) if text_sorted else (lambda p: natural_key(p.name))
        masks = sorted((shared_data / masks).iterdir(), key=order)
        for k, (image, mask) in enumerate(zip(images, masks, strict=True)):
            yield Sample(
                id=f"{volume}-{k:03d}",
                image=str(image.relative_to(shared_data)),
                mask=str(mask.relative_to(shared_data)),
                split=split,
                domain=domain,
                volume=volume,
                z=int("".join(c for c in image.stem if c.isdigit())),
                height=0,
                width=0,
                pixel_size_nm=5.0,
                image_sha256=sha256_file(image),
                mask_sha256=sha256_file(mask),
            )

    def make(text_sorted=False, shift=0):
        samples = [
            *rows("lucchi++/Train_In", "lucchi++/Train_Out", "train", "lucchi", "train", text_sorted),
            *rows("lucchi++/Test_In", "lucchi++/Test_Out", "test", "lucchi", "test", text_sorted),
            *rows("vnc/stack1/raw", "vnc/stack1/mitochondria", "train", "vnc", "vnc"),
        ]
        if shift:
            vnc = samples[-20:]
            moved = [
                replace(a, mask=b.mask, mask_sha256=b.mask_sha256)
                for a, b in zip(vnc[:-shift], vnc[shift:], strict=True)
            ]
            samples = moved
        return Dataset("real", shared_data, tuple(samples), {})

    return make


@pytest.mark.slow
def test_real_right_pairings_pass(real):
    report = _audit(real())
    assert report.verdict == "passed", report.sentence
    assert [len(p.ids) for p in report.pairings] == [55, 37, 20]
    assert min(p.agreement.effect for p in report.pairings) > 30


@pytest.mark.slow
def test_real_text_sorted_lucchi_is_refused(real):
    report = _audit(real(text_sorted=True))
    assert report.verdict == "refused"
    refused = {f.message.split(":")[0] for f in report.findings if f.code == "pairing"}
    assert refused == {"lucchi/train", "lucchi/test"}
    assert "text-sorted masks put back in number order" in report.sentence


@pytest.mark.slow
@pytest.mark.parametrize("shift", [1, 2, 5])
def test_real_shifted_vnc_is_refused(real, shift):
    assert _audit(real(shift=shift)).verdict == "refused"
