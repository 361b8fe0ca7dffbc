"""An image's finished values as what is written of it: probabilities, a mask, instances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from emvfm.segmentation.instance_bands import BandLabels, label_bands
from emvfm.segmentation.instances import split_instances
from emvfm.segmentation.prediction_config import PredictConfig
from emvfm.segmentation.prediction_files import Picture
from emvfm.segmentation.prediction_input import Item
from emvfm.segmentation.prediction_scratch import Scratch

__all__ = ["Values"]

_BAND = 1024  # rows at a time


class Values:
    """Finished values of an image, read by rows; instances are found when they are first read.

    Parameters
    ----------
    item
        The image.
    first
        Number of its first plane in `scratch`.
    threshold
        Foreground is above it, where probabilities are kept.

    Attributes
    ----------
    instances
        How many were found so far.
    """

    def __init__(
        self, item: Item, first: int, scratch: Scratch, config: PredictConfig, threshold: float
    ) -> None:
        self._item, self._first, self._scratch = item, first, scratch
        self._config, self._threshold = config, threshold
        self._labelled: tuple[int, Callable[[int, int], NDArray[np.uint32]]] | None = None
        self.instances = 0

    def probability(self, plane: int, start: int, stop: int) -> np.ndarray:
        values = self._scratch.native(self._first + plane, start, stop, self._item.size)
        if self._config.depth == "uint8":
            return np.rint(values * np.float32(255)).astype(np.uint8)
        return values

    def inside(self, plane: int, start: int, stop: int) -> NDArray[np.bool_]:
        values = self._scratch.native(self._first + plane, start, stop, self._item.size)
        return values > (0 if values.dtype == np.uint8 else self._threshold)

    def mask(self, plane: int, start: int, stop: int) -> np.ndarray:
        return self.inside(plane, start, stop) * np.uint8(255)

    def labels(self, plane: int, start: int, stop: int) -> np.ndarray:
        wanted = 0 if self._config.connect == "volume" else plane
        if self._labelled is None or self._labelled[0] != wanted:
            self._labelled = wanted, self._label(wanted)
        rows = self._labelled[1]
        offset = plane * self._item.height if self._config.connect == "volume" else 0
        return rows(offset + start, offset + stop)

    def _label(self, plane: int) -> Callable[[int, int], NDArray[np.uint32]]:
        item, minimum = self._item, max(1, self._config.min_size)
        if self._config.instances == "watershed":
            whole = split_instances(self.inside(plane, 0, item.height), minimum=minimum).astype(np.uint32)
            self.instances += int(whole.max(initial=0))
            return lambda start, stop: whole[start:stop]
        volume = self._config.connect == "volume"
        found: BandLabels = label_bands(
            lambda z, start, stop: self.inside(plane + z, start, stop),
            item.planes if volume else 1,
            item.size,
            self._scratch.folder / "labels.raw",
            band=_BAND,
            minimum=minimum,
        )
        self.instances += found.count

        def rows(start: int, stop: int) -> NDArray[np.uint32]:
            z, first = divmod(start, item.height)
            return found.rows(z, first, first + stop - start)

        return rows

    def foreground(self) -> float:
        """Return the share of pixels above the threshold."""
        height = self._item.height
        inside = sum(
            int(np.count_nonzero(self.inside(plane, start, min(height, start + _BAND))))
            for plane in range(self._item.planes)
            for start in range(0, height, _BAND)
        )
        return inside / (self._item.planes * height * self._item.width)

    def picture(self, what: str, identity: str) -> Picture:
        probability = np.dtype(np.uint8 if self._config.depth == "uint8" else np.float32)
        dtype, read = {
            "probability": (probability, self.probability),
            "mask": (np.dtype(np.uint8), self.mask),
            "instances": (np.dtype(np.uint32), self.labels),
        }[what]
        item = self._item
        return Picture(
            item.name,
            item.planes,
            item.size,
            item.stack,
            dtype,
            item.spacing,
            what != "probability",
            read,
            identity,
        )
