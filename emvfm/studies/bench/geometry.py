"""The shape of representations: how many dimensions they use, and how rows lie on the sphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from emvfm.representations.geometry import Geometry, describe
from emvfm.studies.bench.options import GeometryOptions
from emvfm.studies.bench.representations import Representations
from emvfm.studies.bench.tables import csv_text, rich_table

__all__ = ["GeometryStudy", "study_geometry"]

_PRINTED = (
    "participation ratio",
    "rankme",
    "top-1 share",
    "mean cosine",
    "two-nn dimension",
    "uniformity",
    "alignment",
)


@dataclass(frozen=True)
class GeometryStudy:
    """Measures of each representation."""

    representations: Representations
    found: tuple[Geometry, ...]
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return everything as strict JSON values."""
        results = [
            {"representation": name, **one.to_json()}
            for name, one in zip(self.representations.names, self.found, strict=True)
        ]
        return {
            "benchmark": "geometry", "metric": "geometry", "seed": self.seed, **self.representations.to_json(),
            "results": results,
        }  # fmt: skip

    def files(self) -> dict[str, bytes | str]:
        """Return the table and the figure, by path."""
        from emvfm.report.representation_figures import geometry_figure

        rows = [
            [name, one.n, one.dimensions, measure, value.value, value.low, value.high, value.method]
            for name, one in zip(self.representations.names, self.found, strict=True)
            for measure, value in one.measures.items()
        ]
        header = ["representation", "n", "dimensions", "measure", "value", "low", "high", "interval"]
        measures = [m for m in _PRINTED if m in self.found[0].measures]
        panels = [
            {
                "measure": m,
                "values": [(v.value, v.low, v.high) for v in (one.measures[m] for one in self.found)],
            }
            for m in measures
        ]
        return {
            "geometry.csv": csv_text(header, rows),
            "figures/geometry.png": geometry_figure(self.representations.names, panels),
        }

    def lines(self) -> list[Any]:
        """Return what the terminal shows."""
        measures = [m for m in _PRINTED if m in self.found[0].measures]
        rows = []
        for name, one in zip(self.representations.names, self.found, strict=True):
            values = (one.measures[m].value for m in measures)
            rows.append(
                [name, str(one.n), str(one.dimensions), *(f"{v:.3g}" if v == v else "—" for v in values)]
            )
        return [rich_table(["representation", "n", "D", *measures], rows)]


def study_geometry(representations: Representations, options: GeometryOptions) -> GeometryStudy:
    """Measure every representation, with jackknife intervals."""
    labels = None if options.alike is None else representations.profiles[0].column(options.alike)
    found = tuple(
        describe(
            one.features, labels=labels, groups=representations.groups, level=options.level, parts=options.parts,
            seed=options.seed,
        )
        for one in representations.profiles
    )  # fmt: skip
    return GeometryStudy(representations, found, options.seed)
