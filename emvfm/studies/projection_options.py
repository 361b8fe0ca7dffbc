"""The options of ``domain pca`` and ``domain umap``, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from emvfm.config import Doc
from emvfm.studies.options import DomainOptions

__all__ = ["PcaOptions", "UmapOptions"]

_L2 = Annotated[bool, Doc("Scale every embedding to length 1 first.")]


@dataclass(frozen=True)
class PcaOptions(DomainOptions):
    """How ``domain pca`` projects."""

    patches: Annotated[bool, Doc("Patches instead of images; draws colour maps over the images.")] = False
    per_image: Annotated[int, Ge(1), Doc("Patches drawn of an image at the most, equally many a domain.")] = (
        256
    )
    all_patches: Annotated[
        bool, Doc("Make the basis from every patch, streamed; only drawn ones are shown.")
    ] = False
    balanced: Annotated[bool, Doc("Every domain counts the same in the basis, whatever its size.")] = False
    components: Annotated[int, Ge(1), Doc("Components kept; fewer where there are not so many.")] = 10
    whiten: Annotated[bool, Doc("Coordinates of variance 1.")] = False
    l2: _L2 = False
    slices: Annotated[int, Ge(0), Doc("Slices a dataset in the figure of colour maps.")] = 3
    maps: Annotated[int, Ge(0), Doc("So many slices a dataset as a PNG each, too.")] = 0
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of the intervals.")] = 0.95
    preset: Annotated[
        Literal["none", "reference"],
        Doc("reference: scikit-learn's PCA of all images; no more components than there are."),
    ] = "none"


@dataclass(frozen=True)
class UmapOptions(DomainOptions):
    """How ``domain umap`` maps."""

    method: Annotated[
        Literal["umap", "tsne", "pacmap"], Doc("tsne and pacmap: pip install 'emvfm[projections]'.")
    ] = "umap"
    patches: Annotated[bool, Doc("Patches instead of images.")] = False
    per_image: Annotated[int, Ge(1), Doc("Patches drawn of an image at the most, equally many a domain.")] = (
        64
    )
    points: Annotated[
        int, Ge(4), Doc("Points at the most, of all datasets; images are left out by whole blocks of slices.")
    ] = 5000
    pca: Annotated[int, Ge(2), Doc("Principal components that the map is made from.")] = 50
    neighbours: Annotated[int, Ge(2), Doc("Neighbours of umap and pacmap.")] = 15
    min_dist: Annotated[float, Ge(0), Le(1), Doc("Least distance of umap.")] = 0.1
    perplexity: Annotated[float, Gt(1), Doc("Perplexity of tsne.")] = 30.0
    l2: _L2 = False
    preset: Annotated[
        Literal["none", "reference"],
        Doc("reference: UMAP of all images after PCA; no more components than there are."),
    ] = "none"
