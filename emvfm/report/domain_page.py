"""The page of ``emvfm domain report``, from the folders that the other domain commands wrote."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emvfm.report.html import Page
from emvfm.workspace import read_json

__all__ = ["Chapter", "domain_page"]

_MOST_FIGURE_BYTES = 1_200_000  # larger ones stay in the folder, so that the page stays a page


@dataclass(frozen=True)
class Chapter:
    """One analysis of the page.

    Attributes
    ----------
    title, text
        Heading, and what is measured and how to read it.
    folder
        That the command wrote.
    table
        CSV file there, and its columns to show by heading; one of three columns gives "value [low, high]".
    where
        Keeps the rows of the table that the page shows.
    figures
        Figures there by file name, with a caption; those that are not there are passed over.
    """

    title: str
    text: str
    folder: Path
    table: str
    columns: Mapping[str, str | tuple[str, str, str]]
    figures: Mapping[str, str]
    where: Mapping[str, str] | None = None


def verdicts(value: Any) -> Iterator[str]:
    """Yield every ``verdict``, and those of ``verdicts``, within nested results: the outermost first, each once."""
    seen = set()
    queue = [value]
    while queue:
        item = queue.pop(0)
        if isinstance(item, dict):
            for said in (item.get("verdict"), *(item.get("verdicts") or ())):
                if isinstance(said, str) and said not in seen:
                    seen.add(said)
                    yield said
            queue += item.values()
        elif isinstance(item, list):
            queue += item


def _number(text: str) -> Any:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _rows(chapter: Chapter) -> Iterator[list[Any]]:
    with (chapter.folder / chapter.table).open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if any(row[column] != wanted for column, wanted in (chapter.where or {}).items()):
                continue
            cells: list[Any] = []
            for source in chapter.columns.values():
                if isinstance(source, str):
                    cells.append(_number(row[source]))
                    continue
                value, low, high = (_number(row[name]) for name in source)
                if value is None:
                    cells.append(None)
                else:
                    ends = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
                    cells.append((value, f"{value:.3g}{ends}"))
            yield cells


def domain_page(
    title: str,
    subtitle: str,
    summary: Sequence[tuple[str, str]],
    data: Sequence[Sequence[Any]],
    chapters: Sequence[Chapter],
    commands: Sequence[str],
    provenance: Mapping[str, Any],
) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    summary
        What the analyses say in one sentence each, with a tone (see `Page.verdict`).
    data
        Rows of dataset, images, blocks of slices, volumes, annotated images, pixel size in nm.
    commands
        That repeat each analysis.
    """
    page = Page(title, subtitle)
    page.section("In short")
    for text, tone in summary:
        page.verdict(text, tone)  # type: ignore[arg-type]
    page.section(
        "The data",
        "Neighbouring slices are not independent: whatever is exchanged, halved or left out below is a block of "
        "consecutive slices, so the number of blocks is the number that counts.",
    )
    columns = ["dataset", "images", "blocks of slices", "volumes", "annotated", "pixel size, nm"]
    page.table(columns, data)
    for chapter in chapters:
        page.section(chapter.title, chapter.text)
        metrics = read_json(chapter.folder / "metrics.json")
        for said in list(verdicts(metrics))[:8]:
            page.text(said + ".")
        page.table(list(chapter.columns), list(_rows(chapter)))
        for name, caption in chapter.figures.items():
            path = chapter.folder / "figures" / name
            if path.is_file() and path.stat().st_size <= _MOST_FIGURE_BYTES:
                page.figure(path.read_bytes(), caption, caption)
    page.section("Repeat it", "Each analysis stands alone and writes its numbers as JSON and CSV.")
    page.table(["command"], [[command] for command in commands])
    page.provenance(provenance)
    return page.render()
