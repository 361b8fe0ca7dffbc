"""Retrieval by metadata: what finds its like among what it should be told from, group by group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError
from emvfm.representations.pairing import LabelPairing, Pairing, find_column, parse_rule, rows_where
from emvfm.representations.ranking import Ranking, rank_queries
from emvfm.representations.retrieval import GroupPrecision, Retrieval, mean_average_precision, query_p_values
from emvfm.studies.bench.corrections import control_rows
from emvfm.studies.bench.options import RetrieveOptions
from emvfm.studies.bench.preparation import aggregated
from emvfm.studies.bench.tables import csv_text, p_text, printed, rich_table, strict
from emvfm.studies.profiles import Profiles

__all__ = ["POSITIVE_CONTROLS", "RetrievalStudy", "paired", "settled", "study_retrieval"]

#: Compounds on every plate of JUMP production, shown as bars where a screen has them (doi:10.1101/2023.03.23.534023).
POSITIVE_CONTROLS = (
    "AMG900", "NVS-PAK1-1", "dexamethasone", "LY2109761", "FK-866", "quinidine", "TC-S-7004", "aloxistatin",
)  # fmt: skip
_JUMP_CONTROLS = "control_type=negcon"
_SHOWN = 12


def settled(profiles: Profiles, options: RetrieveOptions) -> tuple[Profiles, RetrieveOptions]:
    """Return what a preset makes of rows and options; what the user says for himself goes before it.

    The presets are the two questions of copairs (Kalinin et al. 2025, doi:10.1038/s41467-025-60306-2): are
    replicates of a perturbation nearer to each other than to negative controls, and are perturbations with a common
    target, each the median of its replicates, nearer to each other than to those without.

    Raises
    ------
    UsageError
        There are no positives, or the controls of a preset are all rows.
    """
    if options.preset == "none":
        if options.positives is None:
            raise UsageError(
                "nothing says what counts for a query", where="--positives",
                todo="name it, such as --positives 'same compound, different plate', or take a --preset",
            )  # fmt: skip
        return profiles, options
    controls = options.controls or _JUMP_CONTROLS
    are_controls = control_rows(profiles.facts, len(profiles), controls)
    if are_controls.all():
        raise UsageError("every row is a control", where="--controls", got=controls)
    perturbation = find_column(profiles.facts, options.perturbation, "--perturbation")
    if options.preset == "replicability":
        preset = replace(
            options,
            positives=options.positives or f'same "{perturbation}"',
            negatives=options.negatives or controls,
            queries=options.queries or _negated(controls),
            group=options.group or perturbation,
        )
        return profiles, preset
    target = find_column(profiles.facts, options.target, "--target")
    consensus = aggregated(profiles.take(~are_controls), [perturbation], "median")
    return consensus, replace(
        options,
        positives=options.positives or f'shares "{target}"',
        negatives=options.negatives or f'unshared "{target}"',
        group=options.group or target,
    )


def _negated(condition: str) -> str:
    terms = parse_rule(condition).terms
    if len(terms) > 1:
        raise UsageError(
            "controls of several conditions",
            where="--controls",
            got=condition,
            todo="name the --queries yourself",
        )
    sign = "!=" if terms[0].verb == "is" else "="
    return f'"{terms[0].columns[0]}"{sign}' + "|".join(f'"{value}"' for value in terms[0].values)


def paired(profiles: Profiles, options: RetrieveOptions) -> tuple[Pairing, str, tuple[str, ...]]:
    """Return the pairing of settled options, the column of groups, and the group of every query."""
    assert options.positives is not None
    terms = parse_rule(options.positives).terms
    shared = [term for term in terms if term.verb in ("same", "shares")]
    if options.group is None and not shared:
        raise UsageError("nothing to average by", where="--group", todo="name a column")
    group = find_column(profiles.facts, options.group or shared[0].columns[0], "--group")
    labels = any(
        term.verb == "shares" and find_column(profiles.facts, term.columns[0], "--positives") == group
        for term in terms
    )
    rules: dict[str, Any] = {
        "positives": options.positives, "negatives": options.negatives, "exclude": options.exclude,
    }  # fmt: skip
    if labels:
        by_label = LabelPairing(profiles.facts, group, **rules)
        return by_label, group, by_label.labels
    return Pairing(profiles.facts, **rules), group, profiles.facts[group]


@dataclass(frozen=True)
class RetrievalStudy:
    """Every query with its score, and every group.

    Attributes
    ----------
    profiles, options
        As settled.
    group
        Column that groups are of.
    labels
        Group of each query asked.
    p_values
        Of each query asked, NaN without a score.
    """

    profiles: Profiles
    options: RetrieveOptions
    group: str
    labels: tuple[str, ...]
    ranking: Ranking
    p_values: NDArray[np.float64]
    retrieval: Retrieval

    @property
    def shown(self) -> list[GroupPrecision]:
        """Groups that are drawn as bars: those asked for, else the positive controls of JUMP that are there."""
        by_name = {group.group: group for group in self.retrieval.groups}
        absent = [name for name in self.options.show if name not in by_name]
        if absent:
            raise UsageError(
                "no such group", where="--show", got=absent[0], expected=f"a value of {self.group}"
            )
        names = self.options.show or POSITIVE_CONTROLS
        return [by_name[name] for name in names if name in by_name]

    @property
    def found(self) -> int:
        """Groups below the false discovery rate."""
        return sum(group.q_value <= self.options.alpha for group in self.retrieval.groups)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the queries as strict JSON values; those are in a table."""
        shown = [group.group for group in self.shown]
        return {
            "benchmark": "retrieve",
            "metric": "mAP",
            "profiles": self.profiles.to_json(),
            "preset": self.options.preset,
            "group": self.group,
            "alpha": self.options.alpha,
            "below_alpha": self.found,
            "shown": shown,
            **self.retrieval.to_json(),
        }

    def files(self) -> dict[str, bytes | str]:
        """Return the tables of queries and of groups, and figures, by path."""
        from emvfm.report.representation_figures import group_bars, group_precisions

        found: dict[str, bytes | str] = {"queries.csv": self._queries(), "groups.csv": self._groups()}
        rows = [_drawn(group) for group in self.retrieval.groups]
        overall = {"value": self.retrieval.overall.value, "expected": self.retrieval.expected}
        found["figures/groups.png"] = group_precisions(rows, overall, self.group, self.options.alpha)
        bars = self.shown or (list(self.retrieval.groups) if len(rows) <= 40 else [])
        if bars:
            mean = {
                "group": f"mean of {len(rows)}", "value": self.retrieval.overall.value,
                "low": self.retrieval.overall.low, "high": self.retrieval.overall.high,
                "expected": self.retrieval.expected, "n": self.retrieval.overall.n, "q": None,
            }  # fmt: skip
            found["figures/bars.png"] = group_bars([*map(_drawn, bars), mean], self.options.alpha)
        return found

    def _queries(self) -> str:
        ranking, facts = self.ranking, self.profiles
        rows = ranking.pairing.rows(ranking.queries)
        header = [
            "id",
            "group",
            "average_precision",
            "expected",
            "normalised",
            "p_value",
            "positives",
            "candidates",
        ]
        header += [f"hit_at_{k}" for k in ranking.hits]
        columns = [
            [facts.ids[row] for row in rows], list(self.labels), ranking.average_precision.tolist(),
            ranking.expected.tolist(), ranking.normalised.tolist(), self.p_values.tolist(),
            ranking.n_positives.tolist(), ranking.n_candidates.tolist(),
            *(values.tolist() for values in ranking.hits.values()),
        ]  # fmt: skip
        return csv_text(header, zip(*columns, strict=True))

    def _groups(self) -> str:
        header = [
            "group",
            "queries",
            "map",
            "low",
            "high",
            "expected",
            "normalised",
            "p_value",
            "q_value",
            "exact",
        ]
        return csv_text(
            header,
            ([g.group, g.precision.n, g.precision.value, g.precision.low, g.precision.high, g.expected, g.normalised,
              g.p_value, g.q_value, g.exact] for g in self.retrieval.groups),
        )  # fmt: skip

    def lines(self) -> list[Any]:
        """Return what the terminal shows: the mean over groups, some groups, and what was left out."""
        from rich.markup import escape

        found = self.retrieval
        head = rich_table(
            ["", f"mean over {len(found.groups)} groups", "random order"],
            [
                ["mAP", printed(found.overall), f"{found.expected:.3f}"],
                ["normalised mAP", printed(found.normalised), "0"],
                *([f"R@{k}", printed(v), f"{found.expected_hits[k]:.3f}"] for k, v in found.hits.items()),
            ],
        )
        several = len(found.groups) > _SHOWN
        shown = self.shown or sorted(found.groups, key=lambda g: -g.precision.value)[:_SHOWN]
        groups = rich_table(
            [self.group, "n", "mAP", "random order", "p", "q"],
            [[g.group, str(g.precision.n), printed(g.precision), f"{g.expected:.3f}", p_text(g.p_value), p_text(g.q_value)]
             for g in shown],
        )  # fmt: skip
        said = [
            f"{self.found} of {len(found.groups)} groups at a false discovery rate of {self.options.alpha:g}"
        ]
        if found.left_out:
            said.append(f"{found.left_out} queries left out: no positive, no negative or no group")
        title = [] if self.shown or not several else [f"[dim]The {len(shown)} highest; all in groups.csv:[/]"]
        return [head, *title, groups, *map(escape, said)]


def _drawn(group: GroupPrecision) -> dict[str, Any]:
    precision = group.precision
    return {
        "group": group.group, "value": precision.value, "low": precision.low, "high": precision.high,
        "n": precision.n, "expected": group.expected, "p": group.p_value, "q": strict(group.q_value),
    }  # fmt: skip


def study_retrieval(profiles: Profiles, options: RetrieveOptions) -> RetrievalStudy:
    """Rank, average and test prepared profiles.

    Parameters
    ----------
    profiles
        Of :func:`~emvfm.studies.bench.preparation.prepared`.

    Raises
    ------
    UsageError
        Rules that cannot be read, columns or groups that are not there, or no query with a positive.
    """
    profiles, options = settled(profiles, options)
    pairing, group, labels = paired(profiles, options)
    queries = np.arange(pairing.n_queries)
    if options.queries is not None:
        asked = rows_where(profiles.facts, options.queries, "--queries")
        queries = queries[asked[pairing.rows(queries)]]
        if not len(queries):
            raise UsageError("no row asks", where="--queries", got=options.queries)
    ranking = rank_queries(profiles.features, pairing, queries=queries, ks=options.hits)
    study = RetrievalStudy(
        profiles=profiles,
        options=options,
        group=group,
        labels=tuple(labels[query] for query in queries),
        ranking=ranking,
        p_values=query_p_values(ranking, draws=options.draws, seed=options.seed),
        retrieval=mean_average_precision(
            ranking, labels, draws=options.draws, seed=options.seed, level=options.level
        ),
    )
    _ = study.shown  # an unknown group is refused before anything is written
    return study
