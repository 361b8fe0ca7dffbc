"""What ``emvfm domain umap`` does: draw rows, reduce them by PCA, map them, and write all it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emvfm.domain.neighbour_maps import REMARK, NeighbourMap, neighbour_map, require_package
from emvfm.domain.pca import principal_components
from emvfm.errors import UsageError
from emvfm.report.projection_figures import (
    layer_scatters,
    scatter_by_domain,
    scatter_by_slice,
    scatter_by_value,
)
from emvfm.studies.domains import Domain, chosen_layers
from emvfm.studies.pca import reference_pool
from emvfm.studies.projection_options import UmapOptions
from emvfm.studies.projection_views import interactive_map, stacks_of
from emvfm.studies.projections import (
    Rows,
    coordinate_arrays,
    coordinate_table,
    draw_images,
    draw_patches,
    joint_moments,
    vectors_by_domain,
)

__all__ = ["METHODS", "MappedLayer", "check_options", "map_rows", "umap_files"]

METHODS = {"umap": "UMAP", "tsne": "t-SNE", "pacmap": "PaCMAP"}


@dataclass(frozen=True)
class MappedLayer:
    """One layer's map.

    Attributes
    ----------
    position, block
        Among the stored layers, and in the backbone.
    components, kept
        Principal components the map was made from, and the part of the variance they hold.
    """

    position: int
    block: int
    map: NeighbourMap
    components: int
    kept: float

    def to_json(self) -> dict:
        """Return how the map was made as plain JSON values."""
        made = self.map.to_json()
        return {"layer": self.block, **made, "pca": self.components, "pca_variance_kept": self.kept}


def check_options(config: UmapOptions) -> None:
    """See, before minutes of extraction, whether the options go together and the method's package is there.

    Raises
    ------
    UsageError
        The preset does something else.
    MissingError
        The package is not installed.
    """
    if config.preset == "reference":
        if config.patches:
            raise UsageError("not what the reference does", where="--preset reference --patches")
        if config.method != "umap":
            where = f"--preset reference --method {config.method}"
            raise UsageError("not what the reference does", where=where)
    require_package(config.method)


def _resolved(config: UmapOptions, domains: Sequence[Domain]) -> UmapOptions:
    check_options(config)
    if config.preset != "reference":
        return config
    return replace(config, pool=reference_pool(domains), points=max(4, sum(map(len, domains))))


def map_rows(
    domains: Sequence[Domain], config: UmapOptions
) -> tuple[UmapOptions, Rows, list[MappedLayer], MappedLayer]:
    """Return the resolved options, the rows, the map of every layer, and the one that is shown in detail.

    Raises
    ------
    UsageError
        Options that contradict each other, too few rows, or no such layer.
    MissingError
        The package of the method is not installed.
    """
    config = _resolved(config, domains)
    positions = chosen_layers(config, domains)
    chosen = chosen_layers(replace(config, all_layers=False), domains)[0]
    if config.patches:
        rows = draw_patches(domains, config.per_image, config.points, config.seed)
    else:
        whole = sum(map(len, domains)) <= config.points
        rows = draw_images(domains, None if whole else config.points, config.seed)
    layers = []
    for position in positions:
        vectors = vectors_by_domain(rows, config, position, l2=config.l2)
        moments = joint_moments(vectors, None, balanced=False)
        most = min(moments.n - 1, len(moments.mean))
        k = config.pca if config.preset == "reference" else min(config.pca, most)
        basis = principal_components(moments, k)
        found = neighbour_map(
            basis.transform(np.concatenate(vectors)), config.method, neighbours=config.neighbours,
            min_dist=config.min_dist, perplexity=config.perplexity, seed=config.seed,
        )  # fmt: skip
        block = domains[0].embeddings.layers[position]
        layers.append(MappedLayer(position, block, found, k, float(basis.shares.sum())))
    return config, rows, layers, next(layer for layer in layers if layer.position == chosen)


def umap_files(
    rows: Rows, layers: Sequence[MappedLayer], shown: MappedLayer, config: UmapOptions
) -> dict[str, bytes | str]:
    """Return all files of a run by their paths."""
    unit = "patches" if config.patches else "images"
    method = METHODS[config.method]
    axes = (f"{method} 1", f"{method} 2")
    points: NDArray[np.float64] = shown.map.coordinates
    title = f"{method} of {len(rows)} {unit}, block {shown.block}"
    label = rows.domains[0].embeddings.label
    made = f"PCA {shown.components} ({100 * shown.kept:.0f} % of the variance), {shown.map.library}, seed {config.seed}"
    files: dict[str, bytes | str] = {
        "coordinates.csv": coordinate_table(rows, {x.block: x.map.coordinates for x in layers}, ("x", "y")),
        "coordinates.npz": coordinate_arrays(
            rows, {f"coordinates_block{x.block}": x.map.coordinates for x in layers}
        ),
        "figures/domains.png": scatter_by_domain(points, rows.names, axes, title, REMARK),
        "map.html": interactive_map(
            rows, points, axes, title=f"{' × '.join(d.name for d in rows.domains)}: {title}",
            subtitle=f"{label}; {made}", remark=REMARK,
        ),
    }  # fmt: skip
    if stacks := stacks_of(rows, points):
        files["figures/slices.png"] = scatter_by_slice(
            stacks, axes, points if config.patches else None, REMARK, title
        )
    if np.isfinite(rows.foreground).any():
        files["figures/foreground.png"] = scatter_by_value(
            points, rows.foreground, "foreground fraction", axes, title, REMARK
        )
    if len(layers) > 1:
        panels = [(f"block {x.block}", x.map.coordinates) for x in layers]
        files["figures/layers.png"] = layer_scatters(panels, rows.names, axes, REMARK)
    return files
