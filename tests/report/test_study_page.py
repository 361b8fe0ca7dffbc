"""The page of a study: the answer first, everything escaped, parts that are missing left out."""

from __future__ import annotations

from html.parser import HTMLParser

from emvfm.report.study_page import StudyPage, Table, render_study


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


def _page(**more) -> StudyPage:
    base = {
        "title": "quick",
        "question": "Does it collapse?",
        "answer": "No <b>collapse</b>.",
        "tone": "good",
    }
    return StudyPage(**base, claim="Claim: it does not.", numbers={"runs": 4}, **more)


def _read(page: str) -> str:
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    return " ".join(" ".join(reader.text).split())


def test_the_answer_stands_before_what_it_rests_on() -> None:
    table = Table(["head", "IoU"], [["linear", (0.7, "0.700 [0.6, 0.8]")]])
    text = _read(
        render_study(_page(arms=table, warnings=["Few blocks."], findings=[("On a: none.", "good")]))
    )
    order = [
        "quick",
        "Does it collapse?",
        "No <b>collapse</b>.",
        "Few blocks.",
        "Claim:",
        "On a: none.",
        "linear",
    ]
    places = [text.index(part, text.index("No <b>") if n > 1 else 0) for n, part in enumerate(order)]
    assert places == sorted(places)


def test_what_is_not_there_has_no_heading() -> None:
    text = _read(render_study(_page()))
    for heading in (
        "What was compared",
        "In pictures",
        "Every place",
        "What failed",
        "The weights",
        "Repeat it",
    ):
        assert heading not in text
    failed = Table(["run", "error"], [["a, seed 0", "the disk is full"]])
    assert "the disk is full" in _read(render_study(_page(failed=failed)))
