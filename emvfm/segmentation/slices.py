"""The slices of a dataset as a model sees them: from stored tokens where it can, else from the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emvfm.backbones.preprocess import Preprocess
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.segmentation.geometry import as_map, at_native
from emvfm.segmentation.model import SegmentationModel
from emvfm.segmentation.windows import blend, plan
from emvfm.store.view import Embeddings

__all__ = ["Slices", "logits_in_windows"]


def logits_in_windows(model: SegmentationModel, pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Return ``(1, 2, H, W)`` logits of one image, in overlapping windows if it is larger than a tile.

    Blended is the difference of the logits, that of the foreground over that of the background; the
    background's own are 0 then, which changes no probability and no loss.

    Parameters
    ----------
    pixels
        ``(1, 3, H, W)``, normalised.
    """
    side = preprocess.tile * preprocess.patch
    if not side or max(pixels.shape[-2:]) <= side:
        return model.logits(pixels)
    size = (pixels.shape[-2], pixels.shape[-1])
    windows = plan(size, side, preprocess.overlap * preprocess.patch, preprocess.patch)
    height, width = windows.rows.window, windows.columns.window

    def compute(top: int, lefts: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        for left in lefts:
            logits = model.logits(pixels[..., top : top + height, left : left + width])[0]
            yield (logits[1] - logits[0]).cpu().numpy()

    difference = torch.from_numpy(np.concatenate([band.values for band in blend(windows, compute)]))
    return torch.stack([torch.zeros_like(difference), difference])[None].to(model.device)


@dataclass(frozen=True)
class Slices:
    """Slices in the order of their dataset, each with the model's answer at native size.

    Attributes
    ----------
    samples
        The slices, rows of the manifest of `dataset`.
    embeddings
        Stored tokens of these very slices; None: the backbone runs on each image.
    """

    model: SegmentationModel
    preprocess: Preprocess
    dataset: Dataset
    samples: Sequence[Sample]
    embeddings: Embeddings | None = None

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.samples)

    def logits(self, i: int) -> Tensor:
        """Return ``(1, K, H, W)`` logits of slice `i` at its native size, on the model's device."""
        with torch.inference_mode():
            logits, input_size = self.input_logits(i)
            sample = self.samples[i]
            return at_native(logits, (sample.height, sample.width), input_size)

    def input_logits(self, i: int) -> tuple[Tensor, str]:
        """Return ``(1, K, h p, w p)`` logits of slice `i` on the pixels of the model's input, and its input size."""
        sample = self.samples[i]
        preprocess = self.preprocess.at(sample.pixel_size_nm)
        with torch.inference_mode():
            if self.embeddings is None:
                pixels = self._pixels(sample, preprocess)
                return logits_in_windows(self.model, pixels, preprocess), preprocess.input_size
            tokens = torch.from_numpy(as_map(self.embeddings.patches(i)))[None]
            seen = self._pixels(sample, preprocess) if self.model.sees_pixels else None
            return self.model.logits_of_tokens(tokens, seen), preprocess.input_size

    def probability(self, i: int) -> NDArray[np.float32]:
        """Return ``(H, W)`` float32 foreground probability of slice `i` at its native size."""
        return self.logits(i).softmax(dim=1)[0, 1].cpu().numpy()

    def _pixels(self, sample: Sample, preprocess: Preprocess) -> Tensor:
        image = read_image(self.dataset.image_path(sample))
        return torch.from_numpy(preprocess.prepare(image).pixels)[None]
