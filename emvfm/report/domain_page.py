"""The page of ``emvfm domain report``, from the folders that the other domain commands wrote."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emvfm.report.html import Page
from emvfm.workspace import read_json

__all__ = ["Chapter", "domain_page"]

_MOST_PNG_BYTES = 600_000  # larger ones are photographs, which the page shows as JPEG
_WIDEST = 1600  # pixels of those


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
    names
        What the cells of the table say instead of the names in the file.
    sentences
        How many verdicts are shown at most.
    """

    title: str
    text: str
    folder: Path
    table: str
    columns: Mapping[str, str | tuple[str, str, str]]
    figures: Mapping[str, str]
    where: Mapping[str, str] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    sentences: int = 8


def verdicts(value: Any) -> Iterator[str]:
    """Yield every ``verdict``, and those of ``verdicts``, within nested results: the outermost first, each once.

    A verdict that several measures give is said once, after their names.
    """
    found: dict[str, list[str]] = {}
    queue = [value]
    while queue:
        item = queue.pop(0)
        if isinstance(item, dict):
            measure = item.get("measure")
            for said in (item.get("verdict"), *(item.get("verdicts") or ())):
                if isinstance(said, str):
                    by = found.setdefault(said, [])
                    if isinstance(measure, str) and measure not in by and measure not in said:
                        by.append(measure)
            queue += item.values()
        elif isinstance(item, list):
            queue += item
    for said, measures in found.items():
        yield f"{', '.join(measures)}: {said}" if measures else said


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text) if text else None
        except ValueError:
            continue
    return text


def _embedded(path: Path) -> bytes:
    """Return a figure as the page shows it: a large one, which is made of images, as JPEG."""
    data = path.read_bytes()
    if len(data) <= _MOST_PNG_BYTES:
        return data
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        image = picture.convert("RGB")
        image.thumbnail((_WIDEST, 10 * _WIDEST))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _rows(chapter: Chapter) -> Iterator[list[Any]]:
    with (chapter.folder / chapter.table).open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if any(row[column] != wanted for column, wanted in (chapter.where or {}).items()):
                continue
            cells: list[Any] = []
            for source in chapter.columns.values():
                if isinstance(source, str):
                    cells.append(_number(chapter.names.get(row[source], row[source])))
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
        Rows of dataset, images, blocks of slices, slices a block, slices that depend on each other, volumes,
        annotated images, pixel size in nm.
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
        "consecutive slices, so the number of blocks is the number that counts. The dependence says over how "
        "many slices embeddings depend on each other (their integrated autocorrelation time), as far as stacks tell.",
    )
    columns = [
        "dataset", "images", "blocks of slices", "slices a block", "dependence, slices", "volumes", "annotated",
        "pixel size, nm",
    ]  # fmt: skip
    page.table(columns, data)
    for chapter in chapters:
        page.section(chapter.title, chapter.text)
        metrics = read_json(chapter.folder / "metrics.json")
        for said in list(verdicts(metrics))[: chapter.sentences]:
            page.text(said + ".")
        page.table(list(chapter.columns), list(_rows(chapter)))
        for name, caption in chapter.figures.items():
            path = chapter.folder / "figures" / name
            if path.is_file():
                page.figure(_embedded(path), caption, caption)
    page.section("Repeat it", "Each analysis stands alone and writes its numbers as JSON and CSV.")
    page.table(["command"], [[command] for command in commands])
    page.provenance(provenance)
    return page.render()
