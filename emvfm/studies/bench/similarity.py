"""How alike representations of the same rows are, pair by pair; and how alike what runs predict from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError
from emvfm.representations.similarity import Similarity
from emvfm.representations.similarity_matrix import similarity_matrix
from emvfm.studies.bench.options import SimilarityOptions
from emvfm.studies.bench.predictions import RunPredictions
from emvfm.studies.bench.representations import Representations
from emvfm.studies.bench.tables import csv_text, p_text, printed, rich_table, strict

__all__ = ["SimilarityStudy", "study_predictions", "study_similarity"]

_PRINTED = 20


@dataclass(frozen=True)
class SimilarityStudy:
    """Every pair by every measure.

    Attributes
    ----------
    found
        By measure, pairs in the order of :func:`itertools.combinations`.
    source
        What was compared, for the record.
    """

    names: tuple[str, ...]
    found: dict[str, list[Similarity]]
    source: dict[str, Any]
    seed: int

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(combinations(self.names, 2))

    def matrix(self, measure: str) -> NDArray[np.float64]:
        """Return ``(k, k)``, ones on the diagonal, NaN where a measure is not defined."""
        k = len(self.names)
        values = np.eye(k)
        for (i, j), one in zip(combinations(range(k), 2), self.found[measure], strict=True):
            values[i, j] = values[j, i] = one.estimate.value
        return values

    def to_json(self) -> dict[str, Any]:
        """Return everything as strict JSON values."""
        results = [
            {"a": a, "b": b, **one.to_json()}
            for found in self.found.values()
            for (a, b), one in zip(self.pairs, found, strict=True)
        ]
        matrices = {
            measure: [[strict(v) for v in row] for row in self.matrix(measure)] for measure in self.found
        }
        return {
            "benchmark": "similarity", "metric": "similarity", "seed": self.seed, **self.source,
            "names": list(self.names), "matrices": matrices, "results": results,
        }  # fmt: skip

    def files(self) -> dict[str, bytes | str]:
        """Return the table of pairs, a matrix and a heat map with its tree for every measure, by path."""
        from emvfm.report.representation_figures import similarity_map

        header = [
            "measure",
            "a",
            "b",
            "value",
            "low",
            "high",
            "null_mean",
            "null_high",
            "p_value",
            "interval",
        ]
        rows = [
            [measure, a, b, one.estimate.value, one.estimate.low, one.estimate.high, one.null_mean, one.null_high,
             one.p_value, one.estimate.method]
            for measure, found in self.found.items()
            for (a, b), one in zip(self.pairs, found, strict=True)
        ]  # fmt: skip
        files: dict[str, bytes | str] = {"similarity.csv": csv_text(header, rows)}
        for measure in self.found:
            values = self.matrix(measure)
            cells = [[name, *row] for name, row in zip(self.names, values.tolist(), strict=True)]
            files[f"matrix-{measure}.csv"] = csv_text(["", *self.names], cells)
            files[f"figures/{measure}.png"] = similarity_map(values, self.names, measure)
        return files

    def lines(self) -> list[Any]:
        """Return what the terminal shows: all pairs by all measures, the first of them with many."""
        measures = list(self.found)
        numbered = rich_table(
            ["", "representation"], [[str(i + 1), name] for i, name in enumerate(self.names)]
        )
        rows = []
        for i, (a, b) in list(enumerate(combinations(range(len(self.names)), 2)))[:_PRINTED]:
            rows.append([f"{a + 1} × {b + 1}", *(printed(self.found[m][i].estimate, 2) for m in measures)])
        lines = [numbered, "", rich_table(["pair", *measures], rows)]
        if len(self.pairs) > _PRINTED:
            lines.append(f"[dim]{_PRINTED} of {len(self.pairs)} pairs; all in similarity.csv[/]")
        nulls = [
            f"{m} {p_text(float(np.mean([one.null_high for one in found if one.null_high is not None])))}"
            for m, found in self.found.items()
            if any(one.null_high is not None for one in found)
        ]
        if nulls:
            lines.append(f"[dim]95 % point with rows in random order, mean over pairs: {', '.join(nulls)}[/]")
        return lines


def _by_measure(
    arrays: Sequence[NDArray[Any]],
    measures: Sequence[str],
    groups: Sequence[str] | None,
    options: SimilarityOptions,
) -> dict[str, list[Similarity]]:
    return {
        measure: similarity_matrix(
            arrays, measure, groups=groups, permutations=options.permutations, parts=options.parts,
            level=options.level, seed=options.seed,
        )
        for measure in measures
    }  # fmt: skip


def study_similarity(representations: Representations, options: SimilarityOptions) -> SimilarityStudy:
    """Compare all pairs of representations by the measures of the options.

    Raises
    ------
    UsageError
        Fewer than two representations, or too few rows for a measure.
    """
    if len(representations.names) < 2:
        raise UsageError(
            "nothing to compare with", got=representations.names[0], expected="two or more representations",
            todo="repeat --backbone, take --all-layers, or give several tables",
        )  # fmt: skip
    arrays = [one.features for one in representations.profiles]
    found = _by_measure(arrays, dict.fromkeys(options.measure), representations.groups, options)  # type: ignore[arg-type]
    return SimilarityStudy(representations.names, found, representations.to_json(), options.seed)


def study_predictions(runs: Sequence[RunPredictions], options: SimilarityOptions) -> SimilarityStudy:
    """Correlate what runs predicted for the same rows, column by column (Spearman).

    Raises
    ------
    UsageError
        Fewer than two runs, or fewer than three rows in common.
    """
    if len(runs) < 2:
        raise UsageError("nothing to compare with", where="--run", expected="two or more runs")
    shared = [key for key in runs[0].keys if all(key in run.keys for run in runs[1:])]
    columns = [name for name in runs[0].columns if all(name in run.columns for run in runs[1:])]
    if len(shared) < 3 or not columns:
        raise UsageError(
            "runs that predict different things",
            where="--run",
            got=f"{len(shared)} rows and {len(columns)} columns in common",
        )
    arrays = [run.table(shared, columns) for run in runs]
    found = _by_measure(arrays, ["predictions"], None, options)
    source = {
        "runs": [run.to_json() for run in runs], "rows": len(shared), "columns": columns,
        "rows_of": max(len(run.keys) for run in runs),
    }  # fmt: skip
    return SimilarityStudy(tuple(run.name for run in runs), found, source, options.seed)
