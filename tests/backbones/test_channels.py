"""Channels into slots: formulas as twins, nothing depends on the order in the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emvfm.backbones.channels import SLOTS, apply_channels, join_inputs, natural_map, plan_channels
from emvfm.errors import UsageError


def _image(names: list[str], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 60_000, (len(names), 6, 5)).astype(np.uint16)


@settings(deadline=None, max_examples=60)
@given(
    st.permutations(["gfp", "hoechst", "tubulin"]),
    st.sampled_from(["replicate", "map", "random-map", "mean"]),
    st.sampled_from(["rgb", "hpa"]),
    st.sampled_from(["zero", "mean", "copy:gfp"]),
    st.integers(0, 5),
)
def test_the_order_of_channels_in_the_file_does_not_matter(order, strategy, slots, fill, seed) -> None:
    names = ["gfp", "hoechst", "tubulin"]
    image = _image(names)
    turned = image[[names.index(name) for name in order]]
    first = plan_channels(names, slots, strategy, fill=fill, seed=seed)
    second = plan_channels(order, slots, strategy, fill=fill, seed=seed)
    assert first == second
    for a, b in zip(apply_channels(image, names, first), apply_channels(turned, order, second), strict=True):
        np.testing.assert_array_equal(a, b)
    json.dumps(first.to_json())


def test_replicating_identical_channels_gives_copies() -> None:
    one = _image(["a"])
    names = ["a", "b", "c"]
    plan = plan_channels(names, "hpa", "replicate")
    inputs = apply_channels(np.repeat(one, 3, axis=0), names, plan)
    assert plan.outputs == ("a", "b", "c")
    for found in inputs:
        np.testing.assert_array_equal(found, np.repeat(one, 4, axis=0))
    embedded = join_inputs([found.mean(axis=(-1, -2)) for found in inputs])
    np.testing.assert_array_equal(embedded, np.tile(embedded[:4], 3))


def test_filling_with_zeros_leaves_mapped_slots_untouched() -> None:
    names = ["hoechst", "gfp"]
    image = _image(names)
    fills = {f: plan_channels(names, "hpa", "map", fill=f) for f in ("zero", "mean", "copy:hoechst")}
    inputs = {f: apply_channels(image, names, plan)[0] for f, plan in fills.items()}
    for found in inputs.values():
        np.testing.assert_array_equal(found[:2], image)
    assert not inputs["zero"][2:].any()
    np.testing.assert_allclose(inputs["mean"][2], image.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(inputs["copy:hoechst"][3], image[0])
    assert fills["zero"].text() == "map: map: nucleus=hoechst, protein=gfp, microtubules=zero, er=zero"


def test_names_say_where_channels_belong() -> None:
    assert natural_map(["GFP", "Hoechst"], SLOTS["hpa"]) == {"nucleus": "Hoechst", "protein": "GFP"}
    assert natural_map(["gfp", "dapi"], SLOTS["rgb"]) == {"red": "gfp", "green": "dapi"}
    assert natural_map(["blue", "green", "red"], SLOTS["rgb"]) == {c: c for c in ("red", "green", "blue")}
    assert natural_map(["x"], SLOTS["hpa"]) == {}


def test_a_map_by_hand_a_mean_and_a_bag() -> None:
    names = ["a", "b"]
    image = _image(names).astype(np.float32)
    by_hand = apply_channels(image, names, plan_channels(names, "rgb", "map", mapping={"blue": "a"}))[0]
    np.testing.assert_array_equal(by_hand[2], image[0])
    assert not by_hand[:2].any()
    mean = apply_channels(image, names, plan_channels(names, "rgb", "mean"))[0]
    np.testing.assert_allclose(mean, np.stack([image.mean(axis=0)] * 3), rtol=1e-6)
    bag = apply_channels(image, names, plan_channels(names, "gray", "bag"))
    np.testing.assert_array_equal(np.concatenate(bag), image)
    batch = apply_channels(np.stack([image, image + 1]), names, plan_channels(names, "rgb", "replicate"))
    assert [b.shape for b in batch] == [(2, 3, 6, 5)] * 2
    np.testing.assert_array_equal(batch[1][1, 2], image[1] + 1)


def test_random_maps_put_each_channel_once_and_every_way_happens() -> None:
    names = ["gfp", "hoechst"]
    seen = set()
    for seed in range(200):
        plan = plan_channels(names, "hpa", "random-map", seed=seed)
        held = [name for slot in plan.inputs[0] for name in slot]
        assert sorted(held) == names
        seen.add(plan.inputs)
    assert len(seen) == 12
    many = plan_channels(list("abcdef"), "rgb", "random-map", seed=1)
    assert len({slot for slot in many.inputs[0] if slot}) == 3


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((["a", "a"],), {}, "differ"),
        ((["a"], "cmyk"), {}, "no such kind of slots"),
        ((["a"], "rgb", "shuffle"), {}, "no such channel strategy"),
        ((["a"], "rgb", "bag"), {}, "needs one slot"),
        ((["a"], "rgb", "mean"), {"mapping": {"red": "a"}}, "for the strategy map"),
        ((["a"], "rgb", "map"), {"mapping": {"cyan": "a"}}, "no such slot"),
        ((["a"], "rgb", "map"), {"mapping": {"red": "b"}}, "no such channel"),
        ((["a"], "hpa", "map"), {}, "say which, such as nucleus=a"),
        ((["a"], "rgb", "mean"), {"fill": "copy:b"}, "no such fill"),
    ],
)
def test_what_fits_no_slot_is_refused(arguments, options, said) -> None:
    with pytest.raises(UsageError, match=said):
        plan_channels(*arguments, **options)


def test_an_image_of_other_channels_is_refused() -> None:
    plan = plan_channels(["a", "b"])
    with pytest.raises(UsageError, match="other channels"):
        apply_channels(np.zeros((2, 4, 4)), ["a", "c"], plan)
    with pytest.raises(UsageError, match="one name a channel"):
        apply_channels(np.zeros((3, 4, 4)), ["a", "b"], plan)
    with pytest.raises(UsageError, match="no embeddings"):
        join_inputs([])
