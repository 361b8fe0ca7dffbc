"""How a baseline sees an image: at its own intensities, turned or resized as asked, in whole cells."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from emvfm.backbones.baselines.planes import padded, planes_of, resized
from emvfm.backbones.preprocess import Prepared, Preprocess, valid_fraction
from emvfm.backbones.views import PLAIN, View
from emvfm.errors import UsageError

if TYPE_CHECKING:
    from emvfm.backbones.baselines.planes import Plane
    from emvfm.backbones.baselines.registry import BaselineSpec
    from emvfm.backbones.options import BackboneOptions

__all__ = ["CELL", "BaselinePreprocess", "columns_in"]

#: Side in px of the cells that baselines describe one by one, beside the whole image.
CELL = 16


def columns_in(argument: str) -> tuple[str, ...]:
    """Return the columns that ``plate+well`` or ``plate,well`` names.

    Commands that take several backbones split options at commas: only the plus reaches them whole.
    """
    return tuple(part.strip() for part in re.split("[,+]", argument))


@dataclass(frozen=True)
class _Cells:
    """What decides the input size that options ask for."""

    patch: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class BaselinePreprocess(Preprocess):
    """The preprocessing of a baseline; equal values, equal numbers.

    Attributes
    ----------
    reads
        ``image``, ``mask``, ``facts`` or ``cells``: what the numbers follow from, so what names a row of a store.
    columns
        Of the facts that are read.
    """

    reads: str = "image"
    columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: BaselineSpec, options: BackboneOptions, view: View = PLAIN) -> BaselinePreprocess:
        """Return the preprocessing of `spec` with the input size of `options`; there are no tiles.

        Raises
        ------
        UsageError
            What is described has no size in pixels to change, or cannot be turned.
        """
        input_size = Preprocess.for_backbone(_Cells(min(spec.patch, CELL)), options).input_size
        own = cls(spec.patch, spec.mean, spec.std, input_size, view)
        if not spec.whole:
            return own
        if input_size != "native" or view != PLAIN:
            raise UsageError(
                "what does not follow from pixels has no size to change",
                where=spec.name,
                got=input_size if view == PLAIN else "a turned view",
                expected="the native size",
            )
        if spec.kind == "random":
            return replace(own, reads="facts", columns=columns_in(spec.argument))
        return replace(own, reads="cells" if spec.argument else "mask")

    def identity(self) -> dict[str, Any]:
        """Return all that decides what is described, as plain JSON values."""
        return {
            "version": 1,
            "intensity": "unsigned over full scale, others as they are",
            "channels": "as they are",
            "input_size": self.input_size,
            "resize": "bicubic antialiased",
            "patch": self.patch,
            "pad": "reflect right bottom",
            "tile": None,
            "source": {"reads": self.reads, "columns": list(self.columns)},
            **({} if self.view == PLAIN else {"view": self.view.identity()}),
        }

    def planes(self, image: np.ndarray) -> list[Plane]:
        """Return the channels of `image`, turned and resized, not padded."""
        scaled = self.scaled((image.shape[0], image.shape[1]))
        return [resized(plane, scaled) for plane in planes_of(self.view(image))]

    def prepare(self, image: np.ndarray) -> Prepared:
        """Return the image as a head sees it that is trained on cells: padded, grey three times."""
        planes = self.planes(image)
        if len(planes) not in (1, 3):
            raise UsageError("heads take images of one channel, or RGB", got=f"{len(planes)} channels")
        stack = np.stack([padded(plane.raw, self.patch) for plane in planes])
        size, scaled = (image.shape[0], image.shape[1]), planes[0].raw.shape
        pixels = np.broadcast_to(stack, (3, *stack.shape[1:])).astype(np.float32)
        return Prepared(pixels, valid_fraction((scaled[0], scaled[1]), self.patch), size, scaled, (0.0, 1.0))
