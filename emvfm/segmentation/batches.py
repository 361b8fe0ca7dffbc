"""Where training batches come from: cached tokens for a frozen backbone, image crops for any other network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emvfm.backbones.preprocess import Preprocess, at_pixel_size
from emvfm.backbones.views import PLAIN, View
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.datasets.masks import read_mask
from emvfm.errors import MissingError
from emvfm.segmentation.augmentation import augment, margin_of
from emvfm.segmentation.cropping import Cropping, Size, around, beyond
from emvfm.segmentation.geometry import as_map, target_of
from emvfm.segmentation.losses import IGNORE
from emvfm.segmentation.warping import draw_warp, resample, resample_tokens
from emvfm.store.view import Embeddings

__all__ = ["Batch", "Batches", "ImageCrops", "TokenCrops"]

#: Tokens of the training slices are kept in memory up to this; beyond it they are read at each step.
_MOST_BYTES = 8 * 2**30

Pick = tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Crops of one size, in main memory.

    Attributes
    ----------
    targets
        ``(B, H, W)`` int64: class of each pixel, or `losses.IGNORE`.
    tokens
        ``(B, C, h, w)`` float32, layers side by side; None where the backbone is still to run.
    pixels
        ``(B, 3, H, W)`` float32, normalised; None where nothing sees them.
    """

    targets: Tensor
    tokens: Tensor | None = None
    pixels: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.targets)


class Batches(Protocol):
    """A source of training batches over several datasets."""

    n_per_source: list[int]

    def batch(self, picks: Sequence[Pick], rng: np.random.Generator) -> Batch:
        """Return the crops of (source, index) picks."""
        ...

    def foreground(self) -> list[list[float]]:
        """Return the share of foreground of every slice of every source."""
        ...


def _mask(dataset: Dataset, sample: Sample) -> np.ndarray:
    path = dataset.mask_path(sample)
    if path is None:
        raise MissingError("a training slice has no mask", where=f"{dataset.name}/{sample.id}")
    return read_mask(path)


class _GreyLevels:
    """Images at the size of the model's input, as grey levels in [0, 1], and back to normalised pixels."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess
        self._mean = torch.tensor(preprocess.mean)[:, None, None]
        self._std = torch.tensor(preprocess.std)[:, None, None]

    def read(self, dataset: Dataset, sample: Sample, view: View = PLAIN) -> tuple[NDArray[np.float32], Size]:
        """Return ``(H, W)`` or ``(H, W, 3)`` float32 in [0, 1], and the rows and columns of patches."""
        preprocess = replace(self.preprocess.at(sample.pixel_size_nm), view=view)
        prepared = preprocess.prepare(read_image(dataset.image_path(sample)))
        channels = torch.from_numpy(prepared.pixels) * self._std + self._mean
        grey = channels.clamp_(0, 1).movedim(0, -1).numpy()
        if np.array_equal(grey[..., 0], grey[..., 1]) or np.ptp(grey, axis=-1).max() < 1e-4:
            grey = grey[..., 0]
        return np.ascontiguousarray(grey), prepared.grid

    def normalised(self, grey: np.ndarray) -> Tensor:
        """Return ``(3, H, W)`` float32."""
        planes = torch.from_numpy(grey if grey.ndim == 3 else grey[..., None]).movedim(-1, 0)
        return (planes - self._mean) / self._std


class TokenCrops:
    """Crops of the token maps in the store, with the masks under them, flipped and turned together.

    A frozen backbone is never run here. Turning tokens is not turning the image (a ViT is not
    equivariant), but it keeps a head from learning the volume by heart; views that went through the
    backbone add what turning tokens can't.

    Parameters
    ----------
    sources
        For each dataset its embeddings in every view, in the order of `views`.
    cropping
        Where crops lie, and how the grey levels of their pixels change where the head sees them; the tokens stay
        those of the image as it is, which teaches a head to lean on them.
    views
        How the embeddings show their images.
    preprocess
        Of the plain view, where the head sees the pixels of a crop beside its tokens.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Embeddings]],
        cropping: Cropping,
        views: Sequence[View] = (PLAIN,),
        preprocess: Preprocess | None = None,
    ) -> None:
        self.sources, self.views = [list(source) for source in sources], tuple(views)
        self.cropping = cropping
        plain = self.sources[0][0]
        self.n_per_source = [len(source[0]) for source in sources]
        self.patch = plain.patch
        grids = [shown.grid(i) for source in sources for shown in source for i in range(len(shown))]
        self.size = cropping.size(self.patch, grids)
        self._grey = None if preprocess is None else _GreyLevels(preprocess)
        item = 2 if plain.store.identity.dtype == "float16" else 4
        each = len(plain.layers) * plain.width * item + (4 * self.patch**2 if self._grey else 0)
        total = sum(h * w for h, w in grids) * each
        self._kept: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray | None]] | None = (
            {} if total <= _MOST_BYTES else None
        )
        self._targets: dict[tuple[int, int, int], NDArray[np.uint8]] = {}

    def _target(self, source: int, i: int, view: int) -> NDArray[np.uint8]:
        key, shown = (source, i, view), self.sources[source][view]
        if key not in self._targets:
            mask = self.views[view](_mask(shown.dataset, shown.samples[i]))
            size = at_pixel_size(shown.input_size, shown.samples[i].pixel_size_nm)
            self._targets[key] = target_of(mask, shown.grid(i), self.patch, size)
        return self._targets[key]

    def _load(self, source: int, i: int, view: int) -> tuple[np.ndarray, np.ndarray | None]:
        key, shown = (source, i, view), self.sources[source][view]
        if self._kept is not None and key in self._kept:
            return self._kept[key]
        grey = None
        if self._grey is not None:
            grey, _ = self._grey.read(shown.dataset, shown.samples[i], self.views[view])
        loaded = (shown.patches(i), grey)
        if self._kept is not None:
            self._kept[key] = loaded
        return loaded

    def batch(self, picks: Sequence[Pick], rng: np.random.Generator) -> Batch:
        """Return crops of tokens, of their targets, and of pixels if the head sees them."""
        tokens, targets, pixels, p = [], [], [], self.patch
        for source, i in picks:
            view = int(rng.integers(len(self.views)))
            target = self._target(source, i, view)
            patches, grey = self._load(source, i, view)
            corner = self.cropping.corner(rng, target, self.size, p)
            turn = self.cropping.turn(rng, self.size)
            inside, under, seen = self._cut(patches, target, grey, corner, rng)
            tokens.append(turn(inside))
            targets.append(turn(torch.from_numpy(under.astype(np.int64))))
            if seen is not None and self._grey is not None:
                pixels.append(turn(self._grey.normalised(self.cropping.graded(seen, rng))))
        return Batch(torch.stack(targets), torch.stack(tokens), torch.stack(pixels) if pixels else None)

    def _cut(
        self,
        patches: np.ndarray,
        target: NDArray[np.uint8],
        grey: NDArray[np.float32] | None,
        corner: Size,
        rng: np.random.Generator,
    ) -> tuple[Tensor, NDArray[np.uint8], NDArray[np.float32] | None]:
        """Return the tokens, the target and the grey levels of a crop, where there are any, warped together."""
        p, (rows, columns) = self.patch, self.size
        size, v = (rows * p, columns * p), self.cropping.varied
        (y, x), (down, right) = corner, (0, 0)
        warped = grey is not None and rng.random() < v.warp
        if warped:
            down, right = (-(-more // p) for more in margin_of(size, v))
        cells = (slice(y - down, y + rows + down), slice(x - right, x + columns + right))
        parts = [slice(cell.start * p, cell.stop * p) for cell in cells]
        tokens = torch.from_numpy(as_map(np.stack([beyond(layer, cells) for layer in patches])))
        under, seen = beyond(target, parts, IGNORE), None if grey is None else beyond(grey, parts)
        if not warped or seen is None:
            return tokens, under, seen
        warp = draw_warp(rng, size, rotation=v.rotation, zoom=v.zoom, elastic=v.elastic)
        moved = resample_tokens(tokens, warp, p, size)
        seen, under = resample(seen, under, warp, size)
        return moved, under, np.clip(seen, 0, 1, out=seen)

    def foreground(self) -> list[list[float]]:
        """Return the share of foreground of every slice, as the plain view shows it."""
        return [
            [float((self._target(source, i, 0) == 1).mean()) for i in range(n)]
            for source, n in enumerate(self.n_per_source)
        ]


class ImageCrops:
    """Crops of the images for a network that runs in the loop: flipped, turned, warped, and varied in grey level."""

    def __init__(self, datasets: Sequence[Dataset], preprocess: Preprocess, cropping: Cropping) -> None:
        self.cropping, self.patch = cropping, preprocess.patch
        self._grey = _GreyLevels(preprocess)
        self.n_per_source = [len(dataset) for dataset in datasets]
        self._items = [[self._read(dataset, sample) for sample in dataset.samples] for dataset in datasets]
        grids = [
            (t.shape[0] // self.patch, t.shape[1] // self.patch) for items in self._items for _, t in items
        ]
        self.size = cropping.size(self.patch, grids)

    def _read(self, dataset: Dataset, sample: Sample) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        grey, grid = self._grey.read(dataset, sample)
        size = self._grey.preprocess.at(sample.pixel_size_nm).input_size
        return grey, target_of(_mask(dataset, sample), grid, self.patch, size)

    def batch(self, picks: Sequence[Pick], rng: np.random.Generator) -> Batch:
        """Return crops of pixels and of their targets."""
        pixels, targets = [], []
        size = (self.size[0] * self.patch, self.size[1] * self.patch)
        margin = margin_of(size, self.cropping.varied)
        for source, i in picks:
            grey, target = self._items[source][i]
            y, x = self.cropping.corner(rng, target, self.size, self.patch)
            placed = around(grey, target, (y * self.patch, x * self.patch), size, margin)
            varied, under = augment(*placed, self.cropping.varied, rng, size=size)
            if varied.shape[:2] != size:  # a quarter turn of a crop that is not square: turn on
                varied, under = np.rot90(varied).copy(), np.rot90(under).copy()
            pixels.append(self._grey.normalised(varied))
            targets.append(torch.from_numpy(under.astype(np.int64)))
        return Batch(torch.stack(targets), pixels=torch.stack(pixels))

    def foreground(self) -> list[list[float]]:
        """Return the share of foreground of every slice."""
        return [[float((target == 1).mean()) for _, target in items] for items in self._items]
