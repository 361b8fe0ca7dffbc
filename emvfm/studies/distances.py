"""Distances of embedded datasets, all pairs and layers, as the files and the table of a domain command."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby, permutations
from typing import Any

import numpy as np

from emvfm.domain.comparison import Comparison
from emvfm.domain.dependence import Dependence, joint_caveat
from emvfm.domain.moments import Moments, streamed_moments
from emvfm.report.distance_figures import distance_matrix, distances_by_layer, values_with_nulls
from emvfm.studies.domains import Domain, chosen_layers
from emvfm.studies.options import DomainOptions

__all__ = ["Distances", "block_moments", "compare_domains"]

_COLUMNS = (
    "measure", "layer", "a", "b", "n_a", "n_b", "blocks_a", "blocks_b", "value", "low", "high", "p_value",
    "null_bound", "ratio_to_halves", "relative", "within_halves", "between_halves", "beyond",
)  # fmt: skip


def block_moments(domain: Domain, layer: int, rows: Sequence[int] | None = None) -> dict[int, Moments]:
    """Return the moments of the patch embeddings of each block of slices, one image in memory at a time.

    Parameters
    ----------
    layer
        Position among the stored layers.
    rows
        Images that count; all without it.
    """
    kept = set(range(len(domain)) if rows is None else rows)
    found: dict[int, Moments] = {}
    images = (
        (block, patches)
        for i, (block, patches) in enumerate(zip(domain.blocks, domain.patches(layer), strict=True))
        if i in kept and len(patches)
    )
    for block, group in groupby(images, key=lambda image: image[0]):
        part = streamed_moments(patches for _, patches in group)
        found[block] = found[block].merged(part) if block in found else part
    return found


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


@dataclass(frozen=True)
class Distances:
    """All comparisons of a command: every pair of domains at every layer by every measure.

    Attributes
    ----------
    names
        Of the domains, in the order given.
    entries
        Block index of the backbone, and the comparison.
    """

    names: tuple[str, ...]
    entries: tuple[tuple[int, Comparison], ...]

    @property
    def keys(self) -> list[str]:
        return list(dict.fromkeys(c.key for _, c in self.entries))

    @property
    def layers(self) -> list[int]:
        return list(dict.fromkeys(layer for layer, _ in self.entries))

    def of(self, key: str, layer: int | None = None) -> list[tuple[int, Comparison]]:
        """Return the entries of a measure, all or those of one layer."""
        return [(at, c) for at, c in self.entries if c.key == key and layer in (None, at)]

    def matrix(self, key: str, layer: int) -> dict[str, np.ndarray]:
        """Return ``(N, N)`` arrays: ``values`` (halves of one domain on the diagonal), ``beyond``, ``known``."""
        n = len(self.names)
        values, beyond, known = np.full((n, n), np.nan), np.zeros((n, n), bool), np.ones((n, n), bool)
        for _, c in self.of(key, layer):
            i, j = (self.names.index(name) for name in c.names)
            for place in ((i, j), (j, i)) if c.symmetric else ((i, j),):
                values[place], beyond[place], known[place] = c.value, c.beyond, not c.too_few
            for own, halves in ((i, c.within[::2]), (j, c.within[1::2])):
                if np.isnan(values[own, own]) and halves:
                    values[own, own] = np.mean(halves)
        return {"values": values, "beyond": beyond, "known": known}

    def to_json(self) -> dict[str, Any]:
        """Return ``results`` and ``matrices`` as plain JSON values."""
        matrices = []
        for key in self.keys:
            for layer in self.layers:
                values = self.matrix(key, layer)["values"]
                cells = [[None if np.isnan(v) else float(v) for v in row] for row in values]
                matrices.append({"measure": key, "layer": layer, "names": list(self.names), "values": cells})
        return {"results": [{"layer": at, **c.to_json()} for at, c in self.entries], "matrices": matrices}

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for at, c in self.entries:
            writer.writerow(
                [c.key, at, *c.names, *c.n, *c.blocks, c.value, c.low, c.high, c.p_value, c.bound, c.ratio,
                 c.relative, _mean(c.within), _mean(c.between), c.beyond]
            )  # fmt: skip
        return text.getvalue()

    def _matrix_csv(self, key: str) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["layer", "domain", *self.names])
        for layer in self.layers:
            for name, row in zip(self.names, self.matrix(key, layer)["values"], strict=True):
                writer.writerow([layer, name, *("" if np.isnan(v) else float(v) for v in row)])
        return text.getvalue()

    def files(self) -> dict[str, bytes | str]:
        """Return the table of all comparisons, matrices of three or more domains, and figures, by path."""
        found: dict[str, bytes | str] = {"distances.csv": self._csv()}
        several = len(self.layers) > 1
        for key in self.keys:
            entries = self.of(key)
            first = entries[0][1]
            panels = [
                {"label": " × ".join(c.names) + (f", block {at}" if several else ""),
                 "value": c.value, "null": c.null, "low": c.low, "high": c.high}
                for at, c in entries
            ]  # fmt: skip
            found[f"figures/{key}.png"] = values_with_nulls(panels, first.measure, first.further)
            if several:
                found[f"figures/{key}-layers.png"] = self._layer_figure(key)
            if len(self.names) < 3 and first.symmetric:
                continue
            found[f"matrix-{key}.csv"] = self._matrix_csv(key)
            for layer in self.layers:
                cells = self.matrix(key, layer)
                found[f"figures/{key}-matrix{f'-block{layer}' if several else ''}.png"] = distance_matrix(
                    cells["values"], self.names, cells["beyond"], first.measure,
                    further=first.further, reference=not first.symmetric, known=cells["known"],
                )  # fmt: skip
        return found

    def _layer_figure(self, key: str) -> bytes:
        lines: dict[tuple[str, str], list[Comparison]] = {}
        for _, c in self.of(key):
            lines.setdefault(c.names, []).append(c)
        series = [
            {"label": " × ".join(names),
             **{field: [getattr(c, field) for c in found] for field in ("value", "low", "high", "bound", "beyond")}}
            for names, found in lines.items()
        ]  # fmt: skip
        return distances_by_layer(self.layers, series, self.of(key)[0][1].measure)

    def table(self) -> Any:
        """Return all comparisons as a Rich table."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0))
        single = self.entries[0][1].measure if len(self.keys) == 1 else None
        columns = [
            "pair",
            "block",
            "n",
            "blocks of slices",
            single or "value",
            "exchanged, 95 %",
            "ratio to halves",
        ]
        for column in [*([] if single else ["measure"]), *columns, "p"]:
            table.add_column(column)
        for at, c in self.entries:
            interval = "" if c.low is None else f" [{c.low:.4g}, {c.high:.4g}]"
            cells = [
                " × ".join(c.names),
                str(at),
                " + ".join(map(str, c.n)),
                " + ".join(map(str, c.blocks)),
                f"{c.value:.4g}{interval}",
                "—" if c.bound is None else f"{'≥' if c.further == 'smaller' else '≤'} {c.bound:.4g}",
                "—" if c.ratio is None else f"{c.ratio:.1f}" if c.ratio >= 1 else f"{c.ratio:.2f}",
                f"{c.p_value:.3g}",
            ]
            table.add_row(*map(escape, cells if single else [c.measure, *cells]))
        return table

    def remarks(self) -> list[str]:
        """Return the verdicts, and what to keep in mind with many of them."""
        several = len(self.layers) > 1
        said = [
            (f"block {at}: " if several else "")
            + ("" if len(self.keys) == 1 else f"{c.measure}: ")
            + c.verdict
            for at, c in self.entries
        ]
        if len(said) > 1:
            expected = f"p-values are not corrected for {len(said)} comparisons"
            said.append(f"{expected}: one in twenty is 0.05 or less by chance alone")
        return said


def compare_domains(
    domains: Sequence[Domain],
    options: DomainOptions,
    method: Callable[[Domain, Domain, int], Sequence[Comparison]],
    *,
    dependences: Sequence[Dependence] = (),
    ordered: bool = False,
) -> Distances:
    """Compare all pairs of domains at the chosen layers.

    Parameters
    ----------
    method
        Gives the comparisons of two domains at the position of a layer.
    dependences
        Of the domains, for what their p-values may owe to blocks that are too short.
    ordered
        Whether the first of a pair is a reference, so that pairs count in both orders.
    """
    pairs = list((permutations if ordered else combinations)(domains, 2))
    of = {d.name: d for d in dependences}
    entries = tuple(
        (
            domains[0].embeddings.layers[layer],
            replace(comparison, caveat=joint_caveat([of[d.name] for d in (a, b) if d.name in of])),
        )
        for layer in chosen_layers(options, domains)
        for a, b in pairs
        for comparison in method(a, b, layer)
    )
    return Distances(tuple(d.name for d in domains), entries)
