"""The report page: self-contained, escaped, well-formed, sortable."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emvfm.errors import EmvfmError, UsageError
from emvfm.report.figures import bars_with_intervals
from emvfm.report.html import Page

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)
ROWS = [["a", 0.51234, 3], ["b", None, 12000], ["c", (0.7, "0.70 ± 0.02"), 1]]
VOID = {"meta", "link", "img", "br"}


class _Checker(HTMLParser):
    """Collects tags and text and insists that every tag is closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def _parsed(page):
    checker = _Checker()
    checker.feed(page.render())
    checker.close()
    assert not checker.open
    return checker


def _page():
    return (
        Page("Title", "subtitle")
        .section("One", "first\n\nsecond")
        .verdict("it works", "good")
        .table(
            ["name", "IoU", "n"], [["a", 0.51234, 3], ["b", None, 12000], ["c", (0.7, "0.70 ± 0.02"), 1]], "t"
        )
        .figure(PNG, "caption", "alt")
        .numbers({"IoU": 0.5})
        .provenance({"seed": 0})
    )


def test_page_is_well_formed_and_holds_what_was_put_in():
    checker = _parsed(_page())
    text = " ".join(checker.text)
    for part in (
        "Title",
        "subtitle",
        "first",
        "second",
        "it works",
        "0.512",
        "12\u202f000",
        "0.70 ± 0.02",
        "caption",
    ):
        assert part in text
    assert [a["alt"] for t, a in checker.tags if t == "img"] == ["alt"]


def test_page_needs_nothing_from_elsewhere():
    html = _page().render()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", html)
    assert "http" not in html
    assert "@import" not in html
    assert "url(" not in html


def test_light_dark_and_narrow_screens_are_meant():
    html = _page().render()
    assert "prefers-color-scheme:dark" in html
    assert 'name="viewport"' in html


@given(st.text(max_size=60))
def test_any_text_is_shown_as_text(text):
    page = (
        Page(text, text)
        .section(text, text)
        .verdict(text)
        .table([text], [[text]], text)
        .figure(PNG, text, text)
    )
    checker = _parsed(page.provenance({"x": text}))
    assert sum(tag == "script" for tag, _ in checker.tags) == 1
    assert not any(key.startswith("on") for _, attrs in checker.tags for key in attrs)


def test_markup_in_text_does_not_become_markup():
    evil = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'"
    checker = _parsed(Page(evil).section(evil).table([evil], [[evil]]).provenance({"k": evil}))
    assert [tag for tag, _ in checker.tags].count("script") == 1
    assert not [tag for tag, _ in checker.tags if tag == "img"]
    assert evil in checker.text


def test_numbers_sort_by_value_and_missing_ones_are_dashes():
    checker = _parsed(_page())
    cells = [attrs for tag, attrs in checker.tags if tag == "td"]
    assert [c.get("data-v") for c in cells] == [
        None,
        "0.51234",
        "3.0",
        None,
        None,
        "12000.0",
        None,
        "0.7",
        "1.0",
    ]
    heads = [attrs.get("class") for tag, attrs in checker.tags if tag == "th"]
    assert heads == [None, "n", "n"]
    assert "–" in checker.text
    missing = _parsed(Page("t").table(["x"], [[float("nan")], [None]]).numbers({"x": float("inf")}))
    assert missing.text.count("–") == 3


def test_equal_titles_have_anchors_of_their_own():
    page = Page("t").section("Same").section("Same").section("Other")
    checker = _parsed(page)
    anchors = [a["id"] for t, a in checker.tags if t == "h2"]
    assert len(set(anchors)) == 3
    assert [a["href"][1:] for t, a in checker.tags if t == "a"] == anchors


def test_figures_are_shown_at_their_physical_size():
    figure = bars_with_intervals(["a"], [0.5])
    checker = _parsed(Page("t").figure(figure, "c", "a"))
    [image] = [attrs for tag, attrs in checker.tags if tag == "img"]
    assert int(image["width"]) == pytest.approx(7.2 * 96, abs=2)
    [plain] = [a for t, a in _parsed(Page("t").figure(PNG, "c", "a")).tags if t == "img"]
    assert "width" not in plain


def test_wrong_calls_are_refused():
    with pytest.raises(UsageError, match="wrong length"):
        Page("t").table(["a", "b"], [[1]])
    with pytest.raises(UsageError, match="not an image"):
        Page("t").figure(b"<svg onload=alert(1)>", "c", "a")
    with pytest.raises(UsageError, match="tone"):
        Page("t").verdict("x", "lovely")


def test_a_page_too_large_to_open_is_an_error():
    noise = np.random.default_rng(0).bytes(8_000_000)
    with pytest.raises(EmvfmError, match="too large"):
        Page("t").figure(PNG[:8] + noise, "c", "a").render()
