"""An audit as a table for the terminal, sentences, files and a figure."""

from __future__ import annotations

import csv
import io
from typing import Any

from emvfm.studies.audit.scored import ROLES
from emvfm.studies.audit.verdicts import Audit

__all__ = ["files_of", "remarks_of", "tables_of"]


def _between(low: float | None, high: float | None, sign: str = "") -> str:
    return "no interval" if low is None or high is None else f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def tables_of(audit: Audit) -> list[Any]:
    """Return the scores, and the verdicts, as Rich tables."""
    from rich.markup import escape
    from rich.table import Table

    scores = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("run", "role", f"{audit.metric}, {audit.level:.0%}"):
        scores.add_column(column)
    for name, role, estimate in audit.runs:
        shown = f"{estimate.value:.3f} {_between(estimate.low, estimate.high)}"
        scores.add_row(*map(escape, (name, ROLES[role], shown)))
    verdicts = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("minus", "which", f"difference, {audit.level:.0%}", "p", "Holm"):
        verdicts.add_column(column)
    several = len({each.trained for each in audit.verdicts}) > 1
    for each in audit.verdicts:
        e = each.estimate
        rival = f"{each.rival} ({each.choice})" if each.choice else each.rival
        cells = (
            (f"{each.trained}: " if several else "") + ROLES[each.role], rival,
            f"{e.value:+.3f} {_between(e.low, e.high, '+')}", f"{each.p_value:.2g}", f"{each.p_holm:.2g}",
        )  # fmt: skip
        verdicts.add_row(*map(escape, cells))
    return [scores, "", verdicts]


def remarks_of(audit: Audit) -> list[str]:
    """Return the verdicts in words, and what to keep in mind."""
    said = [each.says for each in audit.verdicts]
    absent = [
        ROLES[role] for role in ROLES if role != "trained" and role not in {r for _, r, _ in audit.runs}
    ]
    if absent:
        said.append(f"nothing is said against what is not here: {', '.join(absent)}")
    if any("after the fact" in each.choice for each in audit.verdicts):
        said.append(
            "the best of several rivals was taken by its score on these very units, anew in every draw; that favours "
            "it. Name one chosen elsewhere by --chosen"
        )
    used, of = audit.parts
    if used < of:
        said.append(f"{of - used} of {of} parts of the score are undefined for a run and left out for all")
    return said


def files_of(audit: Audit) -> dict[str, bytes | str]:
    """Return the table of verdicts and its figure, by path."""
    from emvfm.report.expression_figures import verdict_bars

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["trained", "rival", "role", "choice", "difference", "low", "high", "p", "p_holm", "verdict"]
    )
    for each in audit.verdicts:
        e = each.estimate
        writer.writerow(
            [each.trained, each.rival, each.role, each.choice, e.value, e.low, e.high, each.p_value, each.p_holm,
             each.says]
        )  # fmt: skip
    rows = [
        {"trained": v.trained, "rival": v.rival, "role": ROLES[v.role], "kind": v.role, "value": v.estimate.value,
         "low": v.estimate.low, "high": v.estimate.high}
        for v in audit.verdicts
    ]  # fmt: skip
    return {"verdicts.csv": text.getvalue(), "figures/verdicts.png": verdict_bars(rows, audit.metric)}
