"""Enrichment: how many times likelier a related row is among the nearest than elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from emvfm.errors import UsageError
from emvfm.representations.enrichment import Enrichment, neighbour_enrichment
from emvfm.representations.pairing import Pairing
from emvfm.studies.bench.options import EnrichOptions
from emvfm.studies.bench.tables import csv_text, printed, rich_table
from emvfm.studies.profiles import Profiles

__all__ = ["EnrichmentStudy", "study_enrichment"]


@dataclass(frozen=True)
class EnrichmentStudy:
    """Odds ratios at each share of the candidates that counts as near."""

    profiles: Profiles
    unit: str | None
    found: tuple[Enrichment, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything but single rows as strict JSON values; those are in a table."""
        results = []
        for one in self.found:
            values = one.to_json()
            for name in ("odds_ratios", "p_values", "q_values"):
                del values[name]
            results.append(values)
        return {
            "benchmark": "enrich",
            "metric": "excess of the log odds ratio",
            "profiles": self.profiles.to_json(),
            "unit": self.unit,
            "results": results,
        }

    def files(self) -> dict[str, bytes | str]:
        """Return the table of rows and the figure, by path."""
        from emvfm.report.representation_figures import odds_figure

        header = ["id", "near", "odds_ratio", "p_value", "q_value"]
        rows = [
            [own, one.share, *values]
            for one in self.found
            for own, *values in zip(
                self.profiles.ids, one.odds_ratios, one.p_values, one.q_values, strict=True
            )
        ]
        drawn = [
            {"share": one.share, "odds": [v for v in one.odds_ratios if v is not None],
             "value": one.log_odds.value, "low": one.log_odds.low, "high": one.log_odds.high,
             "expected": one.expected}
            for one in self.found
        ]  # fmt: skip
        return {"rows.csv": csv_text(header, rows), "figures/odds.png": odds_figure(drawn)}

    def lines(self) -> list[Any]:
        """Return what the terminal shows."""
        header = ["near", "rows", "log odds ratio", "random order", "excess", "significant"]
        rows = [
            [f"{one.share:.3g}", str(one.log_odds.n), printed(one.log_odds), f"{one.expected:.3f}", printed(one.excess),
             printed(one.significant)]
            for one in self.found
        ]  # fmt: skip
        units = "rows" if self.unit is None else f"values of {self.unit}"
        return [rich_table(header, rows), f"[dim]Chance is an excess of 0; intervals over {units}.[/]"]


def study_enrichment(profiles: Profiles, options: EnrichOptions) -> EnrichmentStudy:
    """Count related rows among the nearest of every row of prepared profiles.

    Raises
    ------
    UsageError
        Nothing says what is related, or no row has related and unrelated candidates.
    """
    if options.positives is None:
        raise UsageError(
            "nothing says what is related",
            where="--positives",
            todo="name it, such as --positives 'shares moa'",
        )
    pairing = Pairing(
        profiles.facts, positives=options.positives, negatives=options.negatives, exclude=options.exclude
    )
    groups = None if options.unit is None else profiles.column(options.unit)
    found = tuple(
        neighbour_enrichment(
            profiles.features, pairing, share=share, alpha=options.alpha, groups=groups, level=options.level,
            seed=options.seed,
        )
        for share in sorted(options.near)
    )  # fmt: skip
    return EnrichmentStudy(profiles, options.unit, found)
