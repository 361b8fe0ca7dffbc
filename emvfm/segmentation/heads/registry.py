"""The table of heads, and how a head is built and applied."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from emvfm.errors import UsageError
from emvfm.segmentation.heads.blocks import HeadShape
from emvfm.segmentation.heads.deconv import deconv
from emvfm.segmentation.heads.detail import Detail
from emvfm.segmentation.heads.dpt import DensePrediction
from emvfm.segmentation.heads.fpn import FeaturePyramid
from emvfm.segmentation.heads.linear import linear
from emvfm.segmentation.heads.reference import deconv_reference
from emvfm.segmentation.heads.unet import TokenUNet

__all__ = ["DEFAULT_HEAD", "HEADS", "build_head", "count_parameters", "logits_at"]

DEFAULT_HEAD = "detail"

BUILDERS: dict[str, Callable[[HeadShape], nn.Module]] = {
    "linear": linear,
    "deconv": deconv,
    "deconv-reference": deconv_reference,
    "dpt": DensePrediction,
    "fpn": FeaturePyramid,
    "detail": Detail,
    "unet": TokenUNet,
}
HEADS = tuple(BUILDERS)


def build_head(
    name: str,
    channels: int,
    *,
    layers: int = 1,
    patch: int = 16,
    width: int = 96,
    dropout: float = 0.2,
    classes: int = 2,
    token_dropout: float = 0.0,
) -> nn.Module:
    """Build an untrained head.

    Parameters
    ----------
    name
        One of :data:`HEADS`. ``linear``: channel LayerNorm, dropout and a 1x1 convolution, the probe.
        ``deconv``: two 3x3 convolutions at token resolution, then two learnt doublings; mitochondria span
        several patches, so most of the gain lies in the context between tokens. ``deconv-reference``: four
        learnt doublings with batch normalisation and no dropout, kept for comparison with earlier results.
        ``dpt``: layers become levels of different resolution, refined and added from the coarsest up.
        ``fpn``: all layers make one map, whose doublings form a pyramid that is added from the top down.
        ``detail``: convolutions over the pixels meet the tokens and lead back up to eight points a patch;
        outlines come from the image, the decision from the tokens. ``unet``: the plain U-Net over the pixels,
        to which the tokens are added on its way down.
    channels
        Channels C of the input, `layers` times the width D of the backbone.
    layers
        Blocks whose tokens lie side by side in the input; heads over several levels take them apart.
    patch
        Pixels of the model's input along a side of a token; matters to heads that see pixels.
    width
        Channels within the head; ``linear`` and ``deconv-reference`` have none to choose.
    dropout
        Probability in [0, 1) of dropping a channel; ``deconv-reference`` has no dropout.
    classes
        Number K of classes, background included, at least 2.
    token_dropout
        Probability in [0, 1) that a head which sees pixels has to do without the tokens of an image.

    Returns
    -------
    nn.Module
        ``forward(tokens, pixels=None)`` maps tokens `(B, C, h, w)` float32 to logits `(B, K, s h, s w)` at
        the stride s of the head; its attribute ``sees_pixels`` says whether it also needs the normalised
        pixels `(B, 3, h patch, w patch)` float32, which other heads ignore.

    Raises
    ------
    UsageError
        For an unknown name, a number out of range, or channels that are no multiple of `layers`.
    """
    if name not in BUILDERS:
        raise UsageError("unknown head", where="head", got=repr(name), expected=" | ".join(HEADS))
    return BUILDERS[name](HeadShape(channels, layers, patch, width, dropout, classes, token_dropout))


def logits_at(head: nn.Module, tokens: Tensor, size: tuple[int, int], pixels: Tensor | None = None) -> Tensor:
    """Apply a head and resample its logits bilinearly, pixel centres aligned as areas.

    Parameters
    ----------
    head
        A module of :func:`build_head`.
    tokens
        `(B, C, h, w)` float32.
    size
        Height and width of the logits in pixels.
    pixels
        `(B, 3, h patch, w patch)` float32 normalised, for a head that sees them.

    Returns
    -------
    Tensor
        Logits `(B, K, *size)`.
    """
    logits = head(tokens) if pixels is None else head(tokens, pixels)
    if logits.shape[-2:] == tuple(size):
        return logits
    return nn.functional.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
