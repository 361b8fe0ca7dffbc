"""The losses against naive sums over pixels, library functions and their own invariants."""

from __future__ import annotations

import math
from itertools import product
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss

from emvfm.errors import UsageError
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.losses import DEFAULT_LOSS, IGNORE, LOSSES, build_loss, signed_distance


def _batch(seed: int, classes: int = 2, ignored: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, classes, 5, 6)) * 2
    target = rng.integers(classes, size=(3, 5, 6))
    target[rng.random(target.shape) < ignored] = IGNORE
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(target)


def _probabilities(logits: torch.Tensor) -> np.ndarray:
    exponential = np.exp(logits.double().numpy())
    return exponential / exponential.sum(axis=1, keepdims=True)


def _naive_pixelwise(logits: torch.Tensor, target: torch.Tensor, weights: list[float], focus: float) -> float:
    p, t = _probabilities(logits), target.numpy()
    total = norm = 0.0
    for b, y, x in product(*map(range, t.shape)):
        if t[b, y, x] != IGNORE:
            chance = p[b, t[b, y, x], y, x]
            total -= weights[t[b, y, x]] * (1 - chance) ** focus * math.log(chance)
            norm += weights[t[b, y, x]]
    return total / norm


def _naive_overlap(p: np.ndarray, t: np.ndarray, label: int) -> tuple[float, float, float]:
    """Soft true positives, false positives and false negatives of one class over `(n, K, H, W)`."""
    hit = extra = missed = 0.0
    for b, y, x in product(*map(range, t.shape)):
        if t[b, y, x] == IGNORE:
            continue
        chance = p[b, label, y, x]
        if t[b, y, x] == label:
            hit += chance
            missed += 1 - chance
        else:
            extra += chance
    return hit, extra, missed


def _naive_distance(mask: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Signed distance in diagonals by looking at every pair of pixels."""
    places = list(product(*map(range, mask.shape)))
    found = np.zeros(mask.shape)
    for y, x in places:
        others = [(v, u) for v, u in places if counted[v, u] and mask[v, u] != mask[y, x]]
        if counted[y, x] and others:
            away = min(math.dist((y, x), other) for other in others) - 0.5
            found[y, x] = (-away if mask[y, x] else away) / math.hypot(*mask.shape)
    return found


def _naive_boundary(p: np.ndarray, t: np.ndarray, weights: list[float]) -> float:
    counted, total = t != IGNORE, 0.0
    for label in range(1, p.shape[1]):
        for b in range(len(t)):
            far = _naive_distance(t[b] == label, counted[b])
            total += weights[label] * (far * (p[b, label] - (t[b] == label))).sum()
    return total / counted.sum() / sum(weights[1:])


def _naive(
    name: str, logits: torch.Tensor, target: torch.Tensor, weights: list[float] | None = None
) -> float:
    p, t = _probabilities(logits), target.numpy()
    classes = p.shape[1]
    weights = weights or [1.0] * classes
    if "+" in name:
        return sum(_naive(term, logits, target, weights) for term in name.split("+"))
    if name == "ce":
        return _naive_pixelwise(logits, target, weights, 0)
    if name == "focal":
        return _naive_pixelwise(logits, target, weights, 2)
    if name == "boundary":
        return _naive_boundary(p, t, weights)
    total = norm = 0.0
    if name == "dice-background":
        for b, label in product(range(len(t)), range(classes)):
            hit, extra, missed = _naive_overlap(p[b : b + 1], t[b : b + 1], label)
            total += weights[label] * (2 * hit + 1e-5) / (2 * hit + extra + missed + 1e-5)
            norm += weights[label]
    else:
        for label in range(1, classes):
            hit, extra, missed = _naive_overlap(p, t, label)
            dice = (2 * hit + 1) / (2 * hit + extra + missed + 1)
            tversky = (hit + 1) / (hit + 0.7 * extra + 0.3 * missed + 1)
            total += weights[label] * (dice if name == "dice" else tversky)
            norm += weights[label]
    return 1 - total / norm


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2, 4])
def test_every_loss_equals_a_naive_sum_over_pixels(name: str, classes: int) -> None:
    for seed in range(3):
        logits, target = _batch(seed, classes)
        assert build_loss(name)(logits, target).item() == pytest.approx(
            _naive(name, logits, target), rel=1e-5
        )


def test_cross_entropy_equals_the_library_ones() -> None:
    logits, target = _batch(0, classes=3)
    counted = (target != IGNORE).numpy()
    rows = np.moveaxis(_probabilities(logits), 1, -1)[counted]
    got = build_loss("ce")(logits, target).item()
    assert got == pytest.approx(log_loss(target.numpy()[counted], rows, labels=[0, 1, 2]), rel=1e-5)
    weights = [0.5, 2.0, 3.0]
    want = torch.nn.functional.cross_entropy(
        logits, target, weight=torch.tensor(weights), ignore_index=IGNORE
    ).item()
    assert build_loss("ce", class_weights=weights)(logits, target).item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_takes_class_weights_as_the_naive_sum_does(name: str) -> None:
    logits, target = _batch(1, classes=3)
    weights = [0.5, 2.0, 3.0]
    got = build_loss(name, class_weights=weights)(logits, target).item()
    assert got == pytest.approx(_naive(name, logits, target, weights), rel=1e-5)
    scaled = build_loss(name, class_weights=[7 * weight for weight in weights])(logits, target).item()
    assert scaled == pytest.approx(got, rel=1e-5)
    assert build_loss(name, class_weights=[2.0] * 3)(logits, target).item() == pytest.approx(
        build_loss(name)(logits, target).item(), rel=1e-5
    )
    assert got != pytest.approx(build_loss(name)(logits, target).item(), rel=1e-3)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("label", [0, 1])
def test_a_target_of_one_class_gives_finite_values_and_gradients(name: str, classes: int, label: int) -> None:
    logits = torch.randn(2, classes, 6, 7).requires_grad_()
    loss = build_loss(name)(logits, torch.full((2, 6, 7), label))
    loss.backward()
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_huge_logits_leave_values_and_gradients_finite(name: str) -> None:
    _, target = _batch(3)
    logits = (torch.randn(3, 2, 5, 6) * 1e4).requires_grad_()
    loss = build_loss(name)(logits, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 0.6))
@settings(max_examples=30, deadline=None)
def test_signed_distances_are_the_naive_ones_and_change_sign_with_the_mask(
    seed: int, share: float, unknown: float
) -> None:
    rng = np.random.default_rng(seed)
    mask, counted = rng.random((5, 7)) < share, rng.random((5, 7)) >= unknown
    found = signed_distance(mask, counted)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, _naive_distance(mask, counted), atol=1e-6)
    assert np.array_equal(found, -signed_distance(~mask, counted))


def test_distances_of_a_half_plane_grow_evenly_and_unlabelled_borders_make_no_boundary() -> None:
    mask = np.zeros((4, 10), bool)
    mask[:, 6:] = True
    row = (np.arange(10) - 5.5) / math.hypot(4, 10)
    np.testing.assert_allclose(signed_distance(mask), np.tile(-row, (4, 1)), atol=1e-6)
    counted = np.ones_like(mask)
    counted[:, 3:6] = False
    assert not signed_distance(mask, counted)[:, 3:6].any()
    assert signed_distance(mask, counted)[0, 6] == pytest.approx(-3.5 / math.hypot(4, 10))


def test_the_boundary_term_costs_more_the_farther_a_mistake_is_from_the_boundary() -> None:
    target = torch.zeros(1, 16, 16, dtype=torch.int64)
    target[:, :, :4] = 1
    costs = []
    for column in (4, 8, 15):
        guess = target.clone()
        guess[:, 8, column] = 1
        logits = torch.stack([1 - guess, guess], dim=1) * 60.0
        both = build_loss("dice+boundary")(logits, target) - build_loss("dice")(logits, target)
        costs.append(both.item())
    want = [(column - 3.5) / math.hypot(16, 16) / 256 for column in (4, 8, 15)]
    assert costs == pytest.approx(want, abs=1e-6)


def test_dice_of_certain_predictions_is_one_minus_f1_up_to_the_smoothing() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.random((2, 2, 64, 64)) < 0.4
    logits = torch.tensor(np.stack([np.where(guess, -50.0, 50.0), np.where(guess, 50.0, -50.0)], axis=1))
    got = build_loss("dice")(logits, torch.tensor(truth).long()).item()
    assert got == pytest.approx(1 - f1_score(truth.ravel(), guess.ravel()), abs=1e-3)


@pytest.mark.parametrize("name", LOSSES)
@given(seed=st.integers(0, 1000), change=st.sampled_from([-1e4, 3.0, float("inf"), float("nan")]))
@settings(max_examples=15, deadline=None)
def test_logits_at_ignored_pixels_change_neither_value_nor_gradient(
    name: str, seed: int, change: float
) -> None:
    logits, target = _batch(seed)
    ignored = (target == IGNORE)[:, None].expand_as(logits)
    changed = torch.where(ignored, logits + change, logits)
    results = []
    for each in (logits, changed):
        leaf = each.clone().requires_grad_()
        loss = build_loss(name)(leaf, target)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not results[0][1][ignored].any()
    assert results[0][1][~ignored].any()


@pytest.mark.parametrize("name", LOSSES)
def test_only_ignored_pixels_give_zero_and_a_zero_gradient(name: str) -> None:
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    loss = build_loss(name)(logits, torch.full((2, 4, 4), IGNORE))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_certain_right_answer_costs_nothing_and_a_wrong_one_the_most(name: str) -> None:
    target = (torch.arange(64).reshape(1, 8, 8) % 3 == 0).long()
    right = torch.stack([1 - target, target], dim=1) * 60.0 - 30
    loss = build_loss(name)
    assert loss(right, target).item() == pytest.approx(0, abs=1e-5)
    assert loss(right, target).item() < loss(0 * right, target).item() < loss(-right, target).item()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    logits, target = _batch(5)
    loss, leaf = build_loss(name), logits.clone().requires_grad_()
    loss(leaf, target).backward()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    step = 1e-2
    slope = (loss(logits + step * direction, target) - loss(logits - step * direction, target)) / (2 * step)
    assert leaf.grad is not None
    assert (leaf.grad * direction).sum().item() == pytest.approx(slope.item(), abs=2e-3)


def test_tversky_punishes_false_positives_more_than_false_negatives() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    target[:, :4] = 1

    def certain(rows: int) -> torch.Tensor:
        mask = torch.zeros(1, 8, 8)
        mask[:, :rows] = 1
        return torch.stack([1 - mask, mask], dim=1) * 60.0

    loss = build_loss("tversky")
    assert loss(certain(5), target).item() == pytest.approx(1 - 33 / (33 + 0.7 * 8), rel=1e-4)
    assert loss(certain(3), target).item() == pytest.approx(1 - 25 / (25 + 0.3 * 8), rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_are_computed_in_float32(name: str) -> None:
    logits, target = _batch(2)
    half = logits.bfloat16()
    loss = build_loss(name)(half, target)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, build_loss(name)(half.float(), target))


def test_misuse_is_a_usage_error() -> None:
    logits, target = _batch(0)
    assert DEFAULT_LOSS in LOSSES
    with pytest.raises(UsageError, match="unknown loss"):
        build_loss("lovasz")
    for name in ("dice", "tversky", "dice+boundary"):
        with pytest.raises(UsageError, match="change nothing"):
            build_loss(name, class_weights=[1, 2])
    with pytest.raises(UsageError, match="positive"):
        build_loss("ce", class_weights=[1, 0])
    with pytest.raises(UsageError, match="one weight per class"):
        build_loss("ce", class_weights=[1, 2, 3])(logits, target)
    loss = build_loss("ce")
    for wrong in (target[:2], target[..., :-1], target[:, None], target[0]):
        with pytest.raises(UsageError, match="target: wrong shape"):
            loss(logits, wrong)
    with pytest.raises(UsageError, match="logits: wrong shape"):
        loss(logits[:, :1], target)
    with pytest.raises(UsageError, match="wrong dtype"):
        loss(logits, target.int())
    for label in (2, -1):
        with pytest.raises(UsageError, match="label without a class"):
            loss(logits, torch.full_like(target, label))


def test_the_option_offers_what_there_is() -> None:
    assert set(get_args(get_type_hints(TrainConfig)["loss"])) == set(LOSSES)
