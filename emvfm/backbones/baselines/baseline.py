"""A baseline in the place of a backbone: what it reads of a sample, and what it makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emvfm.backbones.backbone import Backbone, Tokens
from emvfm.backbones.baselines import chance, pixel
from emvfm.backbones.baselines.planes import Plane
from emvfm.backbones.baselines.preprocess import BaselinePreprocess
from emvfm.backbones.baselines.registry import BaselineSpec
from emvfm.backbones.options import BackboneOptions
from emvfm.backbones.preprocess import valid_fraction
from emvfm.errors import UsageError

if TYPE_CHECKING:
    from emvfm.backbones.baselines.structure.tables import CellTable
    from emvfm.backbones.registry import BackboneSpec
    from emvfm.workspace import Workspace

__all__ = ["Baseline", "Described", "NoWeights", "Source", "open_baseline"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """What may be read of one sample; each is read only by a baseline that needs it.

    Attributes
    ----------
    image, labels
        Give ``(H, W)`` or ``(H, W, C)`` pixels, and ``(H, W)`` labels of objects (0 is background).
    facts
        Of the manifest.
    name
        The sample's id, by which a table of cells names it.
    size, pixel_size_nm
        Height and width in px, and the side of a pixel, None where it is unknown.
    """

    image: Callable[[], np.ndarray]
    labels: Callable[[], np.ndarray]
    facts: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    size: tuple[int, int] = (0, 0)
    pixel_size_nm: float | None = None


@dataclass(frozen=True)
class Described:
    """One image by a baseline, float32.

    Attributes
    ----------
    patches
        ``(h, w, D)``: its cells.
    image
        ``(D,)``: the whole of it, without padding; not the mean of the cells.
    valid
        ``(h, w)`` in [0, 1]: the fraction of each cell that is image.
    """

    patches: Floats
    image: Floats
    valid: Floats


class NoWeights:
    """The library of a baseline: there is no model to build, to adapt or to take apart.

    Raises
    ------
    UsageError
        By whatever is asked of it.
    """

    def _none(self, *_: Any) -> NoReturn:
        raise UsageError(
            "a baseline has no weights", todo="name a backbone of `emvfm backbones list` for this"
        )

    build = convert = layer_tokens = own_tokens = open_for_adapters = blocks = _none


class Baseline(Backbone):
    """What stands where a backbone does and has learnt nothing; one layer, no weights."""

    spec: BaselineSpec

    def __init__(self, spec: BaselineSpec, table: CellTable | None = None) -> None:
        super().__init__(
            spec, nn.Identity(), NoWeights(), label=spec.title, weights_digest=_weights(spec), device="cpu"
        )
        self._table = table

    def bound(self, **known: Any) -> Baseline:
        """Return the same baseline with what it had to know of a dataset; see `BaselineSpec.bound`."""
        return Baseline(self.spec.bound(**known), self._table)

    def describe(self, source: Source, preprocess: BaselinePreprocess) -> Described:
        """Return what it makes of one sample.

        Raises
        ------
        UsageError
            The image has not the channels the baseline was bound to.
        CorruptError
            Values that are not finite.
        """
        if self.spec.whole:
            image = self._described_whole(source)
            return Described(image[None, None], image, np.ones((1, 1), np.float32))
        planes = preprocess.at(source.pixel_size_nm).planes(source.image())  # type: ignore[attr-defined]
        if self.spec.kind == "pixel" and len(planes) != self.spec.channels:
            raise UsageError(
                "images of one dataset differ in their channels",
                where=source.name,
                got=len(planes),
                expected=self.spec.channels,
            )
        size = planes[0].raw.shape
        valid = valid_fraction((size[0], size[1]), self.patch)
        return Described(*self._cells_and_whole(planes, (valid.shape[0], valid.shape[1])), valid)

    def _cells_and_whole(self, planes: Sequence[Plane], grid: tuple[int, int]) -> tuple[Floats, Floats]:
        """Return ``(h, w, D)`` for the cells of an image, and ``(D,)`` for the whole of it."""
        if self.spec.kind == "pixel":
            cells, whole = pixel.describe(planes, self.spec.preset, self.patch, None)
        else:
            compute = chance.PRESETS[self.spec.preset]
            cells = compute(planes, grid[0] * grid[1], self.patch, self.spec.seed)
            whole = compute(planes, 1, None, self.spec.seed)
        return cells.reshape(*grid, -1), whole[0]

    def _described_whole(self, source: Source) -> Floats:
        if self.spec.kind == "random":
            return chance.one_hot(source.facts, dict(self.spec.vocabulary))
        from emvfm.backbones.baselines.structure.objects import objects_of
        from emvfm.backbones.baselines.structure.presets import describe

        found = (
            objects_of(source.labels()) if self._table is None else self._table.of(source.name, source.size)
        )
        if self.spec.unit == "nm":
            assert source.pixel_size_nm is not None, "nm only where the size of all pixels is known"
            found = found.scaled(source.pixel_size_nm)
        return describe(found, self.spec.preset, dict(self.spec.vocabulary).get("type", ()))

    def tokens(self, images: Tensor, layers: Sequence[int] | None = None) -> Tokens:
        """Return `Tokens` of ``(B, 3, H, W)`` grey images at their own intensities, for a head on cells.

        Raises
        ------
        UsageError
            Colours, or a baseline that does not follow from pixels.
        """
        self.choose_layers(layers)
        if self.spec.whole:
            raise UsageError(
                "it does not follow from pixels", where=self.spec.name, todo="take another backbone"
            )
        self._check(images)
        if not bool((images == images[:, :1]).all()):
            raise UsageError(
                "heads on pixel statistics take grey images", where=self.spec.name, got="different channels"
            )
        found = []
        for grey in images[:, 0].detach().cpu().numpy().astype(np.float32):
            plane = Plane(grey, np.clip(grey, 0, 1))
            grid = (grey.shape[0] // self.patch, grey.shape[1] // self.patch)
            found.append(self._cells_and_whole([plane], grid))
        patches = torch.from_numpy(np.stack([cells for cells, _ in found]))[:, None]
        cls = torch.from_numpy(np.stack([whole for _, whole in found]))[:, None]
        return Tokens(cls, patches, cls.new_zeros((len(cls), 1, 0, cls.shape[-1])))


def _weights(spec: BaselineSpec) -> str:
    """Return what stands for the digest of weights: there are none, but for the seed of random numbers."""
    return f"none:{spec.seed}" if spec.kind == "random" else "none"


def open_baseline(spec: BackboneSpec, options: BackboneOptions, workspace: Workspace) -> Baseline:
    """Return the baseline of `spec`; the seed of random ones is ``--init-seed``.

    Raises
    ------
    UsageError
        Options that only weights have.
    MissingError, CorruptError
        The table of cells is not there, or is none.
    """
    assert isinstance(spec, BaselineSpec)
    given = {
        "--weights": options.weights is not None,
        "--untrained": options.untrained,
        "--adapter": options.adapter is not None,
        "--shuffle-weights": options.shuffle_weights,
    }
    if wrong := [name for name, there in given.items() if there]:
        raise UsageError("a baseline has no weights", where=spec.name, got=", ".join(wrong))
    if spec.kind == "random":
        return Baseline(spec.bound(seed=options.init_seed))
    if spec.kind == "structure" and spec.argument:
        from emvfm.backbones.baselines.structure.tables import read_cells

        table = read_cells(Path(spec.argument).expanduser())
        return Baseline(spec.bound(argument_digest=table.digest, vocabulary=(("type", table.types),)), table)
    return Baseline(spec)
