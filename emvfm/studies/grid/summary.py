"""A study summed up: means over seeds with intervals, paired comparisons corrected for their number, an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from emvfm.errors import UsageError
from emvfm.segmentation.comparison import exchange_test, holm, mean_of_runs, paired_difference
from emvfm.segmentation.intervals import Estimate
from emvfm.studies.grid.results import Row
from emvfm.studies.grid.runner import Opened
from emvfm.studies.grid.spec import Rule, StudySpec
from emvfm.studies.grid.statistics import SeedMean, mean_over, sign_flip

__all__ = ["Arm", "Compared", "Outcome", "Summary", "judged", "summarize", "summary_of"]

Outcome = Literal["shown", "refuted", "undecided"]


@dataclass(frozen=True)
class Arm:
    """One place of the grid on one test set, over its seeds.

    Parameters
    ----------
    values
        Of each seed, in their order.
    over_seeds
        Mean with Student's interval: what another seed may give on these slices.
    over_both
        Mean with an interval over seeds and blocks of slices together: what another seed on other slices may.
    """

    labels: Mapping[str, str]
    test: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    over_seeds: SeedMean
    over_both: Estimate
    blocks: int

    @property
    def name(self) -> str:
        return ", ".join(self.labels.values())

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Compared:
    """First minus second, seed by seed on the same slices.

    Parameters
    ----------
    at
        Where the rest of the grid stands, the same for both.
    difference
        With the interval that the rule judges by.
    over_seeds
        Of the seeds' differences, with Student's interval.
    p_value, p_corrected
        By exchange of blocks of slices; corrected by Holm for all comparisons of the study.
    p_seeds
        By flipping the signs of the seeds' differences.
    smallest, smallest_seeds
        The least that so many blocks, or so many seeds, can give.
    """

    first: Mapping[str, str]
    second: Mapping[str, str]
    at: Mapping[str, str]
    test: str
    seeds: tuple[int, ...]
    values: tuple[tuple[float, float], ...]
    difference: Estimate
    over_seeds: SeedMean
    p_value: float
    p_corrected: float
    smallest: float
    p_seeds: float
    smallest_seeds: float
    blocks: int
    method: str
    outcome: Outcome

    @property
    def name(self) -> str:
        return f"{_text(self.first)} − {_text(self.second)}" + (f" ({_text(self.at)})" if self.at else "")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Summary:
    """All arms and comparisons of a study, and what follows.

    Parameters
    ----------
    done, total
        Runs that are finished, and all.
    """

    metric: str
    rule: Rule
    arms: tuple[Arm, ...]
    compared: tuple[Compared, ...]
    done: int
    total: int

    @property
    def outcome(self) -> Outcome:
        """``shown`` if every comparison shows the claim, ``refuted`` if one refutes it, else ``undecided``."""
        found = {each.outcome for each in self.compared}
        if "refuted" in found:
            return "refuted"
        return "shown" if found == {"shown"} else "undecided"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return {**asdict(self), "outcome": self.outcome}


def _text(labels: Mapping[str, str]) -> str:
    return ", ".join(labels.values())


def _blocks(rows: Sequence[Row]) -> list[int]:
    """Return the block of each slice, the same for all `rows`; UsageError if their slices differ."""
    listed = [[(image.id, image.block) for image in row.cell.images] for row in rows]
    if any(each != listed[0] for each in listed):
        raise UsageError("runs were not scored on the same slices", where=rows[0].test)
    return [block for _, block in listed[0]]


def judged(rule: Rule, low: float | None, high: float | None) -> Outcome:
    """Return what the rule says of the interval of a difference; without one nothing is decided."""
    if low is None or high is None:
        return "undecided"
    m = rule.margin
    shown, refuted = {
        "not-lower": (low > -m, high < -m),
        "lower": (high < -m, low > -m),
        "higher": (low > m, high < m),
        "same": (low > -m and high < m, high < -m or low > m),
    }[rule.claim]
    return "shown" if shown else "refuted" if refuted else "undecided"


def _arm(rows: Sequence[Row], spec: StudySpec) -> Arm:
    rule, scoring = spec.rule, spec.evaluate
    blocks = _blocks(rows)
    values = tuple(row.value(rule.metric) for row in rows)
    over_both = mean_of_runs(
        [row.counts for row in rows], blocks, statistic=rule.metric, samples=scoring.samples,
        level=rule.level, seed=scoring.seed,
    )  # fmt: skip
    seeds = tuple(row.seed for row in rows)
    over_seeds, n_blocks = mean_over(values, rule.level), len(set(blocks))
    return Arm(rows[0].labels, rows[0].test, seeds, values, over_seeds, over_both, n_blocks)


def _compare(
    pairs: Sequence[tuple[Row, Row]], spec: StudySpec, first: Mapping[str, str], second: Mapping[str, str]
) -> Compared:
    rule, scoring = spec.rule, spec.evaluate
    blocks = _blocks([row for pair in pairs for row in pair])
    a, b = ([pair[k].counts for pair in pairs] for k in (0, 1))
    values = tuple((x.value(rule.metric), y.value(rule.metric)) for x, y in pairs)
    differences = [x - y for x, y in values]
    options: dict[str, Any] = {"statistic": rule.metric, "level": rule.level, "seed": scoring.seed}
    difference = paired_difference(a, b, blocks, samples=scoring.samples, **options)
    over_seeds, flipped = mean_over(differences, rule.level), sign_flip(differences, seed=scoring.seed)
    if difference.low is None and over_seeds.low is not None:
        text = f"Student's interval over {len(pairs)} seeds; a single block of slices can't be resampled"
        difference = replace(difference, low=over_seeds.low, high=over_seeds.high, method=text)
    tested = exchange_test(a, b, blocks, **options)
    return Compared(
        first=first,
        second=second,
        at={axis: label for axis, label in pairs[0][0].labels.items() if axis not in first},
        test=pairs[0][0].test,
        seeds=tuple(row.seed for row, _ in pairs),
        values=values,
        difference=difference,
        over_seeds=over_seeds,
        p_value=tested.p_value,
        p_corrected=tested.p_value,
        smallest=tested.smallest,
        p_seeds=flipped.p_value,
        smallest_seeds=flipped.smallest,
        blocks=tested.n_blocks,
        method=tested.method,
        outcome=judged(rule, difference.low, difference.high),
    )


def summarize(rows: Sequence[Row], spec: StudySpec, done: int, total: int) -> Summary:
    """Sum up what is finished; comparisons are made where both sides share a seed.

    Parameters
    ----------
    rows
        Of `results.gather`.
    done, total
        Finished runs and all.
    """
    groups: dict[tuple[tuple[str, ...], str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.arm, row.test), []).append(row)
    arms = tuple(_arm(group, spec) for group in groups.values())
    found = []
    for entry in spec.rule.compare:
        firsts = [g for g in groups.values() if g[0].test == entry.test and _at(g[0], entry.first)]
        for group in firsts:
            other = tuple((dict(group[0].labels) | dict(entry.second)).values())
            by_seed = {row.seed: row for row in groups.get((other, entry.test), ())}
            pairs = [(row, by_seed[row.seed]) for row in group if row.seed in by_seed]
            if pairs:
                found.append(_compare(pairs, spec, entry.first, entry.second))
    corrected = holm([each.p_value for each in found]) if found else []
    compared = tuple(replace(each, p_corrected=p) for each, p in zip(found, corrected, strict=True))
    return Summary(spec.rule.metric, spec.rule, arms, compared, done, total)


def _at(row: Row, place: Mapping[str, str]) -> bool:
    return all(row.labels[axis] == label for axis, label in place.items())


def summary_of(study: Opened, rows: Sequence[Row]) -> Summary:
    """Sum up what is finished of a study."""
    total = len(study.plan.runs)
    return summarize(rows, study.spec, total - len(study.missing), total)
