"""Markdown that carries its own provenance: every table says when, where and on what it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emvfm.provenance import environment
from emvfm.workspace import write_text

__all__ = ["Document", "machine"]


def machine() -> str:
    """Return date, processor and the versions that decide speed and numbers, in one line."""
    facts = environment()
    versions = ", ".join(f"{name} {facts['packages'][name]}" for name in ("torch", "timm", "zarr", "numpy"))
    where = facts["accelerator"] or f"{facts['processor']}, {facts['cores']} cores"
    return f"{facts['time'][:10]}, {where}, Python {facts['python']}, {versions}"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


class Document:
    """A page of docs/, put together in order and written in one go."""

    def __init__(self, title: str, command: str, introduction: str) -> None:
        self._parts = [
            f"# {title}",
            f"Written by `{command}`; do not edit by hand.",
            introduction,
            f"Measured on: {machine()}.",
        ]

    def section(self, title: str, *paragraphs: str) -> None:
        """Begin a section."""
        self._parts += [f"## {title}", *paragraphs]

    def text(self, *paragraphs: str) -> None:
        """Add paragraphs."""
        self._parts += paragraphs

    def bullets(self, items: Sequence[str]) -> None:
        """Add a list."""
        self._parts.append("\n".join(f"- {item}" for item in items))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table; numbers are shown to three decimals, None as a dash."""
        lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows]
        self._parts.append("\n".join(lines))

    def code(self, lines: Sequence[str], language: str = "sh") -> None:
        """Add a fenced block."""
        self._parts.append("\n".join([f"```{language}", *lines, "```"]))

    def picture(self, path: str, alternative: str) -> None:
        """Add a picture that lies beside the page."""
        self._parts.append(f"![{alternative}]({path})")

    def write(self, path: Path) -> None:
        """Write the page under its name, whole or not at all."""
        write_text(path, "\n\n".join(self._parts) + "\n")
