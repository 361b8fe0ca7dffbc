"""What segments: a backbone with a head on its tokens, or a U-Net that reads pixels alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.loading import load_backbone
from emvfm.backbones.precision import choose_device, choose_precision
from emvfm.backbones.preprocess import Preprocess
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.fusion import fuse
from emvfm.segmentation.heads import build_head, logits_at
from emvfm.segmentation.recipe import UNET
from emvfm.segmentation.unet import UNet
from emvfm.workspace import Workspace

__all__ = ["SegmentationModel", "build_model", "open_backbone", "preprocess_of", "tokens_as_maps"]


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
    amp
        Whether the head computes in bfloat16 (autocast; parameters stay float32).
    """

    head: nn.Module
    backbone: Backbone | None
    layers: tuple[int, ...]
    device: torch.device
    multiple: int
    amp: bool = False

    @property
    def sees_pixels(self) -> bool:
        """Whether the head needs the pixels, beside the tokens if there are any."""
        return self.backbone is None or bool(getattr(self.head, "sees_pixels", False))

    @property
    def label(self) -> str:
        """Honest name of the backbone, or of what takes its place."""
        return "U-Net from scratch" if self.backbone is None else self.backbone.label

    def tokens(self, pixels: Tensor) -> Tensor:
        """Return ``(B, C, h, w)`` float32 tokens of normalised ``(B, 3, H, W)`` pixels, layers side by side."""
        assert self.backbone is not None
        return tokens_as_maps(self.backbone.tokens(pixels, self.layers).patches)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return ``(B, K, H, W)`` float32 logits of normalised ``(B, 3, H, W)`` pixels."""
        pixels = pixels.to(self.device)
        if self.backbone is None:
            with self._autocast():
                return self.head(pixels).float()
        return self.logits_of_tokens(self.tokens(pixels), pixels)

    def logits_of_tokens(self, tokens: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Return ``(B, K, H, W)`` float32 logits of ``(B, C, h, w)`` tokens.

        Parameters
        ----------
        pixels
            ``(B, 3, H, W)``, normalised; only a head that sees them needs them.
        """
        size = (tokens.shape[-2] * self.multiple, tokens.shape[-1] * self.multiple)
        seen = None if pixels is None or not self.sees_pixels else pixels.to(self.device)
        with self._autocast():
            return logits_at(self.head, tokens.to(self.device), size, seen).float()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.amp else nullcontext()

    def train(self, mode: bool = True) -> None:
        """Put the head into training or evaluation mode; the backbone's mode is its trainer's choice."""
        self.head.train(mode)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put everything into evaluation mode, and back into the mode it was in."""
        modules = [self.head] if self.backbone is None else [self.head, self.backbone.module]
        modes = [module.training for module in modules]
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.train(mode)


def open_backbone(config: TrainConfig, workspace: Workspace) -> Backbone | None:
    """Return the backbone of `config`, fused as it says, or None where there is none to open."""
    return None if config.backbone == UNET else fuse(load_backbone(config, workspace), config.fuse)


def _half(config: TrainConfig, device: torch.device) -> bool:
    return config.amp and choose_precision("auto", device) == "bfloat16"


def build_model(config: TrainConfig, backbone: Backbone | None) -> SegmentationModel:
    """Return the model of a resolved `config` on an opened backbone, its head untrained and in main memory."""
    assert config.width is not None
    if backbone is None:
        unet = UNet(config.unet_width, config.unet_depth, dropout=config.dropout)
        device = choose_device(config.device)
        return SegmentationModel(unet, None, (), device, unet.multiple, _half(config, device))
    layers = backbone.choose_layers(config.layers)
    head = build_head(
        config.head,
        len(layers) * backbone.width,
        layers=len(layers),
        patch=backbone.patch,
        width=config.width,
        dropout=config.dropout,
        token_dropout=config.token_dropout,
    )
    amp = _half(config, backbone.device)
    return SegmentationModel(head, backbone, layers, backbone.device, backbone.patch, amp)


@dataclass(frozen=True)
class _PixelInput:
    """What a network without pretraining asks of its input: grey levels about zero, of about unit size."""

    patch: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


def preprocess_of(config: TrainConfig, model: SegmentationModel) -> Preprocess:
    """Return how images become input of `model`."""
    spec = _PixelInput(model.multiple) if model.backbone is None else model.backbone.spec
    return Preprocess.for_backbone(spec, config)
