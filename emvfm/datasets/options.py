"""The options of ``data compose``, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from emvfm.config import FORBID_EXTRA, Doc

__all__ = ["ComposeOptions"]


@dataclass(frozen=True)
class ComposeOptions:
    """How a dataset is composed; see `emvfm.datasets.compose.compose`."""

    __pydantic_config__ = FORBID_EXTRA

    images: Annotated[
        Path | None, Doc("Folder of images, or a stack: TIFF, HDF5, Zarr, N5 (FILE.h5:/name).")
    ] = None
    masks: Annotated[Path | None, Doc("Folder of masks, or a stack of masks or labels.")] = None
    pairs: Annotated[Path | None, Doc("CSV with the columns image,mask instead of pairing by names.")] = None
    pairing: Annotated[str, Doc("numbers; or wrong on purpose: text-sorted, shift:K, scramble:P.")] = (
        "numbers"
    )
    allow_unmasked: Annotated[bool, Doc("Keep images without a mask, unannotated.")] = False
    split: Annotated[
        Literal["auto", "block", "random", "given"],
        Doc(
            "block of slices with a gap; random, as the reference; given by the source; auto: given or block."
        ),
    ] = "auto"
    val: Annotated[float, Ge(0), Lt(1), Doc("Fraction for validation (of the training part if given).")] = 0.1
    test: Annotated[float | None, Ge(0), Lt(1), Doc("Fraction for the test; 0.2, or 0.15 if random.")] = None
    gap: Annotated[int, Ge(0), Doc("Slices left out between two splits.")] = 1
    pixel_size: Annotated[
        float | None, Gt(0), Doc("Side of a pixel in nm, where neither the source nor the file tells.")
    ] = None
    domain: Annotated[
        tuple[str, ...],
        Doc("Domain label, once for each --from; else the source's own or its folder's name."),
    ] = ()
    link: Annotated[
        Literal["hard", "copy", "sym"], Doc("How files come in: hard link (or copy), copy, symbolic link.")
    ] = "hard"
    force: Annotated[bool, Doc("Keep the dataset even if the audit refuses it; it is recorded.")] = False
    replace: Annotated[bool, Doc("Replace a dataset of the same name.")] = False
    seed: int = 0
