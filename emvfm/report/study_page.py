"""The page of ``emvfm report``: the answer first, then what it rests on, all in one file. From plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emvfm.report.html import Page, Tone

__all__ = ["Figure", "StudyPage", "Table", "render_study"]


@dataclass(frozen=True)
class Table:
    """A table of the page; a cell may be a pair ``(value, text)``, as in `Page.table`."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """PNG or JPEG with its caption."""

    image: bytes
    caption: str


@dataclass(frozen=True)
class StudyPage:
    """What a study's report says.

    Parameters
    ----------
    answer, tone
        The answer to the question in one sentence, and how it is coloured.
    claim
        The decision rule in words.
    warnings
        What a reader must know before believing the answer.
    findings
        Every comparison in a sentence, with its tone.
    numbers
        Headline numbers.
    commands
        That make all of it again, with what each does.
    """

    title: str
    question: str
    answer: str
    tone: Tone
    claim: str
    numbers: Mapping[str, Any]
    warnings: Sequence[str] = ()
    notes: str = ""
    findings: Sequence[tuple[str, Tone]] = ()
    comparisons: Table | None = None
    arms: Table | None = None
    figures: Sequence[Figure] = ()
    overlays: Sequence[Figure] = ()
    data: Table | None = None
    weights: Table | None = None
    runs: Table | None = None
    failed: Table | None = None
    commands: Sequence[Sequence[str]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


_COMPARED = (
    "First minus second, the same seeds on the same slices. The interval resamples seeds and blocks of consecutive "
    "slices together; with few blocks it is too narrow. p exchanges the two sides' predictions, whole blocks at a "
    "time, and is corrected by Holm for all comparisons of the study; p over seeds flips the signs of the seeds' "
    "differences. The least p that so many blocks or seeds can give stands in brackets."
)
_ARMS = (
    "Mean over seeds of what is pooled over the test slices. The first interval is over seeds and blocks of slices "
    "together: what another seed on other slices may give. The second is Student's over seeds alone, on these slices. "
    "sd: standard deviation over seeds with n − 1 in the denominator."
)


def render_study(content: StudyPage) -> str:
    """Return the page as HTML.

    Raises
    ------
    EmvfmError
        It is too large; see `Page.render`.
    """
    page = Page(content.title, content.question)
    page.verdict(content.answer, content.tone)
    for warning in content.warnings:
        page.verdict(warning, "caution")
    page.numbers(content.numbers)
    page.section("The rule", content.claim + (f"\n\n{content.notes}" if content.notes else ""))
    if content.findings or content.comparisons:
        page.section("What was compared", _COMPARED)
        for text, tone in content.findings:
            page.verdict(text, tone)
        _table(page, content.comparisons)
    if content.figures:
        page.section("In pictures")
        for figure in content.figures:
            page.figure(figure.image, figure.caption, figure.caption)
    if content.arms:
        page.section("Every place of the grid", _ARMS)
        _table(page, content.arms)
    if content.overlays:
        page.section(
            "Worst, median and best slice",
            "Of the first seed, at native resolution: found, wrongly found and missed foreground.",
        )
        for figure in content.overlays:
            page.figure(figure.image, figure.caption, figure.caption)
    if content.data:
        page.section(
            "The data", "Names are no identity: the digest is that of images, masks, pairs and splits."
        )
        _table(page, content.data)
    if content.weights:
        page.section("The weights")
        _table(page, content.weights)
    if content.failed:
        page.section("What failed", "Tried again by the next call of the study.")
        _table(page, content.failed)
    if content.runs:
        page.section("Every run", "A row a run and test set; intervals are over slices alone.")
        _table(page, content.runs)
    if content.commands:
        page.section("Repeat it")
        page.table(["to", "command"], content.commands)
    page.provenance(content.provenance)
    return page.render()


def _table(page: Page, table: Table | None) -> None:
    if table is not None:
        page.table(table.columns, table.rows, table.caption)
