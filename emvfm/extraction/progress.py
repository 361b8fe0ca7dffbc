"""How far an extraction is, and how fast."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Progress"]


class Progress:
    """A bar with images/s, tokens/s and the time left."""

    def __init__(self, console: Console | None, title: str, images: int) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            console=console or Console(quiet=True),
            transient=True,
        )
        self._task = self._bar.add_task(title, total=images, rate="")
        self._tokens, self._start = 0, time.perf_counter()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, images: int, tokens: int) -> None:
        """Count what was computed."""
        self._tokens += tokens
        seconds = time.perf_counter() - self._start
        done = self._bar.tasks[0].completed + images
        rate = f"{done / seconds:.2f} images/s, {self._tokens / seconds:,.0f} tokens/s"
        self._bar.update(self._task, advance=images, rate=rate)
