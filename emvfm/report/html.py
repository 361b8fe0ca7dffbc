"""A report as one HTML file that needs nothing else: no network, no fonts, no scripts from elsewhere.

Text is escaped, images are embedded, tables sort on a click, colours follow the reader's light or dark
preference, and the page reads on a phone and on paper.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

from emvfm.errors import EmvfmError, UsageError
from emvfm.report.page_parts import SCRIPT, STYLE

__all__ = ["MAX_BYTES", "Page"]

#: Larger pages are slow to open and refused by mail; figures belong beside the report then.
MAX_BYTES = 10_000_000
Tone = Literal["good", "caution", "bad", "plain"]
_SCREEN_PER_METRE = 96 / 0.0254  # CSS pixels
_TONES = ("good", "caution", "bad", "plain")
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def _media_type(data: bytes) -> str:
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    raise UsageError("not an image that can be embedded", got=data[:8].hex(" "), expected="PNG or JPEG")


def _width(data: bytes) -> str:
    """Return the width attribute that shows a PNG at its physical size: figures are finer than a screen."""
    at = data.find(b"pHYs", 0, 4096)
    if not data.startswith(b"\x89PNG") or at < 0:
        return ""
    pixels, per_metre, unit = (
        int.from_bytes(data[16:20]), int.from_bytes(data[at + 4 : at + 8]), data[at + 12]
    )  # fmt: skip
    if unit != 1 or per_metre < _SCREEN_PER_METRE:
        return ""
    return f' width="{round(pixels * _SCREEN_PER_METRE / per_metre)}"'


def _anchor(title: str, taken: Sequence[str]) -> str:
    base = "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-") or "section"
    anchor, n = base, 2
    while anchor in taken:
        anchor, n = f"{base}-{n}", n + 1
    return anchor


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def _shown(value: Any) -> str:
    """Return a value as a reader wants it: three digits, a dash for nothing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        size = abs(value)
        if size != 0 and not 1e-3 <= size < 1e5:
            return f"{value:.3g}"
        return f"{value:.{3 if size < 10 else 2 if size < 100 else 1}f}"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass
class Page:
    """Collects the parts of a report in reading order; every method returns the page.

    Parameters
    ----------
    title, subtitle
        Heading and the sentence below it.
    """

    title: str
    subtitle: str = ""
    _parts: list[str] = field(default_factory=list, repr=False)
    _contents: list[tuple[str, str]] = field(default_factory=list, repr=False)

    def section(self, title: str, text: str = "") -> Page:
        """Begin a section; blank lines in `text` separate paragraphs."""
        anchor = _anchor(title, [a for a, _ in self._contents])
        self._contents.append((anchor, title))
        self._parts.append(f'<h2 id="{escape(anchor)}">{escape(title)}</h2>{_paragraphs(text)}')
        return self

    def text(self, text: str) -> Page:
        """Add paragraphs."""
        self._parts.append(_paragraphs(text))
        return self

    def verdict(self, text: str, tone: Tone = "plain") -> Page:
        """Add one emphasised sentence: ``good``, ``caution``, ``bad`` or ``plain``."""
        if tone not in _TONES:
            raise UsageError("unknown tone", got=tone, expected=", ".join(_TONES))
        sign = {"good": "✓", "caution": "!", "bad": "✕", "plain": "→"}[tone]
        self._parts.append(
            f'<p class="verdict {tone}"><span class="sign" aria-hidden="true">{sign}</span>'
            f"<span>{escape(text)}</span></p>"
        )
        return self

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> Page:
        """Add a sortable table; numbers are aligned right and sorted by value, None is shown as a dash.

        A cell may be a pair ``(value, text)``: `text` is shown, `value` is what it sorts by.

        Raises
        ------
        UsageError
            A row has another length than `columns`.
        """
        for row in rows:
            if len(row) != len(columns):
                raise UsageError(
                    "a table row has the wrong length",
                    where=caption or self.title,
                    got=len(row),
                    expected=len(columns),
                )
        split = [[c if isinstance(c, tuple) and len(c) == 2 else (c, _shown(c)) for c in row] for row in rows]
        numeric = [
            any(_is_number(row[k][0]) for row in split)
            and all(_is_number(row[k][0]) or _shown(row[k][0]) == "–" for row in split)
            for k in range(len(columns))
        ]
        head = "".join(
            f'<th scope="col"{" class=n" if number else ""}>'
            f'<button type="button">{escape(str(name))}</button></th>'
            for name, number in zip(columns, numeric, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f"<td{' class=n' if number else ''}"
                + (f' data-v="{float(value)!r}"' if _is_number(value) else "")
                + f">{escape(str(text))}</td>"
                for (value, text), number in zip(row, numeric, strict=True)
            )
            + "</tr>"
            for row in split
        )
        title = f"<caption>{escape(caption)}</caption>" if caption else ""
        self._parts.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption or "table")}">'
            f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
        return self

    def figure(self, image: bytes, caption: str, alt: str) -> Page:
        """Add a PNG or JPEG with its caption; `alt` says in words what the picture shows."""
        source = f"data:{_media_type(image)};base64,{base64.b64encode(image).decode()}"
        self._parts.append(
            f'<figure><img src="{source}" alt="{escape(alt)}"{_width(image)}>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
        return self

    def numbers(self, items: Mapping[str, Any]) -> Page:
        """Add a row of a few headline numbers with what they are."""
        cells = "".join(
            f"<div><dt>{escape(str(name))}</dt><dd>{escape(_shown(value))}</dd></div>"
            for name, value in items.items()
        )
        self._parts.append(f'<dl class="numbers">{cells}</dl>')
        return self

    def provenance(self, record: Mapping[str, Any]) -> Page:
        """Add what produced this page, folded away."""
        text = json.dumps(record, indent=2, ensure_ascii=False, default=str)
        self._parts.append(
            f"<details><summary>Provenance: code, data, weights, machine</summary>"
            f"<pre>{escape(text)}</pre></details>"
        )
        return self

    def render(self) -> str:
        """Return the page as HTML.

        Raises
        ------
        EmvfmError
            The page is larger than `MAX_BYTES`.
        """
        links = "".join(f'<a href="#{escape(a)}">{escape(t)}</a>' for a, t in self._contents)
        contents = f'<nav aria-label="Contents">{links}</nav>' if len(self._contents) > 2 else ""
        subtitle = f'<p class="subtitle">{escape(self.subtitle)}</p>' if self.subtitle else ""
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><meta name="generator" content="emvfm">'
            '<link rel="icon" href="data:,">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style></head><body><main>"
            f"<header><h1>{escape(self.title)}</h1>{subtitle}{contents}</header>"
            f"{''.join(self._parts)}</main><script>{SCRIPT}</script></body></html>\n"
        )
        if (size := len(page.encode())) > MAX_BYTES:
            raise EmvfmError(
                "report too large",
                where=self.title,
                got=f"{size / 1e6:.1f} MB",
                expected=f"at most {MAX_BYTES / 1e6:.0f} MB",
                todo="show fewer or smaller figures",
            )
        return page
