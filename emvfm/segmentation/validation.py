"""How good a model is on validation slices: foreground IoU at native size, and the loss it is trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from emvfm.datasets.masks import read_mask
from emvfm.segmentation.geometry import at_native, target_of
from emvfm.segmentation.losses import Loss
from emvfm.segmentation.metrics import Counts, count, pooled
from emvfm.segmentation.model import SegmentationModel
from emvfm.segmentation.slices import Slices

__all__ = ["Score", "Validation"]


@dataclass(frozen=True)
class Score:
    """What one validation found.

    Attributes
    ----------
    iou
        Of the foreground, counts pooled over the slices at native size; in [0, 1].
    loss
        Mean over the slices, on the pixels of the model's input.
    """

    iou: float
    loss: float


@dataclass(frozen=True)
class Validation:
    """The validation slices of all datasets; training goes on afterwards as if nothing had been."""

    model: SegmentationModel
    sources: Sequence[Slices]
    loss: Loss

    def __len__(self) -> int:
        """Return the number of validation slices."""
        return sum(map(len, self.sources))

    def __call__(self) -> Score:
        """Score the model as it is; it draws no random number."""
        counts: list[Counts] = []
        losses: list[float] = []
        with self.model.evaluating():
            for slices in self.sources:
                for i, sample in enumerate(slices.samples):
                    path = slices.dataset.mask_path(sample)
                    assert path is not None
                    mask = read_mask(path)
                    logits, input_size = slices.input_logits(i)
                    grid = (
                        logits.shape[-2] // self.model.multiple,
                        logits.shape[-1] // self.model.multiple,
                    )
                    target = target_of(mask, grid, self.model.multiple, input_size).astype(np.int64)
                    with torch.inference_mode():
                        losses.append(
                            float(self.loss(logits, torch.from_numpy(target)[None].to(logits.device)))
                        )
                        native = at_native(logits, (sample.height, sample.width), input_size)[0]
                        counts.append(count((native[1] > native[0]).cpu().numpy(), mask))
        return Score(pooled(counts).iou, float(np.mean(losses)))
