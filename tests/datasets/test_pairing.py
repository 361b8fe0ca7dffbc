from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emvfm.datasets.images import list_images
from emvfm.datasets.pairing import check_rule, pair, pair_as_listed, read_pairs, slice_numbers
from emvfm.errors import CorruptError, MissingError, RefusedError, UsageError


def _dict(pairing) -> dict[str, str | None]:
    return {p.image: p.mask for p in pairing.pairs}


def _names(pattern: str, numbers) -> list[str]:
    return [pattern.format(n) for n in numbers]


def test_lucchi_names_pair_by_number_and_never_by_order():
    images, masks = _names("mask{:04d}.png", range(165)), _names("{}.png", range(165))
    result = pair(images, masks)
    assert result.rule == "numbers"
    assert not result.deliberate_error
    assert [(p.image, p.mask, p.key) for p in result.pairs] == [
        (f"mask{n:04d}.png", f"{n}.png", (n,)) for n in range(165)
    ]


def test_text_sorted_reproduces_the_defect():
    images, masks = _names("mask{:04d}.png", range(165)), _names("{}.png", range(165))
    wrong = pair(images, masks, "text-sorted")
    offsets = [abs(p.key[0] - int(p.mask.removesuffix(".png"))) for p in wrong.pairs]
    assert offsets.count(0) == 2  # what the reference's mapping gives on 165 slices
    assert max(offsets) == 145
    assert round(sum(offsets) / 165) == 74
    assert wrong.deliberate_error
    assert [p.key for p in wrong.pairs] == [(n,) for n in range(165)]


@given(
    numbers=st.lists(st.integers(0, 99_999), min_size=2, max_size=30, unique=True),
    width=st.integers(1, 6),
    seed=st.integers(0, 100),
    patterns=st.sampled_from(
        [("img_{}", "lab-{}-gt"), ("em5nm_z{}", "{}"), ("s{}.ome", "s{}_mask"), ("a{}", "a{}")]
    ),
)
def test_any_order_and_padding_gives_the_same_right_pairs(numbers, width, seed, patterns):
    image = {n: patterns[0].format(f"{n:0{width}d}") + ".tif" for n in numbers}
    mask = {n: patterns[1].format(n) + ".png" for n in numbers}
    images, masks = list(image.values()), list(mask.values())
    random.Random(seed).shuffle(images)
    random.Random(seed + 1).shuffle(masks)
    result = pair(images, masks)
    assert _dict(result) == {image[n]: mask[n] for n in numbers}
    assert [p.key for p in result.pairs] == [(n,) for n in sorted(numbers)]


def test_equal_stems_pair_even_without_numbers():
    result = pair(["ca1.tif", "cortex.tif"], ["cortex.png", "ca1.png"])
    assert _dict(result) == {"ca1.tif": "ca1.png", "cortex.tif": "cortex.png"}
    assert result.found == "equal names"


def test_several_numbers_pair_as_tuples():
    images = [f"v{v}_z{z:03d}.tif" for v in (1, 2) for z in range(3)]
    masks = [f"label_v{v}_z{z}.png" for z in range(3) for v in (1, 2)]
    result = pair(images, masks)
    assert all(p.mask == f"label_v{p.key[0]}_z{p.key[1]}.png" for p in result.pairs)


_REFUSED = {
    "no number": (["a.png", "b.png"], ["x.png", "y.png"], "no number|naming patterns"),
    "number twice": (["i1.png", "i01.png", "i2.png"], ["1.png", "2.png", "3.png"], "same number"),
    "masks count from one": (_names("i{}.png", range(4)), _names("m{}.png", range(1, 5)), "count from 0"),
    "mask too many": (_names("i{}.png", range(4)), _names("m{}.png", range(5)), "without an image"),
    "image too many": (_names("i{}.png", range(5)), _names("m{}.png", range(4)), "--allow-unmasked"),
    "nothing in common": (_names("i{}.png", range(4)), _names("m{}.png", range(10, 14)), "in common"),
    "patterns": (["a1.png", "b2.png"], ["1.png", "2.png"], "naming patterns"),
    "numbers disagree": (["a1_1.png", "a2_2.png"], ["1.png", "2.png"], "2 numbers vary"),
    "two orders": (
        [f"x{a}_y{b}.png" for a in (1, 2) for b in (1, 2)],
        [f"y{a}_x{b}_m.png" for a in (1, 2) for b in (1, 2)],
        "more than one order",
    ),
    "one with another": (["i3.png"], ["m4.png"], "in common"),
}


@pytest.mark.parametrize("case", list(_REFUSED))
def test_ambiguity_is_refused_with_what_to_do(case):
    images, masks, reason = _REFUSED[case]
    with pytest.raises(RefusedError, match=reason) as caught:
        pair(images, masks)
    assert "--pairs" in str(caught.value) or "--allow-unmasked" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unmasked_images_only_on_request_and_masks_never_alone():
    images, masks = _names("i{}.png", range(5)), _names("m{}.png", [1, 3])
    result = pair(images, masks, allow_unmasked=True)
    assert _dict(result) == {
        "i0.png": None,
        "i1.png": "m1.png",
        "i2.png": None,
        "i3.png": "m3.png",
        "i4.png": None,
    }
    with pytest.raises(RefusedError, match="without an image"):
        pair(images, [*masks, "m9.png"], allow_unmasked=True)
    assert _dict(pair(images, ["m3.png"], allow_unmasked=True))["i3.png"] == "m3.png"


def test_one_image_and_one_mask_with_the_same_number():
    assert _dict(pair(["em5_12.png"], ["mask_012.png"])) == {"em5_12.png": "mask_012.png"}


def test_shift_moves_masks_by_slices():
    images, masks = _names("i{:02d}.png", range(10)), _names("{}.png", range(10))
    shifted = pair(images, masks, "shift:3")
    assert [int(p.mask[:-4]) for p in shifted.pairs] == [(n + 3) % 10 for n in range(10)]
    back = pair(images, masks, "shift:-1")
    assert back.pairs[0].mask == "9.png"
    with pytest.raises(UsageError, match="changes nothing"):
        pair(images, masks, "shift:20")


@given(n=st.integers(2, 60), share=st.floats(0.05, 1), seed=st.integers(0, 20))
def test_scramble_moves_the_share_asked_for_and_keeps_the_masks(n, share, seed):
    images, masks = _names("i{:02d}.png", range(n)), _names("{}.png", range(n))
    result = pair(images, masks, f"scramble:{share}", seed=seed)
    moved = sum(p.mask != f"{p.key[0]}.png" for p in result.pairs)
    assert moved == max(2, round(share * n))
    assert sorted(p.mask for p in result.pairs) == sorted(masks)
    assert result == pair(images, masks, f"scramble:{share}", seed=seed)


@pytest.mark.parametrize(
    "rule", ["", "sorted", "shift", "shift:0", "shift:x", "scramble:0", "scramble:1.2", "numbers:1"]
)
def test_unknown_rules(rule):
    with pytest.raises(UsageError, match="numbers, text-sorted"):
        check_rule(rule)


def test_list_of_pairs(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("image,mask\nz2.png,b.png\nz1.png,a.png\nz3.png,\n", encoding="utf-8-sig")
    rows = read_pairs(path)
    images, masks = ["z1.png", "z2.png", "z3.png", "unused.png"], ["a.png", "b.png"]
    with pytest.raises(RefusedError, match="--allow-unmasked"):
        pair_as_listed(rows, images, masks)
    result = pair_as_listed(rows, images, masks, allow_unmasked=True)
    assert [(p.image, p.mask, p.key) for p in result.pairs] == [
        ("z1.png", "a.png", (1,)),
        ("z2.png", "b.png", (2,)),
        ("z3.png", None, (3,)),
    ]
    with pytest.raises(MissingError, match="not there"):
        pair_as_listed([("z9.png", "a.png")], images, masks)
    with pytest.raises(RefusedError, match="several"):
        pair_as_listed([("z1.png", "a.png"), ("z2.png", "a.png")], images, masks)


@pytest.mark.parametrize("text", ["", "image,label\na,b\n", "image,mask\n", "image,mask\n,b\n"])
def test_bad_lists_of_pairs(tmp_path, text):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(CorruptError):
        read_pairs(tmp_path / "p.csv")
    with pytest.raises(MissingError):
        read_pairs(tmp_path / "absent.csv")


def test_slice_numbers_are_those_that_vary():
    assert slice_numbers(["t5_s08.png", "t5_s09.png"]) == [(8,), (9,)]
    assert slice_numbers(["stack.tif#0", "stack.tif#11"]) == [(0,), (11,)]
    assert slice_numbers(["a1.png", "b2.png"]) == [(), ()]


def test_real_names_pair(shared_data):
    for images, masks, right in (
        ("lucchi++/Train_In", "lucchi++/Train_Out", lambda name: f"{int(name[4:8])}.png"),
        ("vnc/stack1/raw", "vnc/stack1/mitochondria", lambda name: name.replace(".tif", ".png")),
    ):
        left = [p.name for p in list_images(shared_data / images)]
        result = pair(left, [p.name for p in list_images(shared_data / masks)])
        assert _dict(result) == {name: right(name) for name in left}
