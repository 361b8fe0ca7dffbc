from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emvfm.datasets.manifest import SPLITS, Dataset, Sample, load_dataset, save_dataset
from emvfm.errors import CorruptError, MissingError

_samples = st.builds(
    Sample,
    id=st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True),
    image=st.sampled_from(["train/images/a.png", "x/b, c.tif", 'q"uote.png', "ünïcode.png"]),
    mask=st.none() | st.just("m.png"),
    split=st.sampled_from(SPLITS),
    domain=st.sampled_from(["lucchi", "vnc"]),
    volume=st.sampled_from(["v1", "v,2"]),
    z=st.none() | st.integers(0, 10**6),
    height=st.integers(1, 10**5),
    width=st.integers(1, 10**5),
    pixel_size_nm=st.none() | st.floats(0.1, 1000),
    image_sha256=st.just("a" * 64),
    mask_sha256=st.none(),
).map(lambda s: replace(s, mask_sha256="b" * 64 if s.mask else None))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(samples=st.lists(_samples, max_size=6, unique_by=lambda s: s.id))
def test_what_is_saved_comes_back(tmp_path, samples):
    dataset = Dataset("d", tmp_path, tuple(samples), {"licence": "CC0", "split": {"scheme": "block"}})
    save_dataset(dataset)
    assert load_dataset(tmp_path) == dataset


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    samples = tuple(
        Sample(
            f"s{n}", f"i/{n}.png", f"m/{n}.png", "train", "d", "v", n, 4, 5, 5.0, f"{n:064x}", f"{n + 9:064x}"
        )
        for n in range(4)
    )
    return save_dataset(Dataset("d", tmp_path, samples))


def test_digest_is_of_content_and_not_of_names(dataset):
    renamed = replace(
        dataset,
        name="e",
        samples=tuple(replace(s, id="x" + s.id, image="y/" + s.image) for s in dataset.samples[::-1]),
    )
    assert renamed.digest == dataset.digest
    for change in (
        {"split": "test"},
        {"mask_sha256": "f" * 64},
        {"image_sha256": "f" * 64},
        {"pixel_size_nm": 4.6},
        {"z": 77},
        {"domain": "e"},
    ):
        changed = replace(dataset, samples=(replace(dataset.samples[0], **change), *dataset.samples[1:]))
        assert changed.digest != dataset.digest, change


def test_swapped_masks_change_the_digest(dataset):
    a, b, *rest = dataset.samples
    swapped = (replace(a, mask_sha256=b.mask_sha256), replace(b, mask_sha256=a.mask_sha256), *rest)
    assert replace(dataset, samples=swapped).digest != dataset.digest


def test_selection_keeps_order(dataset):
    assert [s.id for s in dataset.where(lambda s: s.z % 2 == 1).samples] == ["s1", "s3"]
    assert len(dataset.split("test", "val")) == 0
    bare = replace(dataset, samples=(replace(dataset.samples[0], mask=None), *dataset.samples[1:]))
    assert len(bare.annotated()) == 3
    assert bare.mask_path(bare.samples[0]) is None


def _edit(dataset: Dataset, old: str, new: str) -> None:
    path = dataset.root / "manifest.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("i/1.png", "../1.png"),
        ("i/1.png", "/etc/passwd"),
        ("i/1.png", "i\\1.png"),
        ("train", "training"),
        (",4,5,", ",four,5,"),
        (",4,5,", ",0,5,"),
        (",5.0,", ",nan,"),
        (",5.0,", ",-1,"),
        ("s2,", "s1,"),
        ("s2,", "../s2,"),
        ("id,image", "name,image"),
        (f",{0:064x},", ",,"),
        (f",{9:064x}", ""),
    ],
)
def test_damaged_rows_are_named(dataset, old, new):
    _edit(dataset, old, new)
    with pytest.raises(CorruptError, match=r"manifest\.csv"):
        load_dataset(dataset.root)


def test_edited_splits_and_cut_manifests_are_noticed(dataset):
    _edit(dataset, "train", "test")
    with pytest.raises(CorruptError, match="changed"):
        load_dataset(dataset.root)
    _edit(dataset, "test", "train")
    assert len(load_dataset(dataset.root)) == 4
    path = dataset.root / "manifest.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(CorruptError, match="cut"):
        load_dataset(dataset.root)


@pytest.mark.parametrize("value", [[], {"schema": 99, "name": "d"}, {"schema": 1}, {"schema": 1, "name": 3}])
def test_unknown_schema(dataset, value):
    (dataset.root / "dataset.json").write_text(json.dumps(value))
    with pytest.raises(CorruptError, match=r"dataset\.json"):
        load_dataset(dataset.root)


def test_binary_manifest_and_no_manifest(dataset, tmp_path):
    (dataset.root / "manifest.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(CorruptError):
        load_dataset(dataset.root)
    with pytest.raises(MissingError, match="data compose"):
        load_dataset(tmp_path / "absent")


def test_facts_come_back_and_belong_to_the_digest(dataset):
    facts = [{"label": "nuclear;cytosol", "compound (µM)": "5, of 10"}, {"label": ""}, {}, {"well": "A01"}]
    samples = tuple(replace(s, facts=f) for s, f in zip(dataset.samples, facts, strict=True))
    told = save_dataset(replace(dataset, samples=samples))
    again = load_dataset(dataset.root)
    names = ["label", "compound (µM)", "well"]
    assert [dict(s.facts) for s in again.samples] == [{n: f.get(n, "") for n in names} for f in facts]
    assert again.digest == told.digest != dataset.digest
    moved = replace(samples[3], facts={"plate": "A01"})
    assert replace(dataset, samples=(*samples[:3], moved)).digest != told.digest
    _edit(dataset, "A01", "A02")
    with pytest.raises(CorruptError, match="changed or cut"):
        load_dataset(dataset.root)


def test_datasets_without_facts_keep_the_digest_they_had(dataset):
    assert dataset.digest == "c7068fa1855e5a6fa01326e1194eb63e2f9d8834a332690d55b276fdd8b19a89"


@pytest.mark.parametrize("name", ["", " label", "a\nb", "split", "a=b", "\x1b[31m", "n" * 101, "\u200bx"])
def test_unusable_fact_names(dataset, name):
    odd = replace(dataset, samples=(replace(dataset.samples[0], facts={name: "x"}), *dataset.samples[1:]))
    with pytest.raises(CorruptError, match="column"):
        save_dataset(odd)


@pytest.mark.parametrize("value", ["a\nb", "a\0b", "\x1b[31m", "v" * 10_001, "\ud800"])
def test_unusable_facts(dataset, value):
    odd = replace(
        dataset, samples=(replace(dataset.samples[0], facts={"label": value}), *dataset.samples[1:])
    )
    with pytest.raises(CorruptError, match="label"):
        save_dataset(odd)


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("label,label", ",a,a"),
        ("split", ",train"),
        ("", ","),
        ("a\tb", ",x"),
        ("label", ""),
        ("label", ",a\x7fb"),
    ],
)
def test_manifests_with_odd_columns_are_refused(dataset, header, cells):
    path = dataset.root / "manifest.csv"
    first, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{first},{header}", *(row + cells for row in rows)]) + "\n")
    with pytest.raises(CorruptError, match=r"manifest\.csv"):
        load_dataset(dataset.root)


def test_too_many_columns(dataset):
    many = {f"c{n}": "x" for n in range(1001)}
    odd = replace(dataset, samples=tuple(replace(s, facts=many) for s in dataset.samples))
    with pytest.raises(CorruptError, match="too many columns"):
        save_dataset(odd)
