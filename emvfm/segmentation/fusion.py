"""A finer map of tokens from several passes over one image: its patch grid moved, or the image enlarged.

A fused backbone looks like any other whose patch has half the side, so that the store, training, evaluation
and prediction need to know nothing of it; its spec's identity says that it is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from emvfm.backbones.backbone import Backbone, Tokens
from emvfm.backbones.registry import BackboneSpec
from emvfm.errors import UsageError

__all__ = ["FUSIONS", "FusedBackbone", "fuse", "fuse_scales", "fuse_shifts", "unfused"]

Run = Callable[[Tensor], Tensor]


def fuse_shifts(maps: Mapping[tuple[int, int], Tensor]) -> Tensor:
    """Return ``(..., 2 h, 2 w, D)``: each half cell has the mean of the tokens of all patches that cover it.

    The centre of a half cell lies in the middle between the centres of those patches, so the finer map is
    where its pixels are: values that are linear in the place of a patch come out linear in that of the cell.

    Parameters
    ----------
    maps
        Shift of the patch grid down and right, in half patches (0 or 1), to tokens ``(..., h, w, D)``; the plain
        grid ``(0, 0)`` is among them. Patches of a shifted grid beyond the plain one are left out.
    """
    plain = maps[0, 0]
    h, w = 2 * plain.shape[-3], 2 * plain.shape[-2]
    total = plain.new_zeros((*plain.shape[:-3], h, w, plain.shape[-1]))
    times = plain.new_zeros((h, w, 1))
    for (down, right), tokens in maps.items():
        doubled = tokens.repeat_interleave(2, -3).repeat_interleave(2, -2)[..., : h - down, : w - right, :]
        rows = slice(down, down + doubled.shape[-3])
        columns = slice(right, right + doubled.shape[-2])
        total[..., rows, columns, :] += doubled
        times[rows, columns] += 1
    return total / times


def fuse_scales(plain: Tensor, enlarged: Tensor) -> Tensor:
    """Return the mean of the tokens of the image ``(..., h, w, D)``, doubled, and of it at twice the size."""
    return (plain.repeat_interleave(2, -3).repeat_interleave(2, -2) + enlarged) / 2


def _padded(pixels: Tensor, patch: int) -> Tensor:
    """Return ``(B, 3, H, W)`` with whole patches, reflected at the bottom and the right."""
    height, width = pixels.shape[-2:]
    missing = (-width % patch, -height % patch)
    return functional.pad(pixels, (0, missing[0], 0, missing[1]), "reflect") if any(missing) else pixels


def _shift(pixels: Tensor, patch: int, run: Run) -> Tensor:
    half = patch // 2
    maps = {}
    for down, right in ((0, 0), (1, 1), (1, 0), (0, 1)):
        moved = pixels[..., down * half :, right * half :]
        maps[down, right] = run(_padded(moved, patch))
    return fuse_shifts(maps)


def _scale(pixels: Tensor, patch: int, run: Run) -> Tensor:
    whole = _padded(pixels, patch)
    enlarged = functional.interpolate(whole, scale_factor=2.0, mode="bicubic", align_corners=False)
    return fuse_scales(run(whole), run(enlarged))


_WAYS: dict[str, Callable[[Tensor, int, Run], Tensor]] = {"shift": _shift, "scale": _scale}
FUSIONS = ("none", *_WAYS)


@dataclass(frozen=True)
class FusedSpec(BackboneSpec):
    """The row of a fused backbone: that of the one below, with half its patch and the way of fusing."""

    fuse: str = "none"

    def identity(self) -> dict[str, Any]:
        """Return all that decides the tokens, as plain JSON values."""
        return {**super().identity(), "fuse": self.fuse}


class FusedBackbone(Backbone):
    """A backbone whose tokens lie twice as close, each from several passes; see `fuse`.

    It shares module, device and precision with `plain`, and what is done to the module (an adapter, training)
    is done to both.
    """

    def __init__(self, plain: Backbone, way: str) -> None:
        spec = FusedSpec(**{**_fields(plain.spec), "patch": plain.patch // 2}, fuse=way)
        super().__init__(
            spec,
            plain.module,
            plain.library,
            label=f"{plain.label}, fused by {way}",
            weights_digest=plain.weights_digest,
            device=plain.device,
            precision=plain.precision,
        )
        self.adapter = plain.adapter
        self.plain, self._way = plain, _WAYS[way]

    def tokens(self, images: Tensor, layers: Sequence[int] | None = None) -> Tokens:
        """Return `Tokens` whose patches are ``(B, L, H / patch, W / patch, D)``; classes are of the plain pass."""
        height, width = self._check(images)
        seen: list[Tokens] = []

        def run(pixels: Tensor) -> Tensor:
            seen.append(self.plain.tokens(pixels, layers))
            return seen[-1].patches

        fused = self._way(images.to(self.device), self.plain.patch, run)
        inside = fused[:, :, : height // self.patch, : width // self.patch]
        return Tokens(seen[0].cls, inside, seen[0].registers)


def _fields(spec: BackboneSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in asdict(spec)}


def fuse(backbone: Backbone, way: str) -> Backbone:
    """Return `backbone` with tokens twice as close.

    Parameters
    ----------
    way
        ``none``: as it is. ``shift``: four passes, the patch grid moved by half a patch down, right and both.
        ``scale``: two passes, of the image and of the image at twice the size, whose token maps are averaged.

    Raises
    ------
    UsageError
        Another `way`, or a patch that can't be halved.
    """
    if way not in FUSIONS:
        raise UsageError("unknown fusion", where="--fuse", got=repr(way), expected=" | ".join(FUSIONS))
    if way == "none":
        return backbone
    if backbone.patch % 2:
        raise UsageError("a patch of odd side has no half", where="--fuse", got=f"{backbone.patch} px")
    return FusedBackbone(backbone, way)


def unfused(backbone: Backbone) -> Backbone:
    """Return the backbone whose passes are fused, or `backbone` itself: what an adapter is put on."""
    return backbone.plain if isinstance(backbone, FusedBackbone) else backbone
