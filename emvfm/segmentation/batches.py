"""Where training batches come from: cached tokens for a frozen backbone, image crops for an adapted one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.preprocess import Preprocess, at_pixel_size
from emvfm.backbones.views import PLAIN, View
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.datasets.masks import read_mask
from emvfm.errors import MissingError, UsageError
from emvfm.segmentation.augmentation import photometric, random_dihedral
from emvfm.segmentation.geometry import as_map, target_of
from emvfm.store.view import Embeddings

__all__ = ["Batches", "ImageCrops", "TokenCrops"]

#: Tokens of the training slices are kept in memory up to this; beyond it they are read at each step.
_MOST_BYTES = 8 * 2**30

Pick = tuple[int, int]


class Batches(Protocol):
    """A source of training batches over several datasets."""

    n_per_source: list[int]

    def batch(self, picks: Sequence[Pick], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return tokens ``(B, C, h, w)`` float32 and targets ``(B, h p, w p)`` int64 of (source, index) picks."""
        ...


def _mask(dataset: Dataset, sample: Sample) -> np.ndarray:
    path = dataset.mask_path(sample)
    if path is None:
        raise MissingError("a training slice has no mask", where=f"{dataset.name}/{sample.id}")
    return read_mask(path)


def _corner(rng: np.random.Generator, grid: tuple[int, int], side: int) -> tuple[int, int]:
    return int(rng.integers(grid[0] - side + 1)), int(rng.integers(grid[1] - side + 1))


def crop_side(crop: int, patch: int, grids: Sequence[tuple[int, ...]]) -> int:
    """Return the side of a crop in patches: `crop` pixels, or as much as the smallest image has.

    Raises
    ------
    UsageError
        `crop` holds no patch.
    """
    if crop < patch:
        raise UsageError("crop smaller than a patch", where="--crop", got=crop, expected=f"at least {patch}")
    return min(crop // patch, *(min(grid) for grid in grids))


class TokenCrops:
    """Crops of the token maps in the store, with the masks under them, flipped and turned together.

    A frozen backbone is never run here. Turning tokens is not turning the image (a ViT is not
    equivariant), but it keeps a head from learning the volume by heart; views that went through the
    backbone add what turning tokens can't.

    Parameters
    ----------
    sources
        For each dataset its embeddings in every view, in the order of `views`.
    crop
        Side in pixels of the model's input; smaller where an image is smaller.
    views
        How the embeddings show their images.
    """

    def __init__(
        self, sources: Sequence[Sequence[Embeddings]], crop: int, views: Sequence[View] = (PLAIN,)
    ) -> None:
        self.sources, self.views = [list(source) for source in sources], tuple(views)
        plain = self.sources[0][0]
        self.n_per_source = [len(source[0]) for source in sources]
        self.patch = plain.patch
        grids = [shown.grid(i) for source in sources for shown in source for i in range(len(shown))]
        self.side = crop_side(crop, self.patch, grids)
        item = 2 if plain.store.identity.dtype == "float16" else 4
        total = sum(h * w for h, w in grids) * len(plain.layers) * plain.width * item
        self._tokens: dict[tuple[int, int, int], np.ndarray] | None = {} if total <= _MOST_BYTES else None
        self._targets: dict[tuple[int, int, int], np.ndarray] = {}

    def _load(self, source: int, i: int, view: int) -> tuple[np.ndarray, np.ndarray]:
        key, shown = (source, i, view), self.sources[source][view]
        if key not in self._targets:
            mask = self.views[view](_mask(shown.dataset, shown.samples[i]))
            size = at_pixel_size(shown.input_size, shown.samples[i].pixel_size_nm)
            self._targets[key] = target_of(mask, shown.grid(i), self.patch, size)
        if self._tokens is None:
            return shown.patches(i), self._targets[key]
        if key not in self._tokens:
            self._tokens[key] = shown.patches(i)
        return self._tokens[key], self._targets[key]

    def batch(self, picks: Sequence[Pick], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        tokens, targets = [], []
        for source, i in picks:
            patches, target = self._load(source, i, int(rng.integers(len(self.views))))
            y, x = _corner(rng, patches.shape[1:3], self.side)  # type: ignore[arg-type]
            inside = as_map(patches[:, y : y + self.side, x : x + self.side])
            p, s = self.patch, self.side
            under = target[y * p : (y + s) * p, x * p : (x + s) * p]
            turn = random_dihedral(rng)
            tokens.append(turn(torch.from_numpy(inside)))
            targets.append(turn(torch.from_numpy(under.astype(np.int64))))
        return torch.stack(tokens), torch.stack(targets)


class ImageCrops:
    """Crops of the images through the backbone, with gradients: flipped, turned, and varied in grey level."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        backbone: Backbone,
        layers: Sequence[int],
        preprocess: Preprocess,
        crop: int,
    ) -> None:
        self.backbone, self.layers, self.preprocess = backbone, tuple(layers), preprocess
        self.n_per_source = [len(dataset) for dataset in datasets]
        self._mean = torch.tensor(preprocess.mean)[:, None, None]
        self._std = torch.tensor(preprocess.std)[:, None, None]
        self._items: list[list[tuple[np.ndarray, np.ndarray]]] = [
            [self._read(dataset, sample) for sample in dataset.samples] for dataset in datasets
        ]
        grids = [tuple(s // preprocess.patch for s in t.shape) for items in self._items for _, t in items]
        self.side = crop_side(crop, preprocess.patch, grids)

    def _read(self, dataset: Dataset, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Return grey levels ``(H, W)`` or ``(H, W, 3)`` float32 in [0, 1] at input size, and the target."""
        preprocess = self.preprocess.at(sample.pixel_size_nm)
        prepared = preprocess.prepare(read_image(dataset.image_path(sample)))
        channels = torch.from_numpy(prepared.pixels) * self._std + self._mean
        grey = channels.clamp_(0, 1).movedim(0, -1).numpy()
        if np.array_equal(grey[..., 0], grey[..., 1]) or np.ptp(grey, axis=-1).max() < 1e-4:
            grey = grey[..., 0]
        p, size = preprocess.patch, preprocess.input_size
        return np.ascontiguousarray(grey), target_of(_mask(dataset, sample), prepared.grid, p, size)

    def batch(self, picks: Sequence[Pick], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        images, targets = [], []
        side = self.side * self.preprocess.patch
        for source, i in picks:
            grey, target = self._items[source][i]
            y, x = _corner(rng, target.shape, side)  # type: ignore[arg-type]
            varied = photometric(grey[y : y + side, x : x + side], rng)
            planes = torch.from_numpy(varied if varied.ndim == 3 else varied[..., None]).movedim(-1, 0)
            turn = random_dihedral(rng)
            images.append(turn((planes - self._mean) / self._std))
            targets.append(turn(torch.from_numpy(target[y : y + side, x : x + side].astype(np.int64))))
        tokens = self.backbone.tokens(torch.stack(images), self.layers).patches
        b, n_layers, h, w, width = tokens.shape
        maps = tokens.permute(0, 1, 4, 2, 3).reshape(b, n_layers * width, h, w)
        return maps, torch.stack(targets)
