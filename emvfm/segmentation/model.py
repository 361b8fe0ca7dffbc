"""What segments: a backbone with a head on its tokens, or a network that reads pixels alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.preprocess import Preprocess
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.heads import build_head, logits_at

__all__ = ["SegmentationModel", "build_model", "preprocess_of", "tokens_as_maps"]


def tokens_as_maps(patches: Tensor) -> Tensor:
    """Return ``(B, L D, h, w)`` from ``(B, L, h, w, D)`` patch tokens: layers side by side."""
    return patches.permute(0, 1, 4, 2, 3).flatten(1, 2)


@dataclass(frozen=True)
class SegmentationModel:
    """A network from normalised pixels to class logits; training, evaluation and prediction share it.

    Attributes
    ----------
    head
        What is trained in any case; without a backbone the whole network.
    backbone, layers
        Where its tokens come from, and of which blocks; None and empty for a network of its own.
    device
        Where it runs.
    multiple
        The sides of an input are multiples of this many pixels.
    """

    head: nn.Module
    backbone: Backbone | None
    layers: tuple[int, ...]
    device: torch.device
    multiple: int

    @property
    def sees_pixels(self) -> bool:
        """Whether the head needs the pixels beside the tokens."""
        return self.backbone is None or bool(getattr(self.head, "sees_pixels", False))

    def tokens(self, pixels: Tensor) -> Tensor:
        """Return ``(B, C, h, w)`` float32 tokens of normalised ``(B, 3, H, W)`` pixels, layers side by side."""
        assert self.backbone is not None
        return tokens_as_maps(self.backbone.tokens(pixels, self.layers).patches)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return ``(B, K, H, W)`` logits of normalised ``(B, 3, H, W)`` pixels."""
        pixels = pixels.to(self.device)
        if self.backbone is None:
            return self.head(pixels)
        return self.logits_of_tokens(self.tokens(pixels), pixels)

    def logits_of_tokens(self, tokens: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Return ``(B, K, H, W)`` logits of ``(B, C, h, w)`` tokens.

        Parameters
        ----------
        pixels
            ``(B, 3, H, W)``, normalised; only a head that sees them needs them.
        """
        size = (tokens.shape[-2] * self.multiple, tokens.shape[-1] * self.multiple)
        seen = None if pixels is None or not self.sees_pixels else pixels.to(self.device)
        return logits_at(self.head, tokens.to(self.device), size, seen)

    def train(self, mode: bool = True) -> None:
        """Put the head into training or evaluation mode; what the backbone does then is its trainer's choice."""
        self.head.train(mode)


def build_model(
    config: TrainConfig, backbone: Backbone | None, layers: Sequence[int] = ()
) -> SegmentationModel:
    """Return the model of `config` on an opened backbone, its head untrained and still in main memory."""
    assert backbone is not None
    head = build_head(
        config.head,
        len(layers) * backbone.width,
        layers=len(layers),
        patch=backbone.patch,
        width=config.width,
        dropout=config.dropout,
    )
    return SegmentationModel(head, backbone, tuple(layers), backbone.device, backbone.patch)


def preprocess_of(config: TrainConfig, model: SegmentationModel) -> Preprocess:
    """Return how images become input of `model`."""
    assert model.backbone is not None
    return Preprocess.for_backbone(model.backbone.spec, config)
