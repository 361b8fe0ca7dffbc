"""Pixel losses for segmentation with an ignore label: cross entropy, Dice, Tversky, focal and their sum.

A pixel labelled :data:`IGNORE` (padding, unlabelled) contributes to no sum, no mean and no gradient. All
losses compute in float32 whatever the precision of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from emvfm.errors import UsageError

__all__ = ["DEFAULT_LOSS", "IGNORE", "LOSSES", "Loss", "build_loss"]

IGNORE = 255
DEFAULT_LOSS = "ce+dice"
FALSE_POSITIVE_COST = 0.7
FALSE_NEGATIVE_COST = 0.3
FOCUS = 2.0
SMOOTH = 1.0
REFERENCE_SMOOTH = 1e-5

Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(name: str, *, class_weights: Sequence[float] | None = None) -> Loss:
    """Build a loss ``(logits, target) -> scalar``.

    Logits are `(B, K, H, W)` floating, targets `(B, H, W)` int64 in 0..K-1 or :data:`IGNORE`. Where every
    pixel is ignored the loss is 0 with a zero gradient.

    Parameters
    ----------
    name
        One of :data:`LOSSES`:

        - ``ce``: mean cross entropy over the counted pixels.
        - ``dice``: one minus the soft Dice of the foreground classes, pooled over the batch so that a crop
          without foreground is not all or nothing, smoothed by 1 (arXiv:1606.04797).
        - ``dice-background``: soft Dice of every class, background included, per image, smoothed by 1e-5,
          then averaged; the choice of earlier results.
        - ``ce+dice``: the sum of ``ce`` and ``dice``.
        - ``tversky``: false positives weigh 0.7 and false negatives 0.3, foreground classes pooled over the
          batch, smoothed by 1 (arXiv:1706.05721).
        - ``focal``: cross entropy times (1 - p) ** 2 (arXiv:1708.02002).
    class_weights
        K positive weights of the classes in the cross entropy terms, as in
        :func:`torch.nn.functional.cross_entropy`: the mean is divided by the weights of the counted pixels.

    Returns
    -------
    Loss
        The function; it raises UsageError when the shapes or labels do not fit.

    Raises
    ------
    UsageError
        For an unknown name, weights that are not positive, or weights for a loss without cross entropy.
    """
    if name not in TERMS:
        raise UsageError("unknown loss", where="loss", got=repr(name), expected=" | ".join(LOSSES))
    weights = None if class_weights is None else tuple(float(weight) for weight in class_weights)
    if weights is not None:
        if not set(TERMS[name]) & {_cross_entropy, _focal}:
            raise UsageError("takes no class weights", where=f"loss {name}", todo="leave the weights out")
        if not all(0 < weight < float("inf") for weight in weights):
            raise UsageError("weights must be positive", where="class weights", got=list(weights))

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        pixels = _pixels(logits, target, weights)
        return torch.stack([term(pixels) for term in TERMS[name]]).sum()

    return loss


@dataclass(frozen=True)
class Pixels:
    """What every term needs: log probabilities `(B, K, H, W)`, labels and the counted pixels `(B, H, W)`."""

    log_probability: Tensor
    target: Tensor
    counted: Tensor
    weights: Tensor

    def overlap(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return soft true positives, false positives and false negatives, each `(B, K)`."""
        counted = self.counted[:, None]
        probability = self.log_probability.exp() * counted
        labels = torch.arange(probability.shape[1], device=probability.device)[:, None, None]
        truth = (self.target[:, None] == labels) & counted
        hit = (probability * truth).sum((2, 3))
        return hit, probability.sum((2, 3)) - hit, truth.sum((2, 3)) - hit

    def surprise(self) -> Tensor:
        """Return minus the log probability of the label `(B, H, W)`, 0 where ignored."""
        picked = self.log_probability.gather(1, self.target[:, None])[:, 0]
        return -picked * self.counted

    def weighted_mean(self, values: Tensor) -> Tensor:
        """Average values `(B, H, W)` over the counted pixels by the weights of their classes."""
        weight = self.weights[self.target] * self.counted
        return (values * weight).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)


def _pixels(logits: Tensor, target: Tensor, weights: tuple[float, ...] | None) -> Pixels:
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise UsageError("wrong shape", where="logits", got=tuple(logits.shape), expected="(B, K >= 2, H, W)")
    classes = logits.shape[1]
    shape = (logits.shape[0], *logits.shape[2:])
    if tuple(target.shape) != shape:
        raise UsageError("wrong shape", where="target", got=tuple(target.shape), expected=shape)
    if target.dtype != torch.int64:
        raise UsageError("wrong dtype", where="target", got=target.dtype, expected=torch.int64)
    if weights is not None and len(weights) != classes:
        raise UsageError("one weight per class", where="class weights", got=len(weights), expected=classes)
    counted = target != IGNORE
    labels = torch.where(counted, target, 0)
    if bool(((labels < 0) | (labels >= classes)).any()):
        expected = f"0..{classes - 1} or {IGNORE}"
        raise UsageError(
            "label without a class", where="target", got=target.unique().tolist(), expected=expected
        )
    # Logits at ignored pixels are replaced, not multiplied by zero: an infinity there would become a NaN.
    finite = torch.where(counted[:, None], logits.float(), 0.0)
    row = torch.ones(classes) if weights is None else torch.tensor(weights)
    return Pixels(functional.log_softmax(finite, dim=1), labels, counted, row.to(finite))


def _cross_entropy(pixels: Pixels) -> Tensor:
    return pixels.weighted_mean(pixels.surprise())


def _focal(pixels: Pixels) -> Tensor:
    surprise = pixels.surprise()
    miss = -torch.expm1(-surprise)
    return pixels.weighted_mean(miss**FOCUS * surprise)


def _dice(pixels: Pixels) -> Tensor:
    hit, extra, missed = (term.sum(0)[1:] for term in pixels.overlap())
    return 1 - ((2 * hit + SMOOTH) / (2 * hit + extra + missed + SMOOTH)).mean()


def _tversky(pixels: Pixels) -> Tensor:
    hit, extra, missed = (term.sum(0)[1:] for term in pixels.overlap())
    cost = FALSE_POSITIVE_COST * extra + FALSE_NEGATIVE_COST * missed
    return 1 - ((hit + SMOOTH) / (hit + cost + SMOOTH)).mean()


def _dice_background(pixels: Pixels) -> Tensor:
    hit, extra, missed = pixels.overlap()
    return 1 - ((2 * hit + REFERENCE_SMOOTH) / (2 * hit + extra + missed + REFERENCE_SMOOTH)).mean()


TERMS: dict[str, tuple[Callable[[Pixels], Tensor], ...]] = {
    "ce": (_cross_entropy,),
    "dice": (_dice,),
    "dice-background": (_dice_background,),
    "ce+dice": (_cross_entropy, _dice),
    "tversky": (_tversky,),
    "focal": (_focal,),
}
LOSSES = tuple(TERMS)
