"""What ``emvfm domain pca`` does: draw rows, make one basis a layer, and write all it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emvfm.domain.colour_maps import robust_limits
from emvfm.domain.pca import Basis, principal_components
from emvfm.domain.variance_shares import ProjectionSummary, summarise
from emvfm.errors import UsageError
from emvfm.report.projection_figures import (
    colour_maps,
    layer_scatters,
    scatter_by_domain,
    scatter_by_slice,
    scatter_by_value,
    variance_curves,
)
from emvfm.studies.domains import Domain, chosen_layers
from emvfm.studies.projection_options import PcaOptions
from emvfm.studies.projection_views import colour_map, interactive_map, slices_of, stacks_of
from emvfm.studies.projections import (
    Rows,
    all_patches,
    coordinate_arrays,
    coordinate_table,
    draw_images,
    draw_patches,
    joint_moments,
    vectors_by_domain,
)

__all__ = ["ProjectedLayer", "pca_files", "project", "reference_pool"]


@dataclass(frozen=True)
class ProjectedLayer:
    """One layer's basis and the coordinates of all rows in it.

    Attributes
    ----------
    position, block
        Among the stored layers, and in the backbone.
    coordinates
        ``(N, k)`` float64, whitened if asked for.
    plain
        Coordinates that are not whitened, which colours are made from.
    """

    position: int
    block: int
    basis: Basis
    coordinates: NDArray[np.float64]
    plain: NDArray[np.float64]
    summary: ProjectionSummary

    @property
    def axes(self) -> list[str]:
        return [f"PC{k + 1} ({100 * share:.1f} %)" for k, share in enumerate(self.basis.shares)]

    @property
    def plane(self) -> NDArray[np.float64]:
        """``(N, 2)``: the first two coordinates; zeros where there is no second."""
        missing = max(0, 2 - self.coordinates.shape[1])
        return np.pad(self.coordinates[:, :2], [(0, 0), (0, missing)])


def reference_pool(domains: Sequence[Domain]) -> Literal["mean", "cls"]:
    """Return what the reference takes as an image's vector: CLS of OpenCLIP, else the mean of the patches."""
    library = domains[0].embeddings.store.identity.backbone["library"]
    return "cls" if library == "open_clip" else "mean"


def _checked(config: PcaOptions, domains: Sequence[Domain]) -> PcaOptions:
    if config.all_patches and not config.patches:
        raise UsageError("every patch makes a basis of patches", where="--all-patches", todo="add --patches")
    if config.maps and not config.patches:
        raise UsageError("colour maps are made of patches", where="--maps", todo="add --patches")
    if config.preset != "reference":
        return config
    for name in ("patches", "balanced"):
        if getattr(config, name):
            raise UsageError("not what the reference does", where=f"--preset reference --{name}")
    return replace(config, pool=reference_pool(domains))


def _protocol(config: PcaOptions) -> str:
    if not config.patches:
        text = f"all images, pool {config.pool}"
    elif config.all_patches:
        text = "every patch, streamed; shares between domains and intervals from drawn patches"
    else:
        text = f"patches drawn equally of each domain, at most {config.per_image} an image"
    text += ", domains weighted equally" if config.balanced else ""
    return text + (", unit length" if config.l2 else "") + "; block jackknife with the basis held fixed"


def project(
    domains: Sequence[Domain], config: PcaOptions
) -> tuple[PcaOptions, Rows, list[ProjectedLayer], ProjectedLayer]:
    """Return the resolved options, the rows, all projected layers, and the one that is shown in detail.

    Raises
    ------
    UsageError
        Options that contradict each other, or no such layer or number of components.
    """
    config = _checked(config, domains)
    positions = chosen_layers(config, domains)
    chosen = chosen_layers(replace(config, all_layers=False), domains)[0]
    if config.patches:
        rows = draw_patches(domains, config.per_image, seed=config.seed)
    else:
        rows = draw_images(domains)
    layers = []
    for position in positions:
        vectors = vectors_by_domain(rows, config, position, l2=config.l2)
        streams = [all_patches(d, position, l2=config.l2) for d in domains] if config.all_patches else None
        moments = joint_moments(vectors, streams, balanced=config.balanced)
        most = min(moments.n - 1, len(moments.mean))
        k = config.components if config.preset == "reference" else min(config.components, most)
        basis = principal_components(moments, k)
        summary = summarise(
            [d.name for d in domains], basis, vectors, rows.blocks(), level=config.level, seed=config.seed,
            unit="patch" if config.patches else "image", protocol=_protocol(config),
        )  # fmt: skip
        joint = np.concatenate(vectors)
        plain = basis.transform(joint)
        shown = basis.transform(joint, whiten=True) if config.whiten else plain
        block = domains[0].embeddings.layers[position]
        layers.append(ProjectedLayer(position, block, basis, shown, plain, summary))
    return config, rows, layers, next(layer for layer in layers if layer.position == chosen)


def _arrays(layers: Sequence[ProjectedLayer]) -> dict[str, NDArray]:
    found: dict[str, NDArray] = {}
    for layer in layers:
        end = f"_block{layer.block}"
        found |= {
            f"coordinates{end}": layer.coordinates,
            f"components{end}": layer.basis.components,
            f"mean{end}": layer.basis.mean,
            f"spectrum{end}": layer.basis.spectrum,
        }
    return found


def _maps(rows: Rows, shown: ProjectedLayer, config: PcaOptions) -> dict[str, bytes]:
    """Return the figure of colour maps of a few slices of each domain, and single ones on request."""
    groups = [shown.plain[rows.domain == g] for g in range(len(rows.domains))]
    limits, files = robust_limits(groups), {}

    def maps(n: int) -> list[tuple[Domain, int]]:
        return [(domain, i) for domain in rows.domains for i in slices_of(domain, n)]

    items = [
        colour_map(d, i, shown.position, shown.basis, limits, l2=config.l2) for d, i in maps(config.slices)
    ]
    if items:
        files["figures/colour_maps.png"] = colour_maps(items, columns=config.slices)
    for domain, i in maps(config.maps):
        item = colour_map(domain, i, shown.position, shown.basis, limits, l2=config.l2)
        name = f"{domain.name}-{domain.embeddings.samples[i].id}"
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        files[f"maps/{rows.domains.index(domain)}-{safe}.png"] = colour_maps([item])
    return files


def pca_files(
    rows: Rows, layers: Sequence[ProjectedLayer], shown: ProjectedLayer, config: PcaOptions
) -> dict[str, bytes | str]:
    """Return all files of a run by their paths: tables, figures, colour maps and the interactive page."""
    unit = "patches" if config.patches else "images"
    names = [d.name for d in rows.domains]
    label = rows.domains[0].embeddings.label
    title = f"PCA of {len(rows)} {unit}, block {shown.block}"
    axes = (shown.axes[0], shown.axes[1] if len(shown.axes) > 1 else "")
    blocks = {layer.block: layer.coordinates for layer in layers}
    columns = [f"PC{k + 1}" for k in range(shown.coordinates.shape[1])]
    files: dict[str, bytes | str] = {
        "coordinates.csv": coordinate_table(rows, blocks, columns),
        "coordinates.npz": coordinate_arrays(rows, _arrays(layers)),
        "variance.csv": _variance_table(layers),
        "figures/domains.png": scatter_by_domain(shown.plane, rows.names, axes, title),
        "figures/variance.png": variance_curves({f"block {x.block}": x.basis.spectrum for x in layers}),
        "map.html": interactive_map(
            rows, shown.coordinates[:, :6], shown.axes[:6], title=f"{' × '.join(names)}: {title}",
            subtitle=f"{label}; {_protocol(config)}", remark=shown.summary.verdict,
        ),
    }  # fmt: skip
    if stacks := stacks_of(rows, shown.plane):
        cloud = shown.plane if config.patches else None
        remark = "A point is the mean of a slice's patches." if config.patches else ""
        files["figures/slices.png"] = scatter_by_slice(stacks, axes, cloud, remark, title)
    if np.isfinite(rows.foreground).any():
        files["figures/foreground.png"] = scatter_by_value(
            shown.plane, rows.foreground, "foreground fraction", axes, title
        )
    if len(layers) > 1:
        panels = [
            (f"block {x.block}: {100 * x.basis.shares[:2].sum():.0f} % of the variance", x.plane)
            for x in layers
        ]
        files["figures/layers.png"] = layer_scatters(panels, rows.names)
    return files | (_maps(rows, shown, config) if config.patches else {})


def _variance_table(layers: Sequence[ProjectedLayer]) -> str:
    lines = ["layer,component,variance,share,low,high,between,between_low,between_high"]
    for layer in layers:
        for k, c in enumerate(layer.summary.components):
            values = (c.variance, c.share, c.low, c.high, c.between, c.between_low, c.between_high)
            lines.append(
                f"{layer.block},{k + 1}," + ",".join("" if v is None else f"{v:.9g}" for v in values)
            )
    return "\n".join(lines) + "\n"
