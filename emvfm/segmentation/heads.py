"""Segmentation heads: small networks that turn the token maps of a frozen or adapted ViT into class logits.

A head sees the concatenated tokens of the chosen layers, `(B, L * D, h, w)`, and answers at whatever stride
it reaches; :func:`logits_at` brings the answer to the size of the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd

from torch import Tensor, nn

from emvfm.errors import UsageError

__all__ = ["DEFAULT_HEAD", "HEADS", "build_head", "count_parameters", "logits_at"]

DEFAULT_HEAD = "deconv"
GROUPS = 8
NARROWEST = 32
REFERENCE_WIDTHS = (512, 256, 128, 64, 64)


def build_head(
    name: str, channels: int, *, width: int = 96, dropout: float = 0.2, classes: int = 2
) -> nn.Module:
    """Build an untrained head.

    Parameters
    ----------
    name
        One of :data:`HEADS`. ``linear``: channel LayerNorm, dropout and a 1x1 convolution, the probe.
        ``deconv``: two 3x3 convolutions at token resolution, then two learnt doublings; mitochondria span
        several patches, so most of the gain lies in the context between tokens. ``deconv-reference``: four
        learnt doublings with batch normalisation and no dropout, kept for comparison with earlier results.
    channels
        Channels C of the input, layers times width of the backbone.
    width
        Channels within ``deconv``; the other heads have none to choose.
    dropout
        Probability in [0, 1) of dropping a channel; ``deconv-reference`` has no dropout.
    classes
        Number K of classes, background included, at least 2.

    Returns
    -------
    nn.Module
        Maps tokens `(B, C, h, w)` float32 to logits `(B, K, s * h, s * w)` with s = 1, 4 or 16.

    Raises
    ------
    UsageError
        For an unknown name or a number out of range.
    """
    if name not in BUILDERS:
        raise UsageError("unknown head", where="head", got=repr(name), expected=" | ".join(HEADS))
    for what, value, least in (("channels", channels, 1), ("width", width, 1), ("classes", classes, 2)):
        if value < least:
            raise UsageError(
                "number too small", where=f"head {what}", got=value, expected=f"at least {least}"
            )
    if not 0 <= dropout < 1:
        raise UsageError("not a probability below one", where="head dropout", got=dropout, expected="[0, 1)")
    return BUILDERS[name](channels, width, dropout, classes)


def logits_at(head: nn.Module, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Apply a head and resample its logits bilinearly, pixel centres aligned as areas.

    Parameters
    ----------
    head
        A module of :func:`build_head`.
    tokens
        `(B, C, h, w)` float32.
    size
        Height and width of the logits in pixels.

    Returns
    -------
    Tensor
        Logits `(B, K, *size)`.
    """
    logits = head(tokens)
    if logits.shape[-2:] == tuple(size):
        return logits
    return nn.functional.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each token of a `(B, C, h, w)` map."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise every token on its own."""
        return super().forward(tokens.movedim(1, -1)).movedim(-1, 1)


def _linear(channels: int, width: int, dropout: float, classes: int) -> nn.Module:
    return nn.Sequential(ChannelNorm(channels), nn.Dropout(dropout), nn.Conv2d(channels, classes, 1))


def _deconv(channels: int, width: int, dropout: float, classes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Dropout2d(dropout), *_grouped(nn.Conv2d(channels, width, 1))]
    for _ in range(2):
        layers += _grouped(nn.Conv2d(width, width, 3, padding=1))
    layers.append(nn.Dropout2d(dropout))
    inside = width
    for _ in range(2):
        outside = max(inside // 2, NARROWEST)
        layers += _grouped(nn.ConvTranspose2d(inside, outside, 2, stride=2))
        layers += _grouped(nn.Conv2d(outside, outside, 3, padding=1))
        inside = outside
    return nn.Sequential(*layers, nn.Conv2d(inside, classes, 1))


def _deconv_reference(channels: int, width: int, dropout: float, classes: int) -> nn.Module:
    first, *rest = REFERENCE_WIDTHS
    layers = _batched(nn.Conv2d(channels, first, 1, bias=False))
    inside = first
    for outside in rest:
        layers += _batched(nn.ConvTranspose2d(inside, outside, 4, stride=2, padding=1, bias=False))
        layers += _batched(nn.Conv2d(outside, outside, 3, padding=1, bias=False))
        inside = outside
    return nn.Sequential(*layers, nn.Conv2d(inside, classes, 1))


def _grouped(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    outside = convolution.out_channels
    return [convolution, nn.GroupNorm(gcd(GROUPS, outside), outside), nn.GELU()]


def _batched(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.GELU()]


BUILDERS: dict[str, Callable[[int, int, float, int], nn.Module]] = {
    "linear": _linear,
    "deconv": _deconv,
    "deconv-reference": _deconv_reference,
}
HEADS = tuple(BUILDERS)
