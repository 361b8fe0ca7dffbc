"""Losses for segmentation with an ignore label: cross entropy, Dice, Tversky, focal, boundary and sums.

A pixel labelled :data:`IGNORE` (padding, unlabelled) contributes to no sum, no mean and no gradient. All
losses compute in float32 whatever the precision of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from emvfm.errors import UsageError

__all__ = ["DEFAULT_LOSS", "IGNORE", "LOSSES", "Loss", "build_loss", "signed_distance"]

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
        - ``ce+boundary``, ``dice+boundary``: with the boundary term of arXiv:1812.07032, the mean over pixels
          of :func:`signed_distance` times the probability of a foreground class, less what the mask itself
          has, so that it is 0 at best. Alone it is satisfied by an empty answer, hence never without a
          companion. A class that a crop lacks or fills has no boundary there and adds nothing.
    class_weights
        K positive weights of the classes. Cross entropy and focal weigh pixels as
        :func:`torch.nn.functional.cross_entropy` does, whose mean is divided by the weights of the counted
        pixels; the other terms are weighted means over the classes they count.

    Returns
    -------
    Loss
        The function; it raises UsageError when the shapes or labels do not fit.

    Raises
    ------
    UsageError
        For an unknown name, weights that are not positive, or weights that could change nothing: those of two
        classes for a loss that counts the foreground alone.
    """
    if name not in TERMS:
        raise UsageError("unknown loss", where="loss", got=repr(name), expected=" | ".join(LOSSES))
    weights = None if class_weights is None else tuple(float(weight) for weight in class_weights)
    if weights is not None:
        if not all(0 < weight < float("inf") for weight in weights):
            raise UsageError("weights must be positive", where="class weights", got=list(weights))
        if len(weights) == 2 and not set(TERMS[name]) & COUNT_BACKGROUND:
            raise UsageError(
                "counts one class, so class weights change nothing",
                where=f"loss {name}",
                todo="leave the weights out",
            )

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


def _class_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Average values `(..., C)` over the classes by their weights `(C,)` and plainly over the rest."""
    return ((values * weights).sum(-1) / weights.sum()).mean()


def _dice(pixels: Pixels) -> Tensor:
    hit, extra, missed = (term.sum(0)[1:] for term in pixels.overlap())
    scores = (2 * hit + SMOOTH) / (2 * hit + extra + missed + SMOOTH)
    return 1 - _class_mean(scores, pixels.weights[1:])


def _tversky(pixels: Pixels) -> Tensor:
    hit, extra, missed = (term.sum(0)[1:] for term in pixels.overlap())
    cost = FALSE_POSITIVE_COST * extra + FALSE_NEGATIVE_COST * missed
    return 1 - _class_mean((hit + SMOOTH) / (hit + cost + SMOOTH), pixels.weights[1:])


def _dice_background(pixels: Pixels) -> Tensor:
    hit, extra, missed = pixels.overlap()
    scores = (2 * hit + REFERENCE_SMOOTH) / (2 * hit + extra + missed + REFERENCE_SMOOTH)
    return 1 - _class_mean(scores, pixels.weights)


def _boundary(pixels: Pixels) -> Tensor:
    target, counted = pixels.target.cpu().numpy(), pixels.counted.cpu().numpy()
    classes = range(1, pixels.log_probability.shape[1])
    distance = np.stack(
        [
            [signed_distance(mask == label, seen) for label in classes]
            for mask, seen in zip(target, counted, strict=True)
        ]
    )
    far = torch.from_numpy(distance).to(pixels.log_probability)
    truth = torch.stack([(pixels.target == label) & pixels.counted for label in classes], dim=1)
    excess = far * (pixels.log_probability[:, 1:].exp() - truth.float())  # `far` is 0 where ignored
    per_class = excess.sum((0, 2, 3)) / pixels.counted.sum().clamp_min(1)
    return _class_mean(per_class, pixels.weights[1:])


def signed_distance(mask: NDArray[np.bool_], counted: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Return the signed distance of every pixel from the boundary of a mask, in diagonals of the image.

    Parameters
    ----------
    mask
        ``(H, W)``, true inside.
    counted
        ``(H, W)``, false where nobody knows: such pixels are on neither side, so the border of what is known
        makes no boundary. Without it all count.

    Returns
    -------
    ndarray
        ``(H, W)`` float32 in (-1, 1), negative inside: the Euclidean distance to the centre of the nearest
        pixel of the other side less half a pixel, since the boundary runs between two centres. 0 where not
        counted, and everywhere if one side is empty.
    """
    from scipy.ndimage import distance_transform_edt

    seen = np.ones(mask.shape, bool) if counted is None else counted
    inside, outside = mask & seen, ~mask & seen
    if not inside.any() or not outside.any():
        return np.zeros(mask.shape, np.float32)
    # Each transform holds the distance to the one side, of which only what lies on the other is taken.
    signed = np.where(inside, 0.5 - distance_transform_edt(~outside), distance_transform_edt(~inside) - 0.5)
    return np.where(seen, signed / np.hypot(*mask.shape), 0).astype(np.float32)


TERMS: dict[str, tuple[Callable[[Pixels], Tensor], ...]] = {
    "ce": (_cross_entropy,),
    "dice": (_dice,),
    "dice-background": (_dice_background,),
    "ce+dice": (_cross_entropy, _dice),
    "tversky": (_tversky,),
    "focal": (_focal,),
    "ce+boundary": (_cross_entropy, _boundary),
    "dice+boundary": (_dice, _boundary),
}
LOSSES = tuple(TERMS)
COUNT_BACKGROUND = {_cross_entropy, _focal, _dice_background}
