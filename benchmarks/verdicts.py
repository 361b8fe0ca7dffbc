"""The table of an audit on a page of results: what is compared, the difference with its interval, p-values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.document import Document

__all__ = ["between", "verdict_table"]


def between(estimate: Mapping[str, Any], sign: str = "") -> str:
    """Return value and interval as text."""
    if estimate["value"] is None:
        return "undefined"
    low, high = estimate.get("low"), estimate.get("high")
    ends = "" if low is None or high is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"
    return f"{estimate['value']:{sign}.3f}{ends}"


def verdict_table(
    page: Document,
    audit: Mapping[str, Any],
    columns: Sequence[str],
    described: Callable[[Mapping[str, Any]], Sequence[Any]],
) -> None:
    """Add the paired differences of ``bench audit`` to a page, one row a verdict.

    Parameters
    ----------
    audit
        What the command said.
    columns, described
        Names of the first columns, and what stands in them for a verdict.
    """
    rows = [
        [*described(v), between(v["estimate"], "+"), v["p_value"], v["p_holm"]] for v in audit["verdicts"]
    ]
    page.table([*columns, "difference [95 %]", "p", "p, Holm"], rows)
