"""The options of ``emvfm predict``, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from emvfm.config import FORBID_EXTRA, Doc

__all__ = ["WHAT", "PredictConfig"]

#: What can be written of an image.
WHAT = ("probability", "mask", "instances")


@dataclass(frozen=True)
class PredictConfig:
    """What is predicted, how large images are cut, and in which form it is written."""

    __pydantic_config__ = FORBID_EXTRA

    what: Annotated[
        tuple[str, ...],
        Doc("probability, mask (0 and 255) or instances (0, 1, 2 …); repeat it for several, in a folder."),
    ] = ("mask",)
    threshold: Annotated[
        Annotated[float, Ge(0), Le(1)] | Literal["validation"],
        Doc("Foreground is above it: a number, or validation: the best of the run's validation slices."),
    ] = 0.5
    tile: Annotated[
        int, Gt(0), Doc("Side of a window in pixels of the model's input; as in training and eval.")
    ] = 1024
    overlap: Annotated[
        int, Ge(0), Doc("Pixels neighbouring windows share at the least; a quarter of them is context only.")
    ] = 128
    batch_size: Annotated[
        int | None, Gt(0), Doc("Windows a pass; without it 1 on a CPU, 8 elsewhere; halved when memory ends.")
    ] = None
    tta: Annotated[bool, Doc("Average over the eight turned and mirrored copies of each window.")] = False
    pixel_size: Annotated[
        str | None, Doc("Side of a pixel of the input, such as 5nm, instead of what the file states.")
    ] = None
    format: Annotated[
        Literal["auto", "tiff", "ome-zarr"], Doc("auto: by the ending of the output, TIFF without one.")
    ] = "auto"
    depth: Annotated[Literal["float32", "uint8"], Doc("Type of probabilities; uint8: 255 is 1, rounded.")] = (
        "float32"
    )
    instances: Annotated[
        Literal["components", "watershed"],
        Doc("components: what touches is one; watershed: split at necks, for images that fit into memory."),
    ] = "components"
    connect: Annotated[
        Literal["slices", "volume"],
        Doc("Instances of a stack: each slice its own, or joined through slices."),
    ] = "slices"
    min_size: Annotated[int, Ge(0), Doc("Leave out instances of fewer pixels.")] = 0
    ood: Annotated[
        Literal["warn", "refuse", "off"],
        Doc("What to do when the input looks unlike the run's training images."),
    ] = "warn"
