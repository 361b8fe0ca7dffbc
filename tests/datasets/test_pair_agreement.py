"""Right pairings pass, wrong ones are refused, and the effect falls as pairs go wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from emvfm.datasets.pair_agreement import assess_pairing, image_maps, mask_bins, pair_vectors
from emvfm.datasets.phantom import DOMAINS, make_phantom


def _vectors(images, masks):
    return pair_vectors(np.stack([image_maps(i) for i in images]), np.stack([mask_bins(m) for m in masks]))


@pytest.fixture(scope="module")
def stacks():
    return {
        name: _vectors(phantom.images, phantom.masks)
        for name in DOMAINS
        for phantom in [make_phantom(name, 20, 160, seed=2)]
    }


def _judge(vectors, order=None, positions=None):
    vectors = vectors if order is None else vectors[:, np.asarray(order)]
    return assess_pairing(vectors, positions, permutations=300)


def test_pair_vectors_agree_with_a_naive_twin():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 3, 12, 12)).astype(np.float32)
    bins = rng.integers(-1, 7, size=(2, 12, 12)).astype(np.int8)
    vectors = pair_vectors(maps, bins).reshape(2, 2, 3, 6)
    for i in range(2):
        for j in range(2):
            ring = maps[i][:, bins[j] == 6].mean(axis=1)
            for k in range(6):
                expected = maps[i][:, bins[j] == k].mean(axis=1) - ring
                np.testing.assert_allclose(vectors[i, j, :, k], expected, rtol=1e-4, atol=1e-5)


def test_mask_bins_measure_the_distance_to_the_outline():
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    bins = mask_bins(mask)
    assert bins[32, 32] == 0  # deep inside
    assert bins[32, 16] == 2  # the first pixels inside
    assert bins[32, 15] == 3  # the first pixels outside
    assert bins[32, 5] == 6  # the ring
    assert bins[32, 0] == -1  # too far to matter
    assert (mask_bins(np.zeros((64, 64), bool)) == -1).all()


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_right_pairing_passes(stacks, name):
    judged = _judge(stacks[name])
    assert judged.refusal is None
    assert judged.p_value < 0.01
    assert judged.effect > 10
    assert judged.own_best_share > 0.9
    assert not any(judged.beaten)


@pytest.mark.parametrize("shift", [1, 2, 3, 7])
@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_every_shift_is_refused_and_named(stacks, name, shift):
    vectors = stacks[name]
    cut = vectors[:-shift, shift:]  # image i with mask i + shift
    judged = _judge(cut)
    assert judged.refusal is not None
    if shift < 6:
        text = "1 slice" if shift == 1 else f"{shift} slices"
        assert judged.alternative == f"masks moved {text} forward"


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_reversed_and_text_sorted_are_refused_and_named(stacks, name):
    n = len(stacks[name])
    assert _judge(stacks[name], range(n)[::-1]).alternative == "reversed order"
    order = sorted(range(n), key=str)
    judged = _judge(stacks[name], order, positions=range(n))
    assert judged.refusal is not None
    assert judged.alternative == "text-sorted masks put back in number order"
    assert judged.alternative_agreement > 2 * judged.agreement


def test_two_swapped_masks_are_found(stacks):
    order = list(range(20))
    order[3], order[12] = order[12], order[3]
    judged = _judge(stacks["a"], order)
    assert judged.refusal is not None
    assert [i for i, beaten in enumerate(judged.beaten) if beaten] == [3, 12]
    assert judged.best_offset[3] == 9
    assert judged.best_offset[12] == -9


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_agreement_falls_with_the_share_of_wrong_pairs(stacks, name):
    rng = np.random.default_rng(0)
    means = []
    for share in (0.0, 0.1, 0.25, 0.5, 1.0):
        values = []
        for _ in range(4):
            order = np.arange(20)
            wrong = rng.choice(20, int(share * 20), replace=False)
            order[wrong] = order[np.roll(wrong, 1)]
            values.append(_judge(stacks[name], order))
        means.append((np.mean([v.agreement for v in values]), np.mean([v.own_best_share for v in values])))
    agreement, own = np.array(means).T
    assert (np.diff(agreement) < 0).all()
    assert (np.diff(own) < 0).all()
    assert agreement[3] == pytest.approx(agreement[0] / 2, rel=0.25)  # in proportion to the right pairs


def test_contrast_and_polarity_do_not_matter():
    phantom = make_phantom("a", 12, 128, seed=4)
    judged = _judge(_vectors(255 - phantom.images, phantom.masks))
    assert judged.refusal is None
    assert judged.effect > 5
    squeezed = (phantom.images // 4 + 90).astype(np.uint8)
    assert _judge(_vectors(squeezed, phantom.masks)).refusal is None


@pytest.mark.parametrize("seed", range(3))
def test_slices_much_thinner_than_structures_are_no_false_alarm(seed):
    thin = dataclasses.replace(DOMAINS["a"], section_nm=4.0)
    phantom = make_phantom(thin, 24, 128, seed=seed)
    assert _judge(_vectors(phantom.images, phantom.masks)).refusal is None


def test_p_values_of_shuffled_pairings_are_not_small(stacks):
    """Under the null the test is exact: few shuffled pairings look significant."""
    rng = np.random.default_rng(3)
    p = [_judge(stacks["b"], rng.permutation(20)).p_value for _ in range(60)]
    assert np.mean(np.array(p) <= 0.05) < 0.15
    assert 0.35 < np.mean(p) < 0.65


@pytest.mark.slow
def test_right_substacks_pass_and_shuffled_ones_do_not(stacks):
    rng = np.random.default_rng(1)
    for vectors in stacks.values():
        for n in (8, 12):
            for start in range(0, 20 - n + 1, 2):
                part = vectors[start : start + n, start : start + n]
                assert _judge(part).refusal is None
                order = rng.permutation(n)
                if np.mean(order == np.arange(n)) < 0.5:
                    assert _judge(part, order).refusal is not None


def test_few_masks_are_judged_leniently(stacks):
    part = stacks["a"][:4, :4]
    assert _judge(part).refusal is None
    with pytest.raises(ValueError, match="at least 4"):
        _judge(part[:3, :3])


def test_same_seed_same_numbers(stacks):
    assert _judge(stacks["a"]).to_json() == _judge(stacks["a"]).to_json()
