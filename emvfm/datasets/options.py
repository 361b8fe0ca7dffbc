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
        Path | None,
        Doc(
            "Folder of images, or a stack: TIFF, HDF5, Zarr, N5 (FILE.h5:/name); with --table also npy, npz."
        ),
    ] = None
    masks: Annotated[Path | None, Doc("Folder of masks, or a stack of masks or labels.")] = None
    pairs: Annotated[Path | None, Doc("CSV with the columns image,mask instead of pairing by names.")] = None
    spots: Annotated[
        Path | None,
        Doc(
            "Table of positions (image, x, y in px): a tile around each is a sample; --images is where images are."
        ),
    ] = None
    tile: Annotated[str, Doc("Side of the tiles of --spots: 224 pixels, or a length such as 112um.")] = "224"
    pairing: Annotated[str, Doc("numbers; or wrong on purpose: text-sorted, shift:K, scramble:P.")] = (
        "numbers"
    )
    table: Annotated[
        Path | None,
        Doc("CSV or TSV with one row an image of --images; its columns become facts of the samples."),
    ] = None
    image_column: Annotated[
        tuple[str, ...],
        Doc(
            "With --table: column that names the files; repeated, one file a channel; else found by its name."
        ),
    ] = ()
    crop: Annotated[
        str | None,
        Doc(
            "With --table: columns of the height and width of an image, such as h,w; what is beyond is padding."
        ),
    ] = None
    where: Annotated[tuple[str, ...], Doc("With --table: keep only rows with COLUMN=V1,V2; repeatable.")] = ()
    labels: Annotated[
        str | None,
        Doc("With --table: column of labels, becomes the fact label; COLUMN=SEPARATOR parts several."),
    ] = None
    channels: Annotated[
        str | None, Doc("Channels in the order of the files: NAME[:STAIN[:NM]], joined by commas.")
    ] = None
    split_by: Annotated[
        tuple[str, ...],
        Doc("With --table: COLUMN of splits, or of groups that stay together; COLUMN=V1,V2 for the test."),
    ] = ()
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
