"""Losses of heads, of logits: the mean over rows and classes, or over rows where classes compete; in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emvfm.errors import UsageError
from emvfm.localization.options import HeadOptions

if TYPE_CHECKING:
    import torch

__all__ = ["asymmetric_loss", "bce_loss", "focal_loss", "loss_of", "softmax_loss"]


def bce_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the binary cross-entropy of logits and labels ``(B, L)``."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(logits, labels)


def focal_loss(
    logits: torch.Tensor, labels: torch.Tensor, *, gamma: float = 2.0, alpha: float = 0.25
) -> torch.Tensor:
    """Return the sigmoid focal loss: what is already right counts little.

    -alpha_t (1 - p_t)^gamma log p_t, where p_t is the probability of the true side and alpha_t is `alpha` for
    positives, 1 - `alpha` for negatives (Lin et al. 2017, arXiv 1708.02002).
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    entropy = binary_cross_entropy_with_logits(logits, labels, reduction="none")
    wrong = torch.sigmoid(torch.where(labels > 0.5, -logits, logits))  # 1 - p_t without cancellation
    weight = alpha * labels + (1 - alpha) * (1 - labels)
    return (weight * wrong.pow(gamma) * entropy).mean()


def asymmetric_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    clip: float = 0.05,
) -> torch.Tensor:
    """Return the asymmetric loss: easy negatives count little, those below `clip` not at all.

    -(1 - p)^gamma_positive log p for positives; -q^gamma_negative log(1 - q) with q = max(p - clip, 0) for
    negatives (Ridnik et al. 2021, arXiv 2009.14119). The authors' code adds up where this takes the mean.
    """
    import torch
    from torch.nn.functional import logsigmoid

    probability = torch.sigmoid(logits)
    positive = torch.sigmoid(-logits).pow(gamma_positive) * logsigmoid(logits)
    if clip > 0:
        shifted = (probability - clip).clamp(min=0)
        negative = shifted.pow(gamma_negative) * torch.log1p(-shifted)
    else:
        negative = probability.pow(gamma_negative) * logsigmoid(-logits)
    return -torch.where(labels > 0.5, positive, negative).mean()


def softmax_loss(logits: torch.Tensor, labels: torch.Tensor, *, gamma: float = 0.0) -> torch.Tensor:
    """Return the mean over rows of -(1 - p)^gamma log p, where p is the softmax probability of a row's one label.

    0 is the cross-entropy; above that the focal loss of competing classes (arXiv 1708.02002, eq. 5, softmax), whose
    alpha has no place here: there are no negatives.
    """
    log_p = (logits.log_softmax(dim=1) * labels).sum(dim=1)
    if gamma == 0:
        return -log_p.mean()
    return -((-log_p.expm1()).clamp(min=0).pow(gamma) * log_p).mean()


def loss_of(logits: torch.Tensor, labels: torch.Tensor, options: HeadOptions) -> torch.Tensor:
    """Return the loss that the options name.

    Raises
    ------
    UsageError
        For a name that is none, or the asymmetric loss of competing classes, which has no easy negatives.
    """
    if options.single:
        if options.loss == "asymmetric":
            raise UsageError("the asymmetric loss is for several labels", where="loss", expected="bce, focal")
        return softmax_loss(logits, labels, gamma=options.focal_gamma if options.loss == "focal" else 0.0)
    if options.loss == "bce":
        return bce_loss(logits, labels)
    if options.loss == "focal":
        return focal_loss(logits, labels, gamma=options.focal_gamma, alpha=options.focal_alpha)
    if options.loss == "asymmetric":
        return asymmetric_loss(
            logits,
            labels,
            gamma_negative=options.gamma_negative,
            gamma_positive=options.gamma_positive,
            clip=options.clip,
        )
    raise UsageError("no such loss", where="loss", got=options.loss, expected="bce, focal, asymmetric")
