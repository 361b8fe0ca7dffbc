"""What the benchmarks write and print: CSV text, numbers with their intervals, tables of the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from emvfm.representations.estimates import Estimate

__all__ = ["csv_text", "p_text", "printed", "rich_table", "strict"]


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return CSV text; what is not a number becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(["" if value is None or value != value else value for value in row])
    return text.getvalue()


def printed(estimate: Estimate, digits: int = 3) -> str:
    """Return a value with its interval, such as ``0.431 [0.402, 0.460]``."""
    if not math.isfinite(estimate.value):
        return "—"
    value = f"{estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def p_text(value: float | None) -> str:
    """Return a p-value with as many digits as it deserves."""
    if value is None or value != value:
        return "—"
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def rich_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    """Return a plain Rich table."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def strict(value: float) -> float | None:
    """Return a number as JSON has it: None where it is none."""
    return float(value) if math.isfinite(value) else None
