"""Which slices train and which judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from emvfm.datasets.manifest import Dataset, Sample
from emvfm.errors import UsageError
from emvfm.segmentation.parts import part

PLAIN = Sample(
    id="", image="", mask="m.png", split="train", domain="d", volume="v", z=0, height=8, width=8,
    pixel_size_nm=None, image_sha256="", mask_sha256=None,
)  # fmt: skip


def _dataset(*splits: str) -> Dataset:
    samples = tuple(replace(PLAIN, id=str(i), z=i, split=split) for i, split in enumerate(splits))
    return Dataset("d", Path(), samples, {})


def _ids(dataset: Dataset) -> list[str]:
    return [sample.id for sample in dataset.samples]


def test_the_splits_of_the_dataset_decide() -> None:
    parts = part(_dataset("train", "val", "test", "train", "gap"), "split")
    assert _ids(parts.train) == ["0", "3"]
    assert _ids(parts.val) == ["1"]
    assert _ids(parts.both) == ["0", "1", "3"]


@pytest.mark.parametrize(
    ("slices", "kept"),
    [(1, [5]), (2, [2, 7]), (3, [1, 5, 8]), (9, None), (10, None), (99, None), (None, None)],
)
def test_a_few_training_slices_are_evenly_spaced_and_validation_stays_whole(
    slices: int | None, kept: list[int] | None
) -> None:
    parts = part(_dataset(*["train"] * 10, "val", "val"), "split", slices)
    wanted = min(slices or 10, 10)
    assert len(parts.train) == wanted
    if kept is not None:
        assert _ids(parts.train) == [str(i) for i in kept]
    assert _ids(parts.val) == ["10", "11"]
    assert _ids(parts.both) == [*_ids(parts.train), "10", "11"]


def test_a_random_tenth_is_drawn_before_slices_are_left_out() -> None:
    dataset = _dataset(*["train"] * 30)
    all_of_them, few = part(dataset, "random"), part(dataset, "random", 4)
    assert len(all_of_them.val) == 3
    assert _ids(few.val) == _ids(all_of_them.val)
    assert len(few.train) == 4
    assert not set(_ids(few.train)) & set(_ids(few.val))


def test_without_training_slices_there_is_nothing_to_train() -> None:
    with pytest.raises(UsageError, match="no annotated slices"):
        part(_dataset("val", "test"), "split")
