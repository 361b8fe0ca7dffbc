"""A training as it is watched: a live table in a terminal, a line a validation elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emvfm.segmentation.history import Step

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

__all__ = ["TrainingProgress", "clock"]

_SHOWN = 6  # validations in the table
_SMOOTH = 0.9  # of the loss that is shown


def clock(seconds: float) -> str:
    """Return ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class TrainingProgress:
    """Shows step, loss, IoU, images/s and the time left; silent without a console."""

    def __init__(self, console: Console | None, steps: int, done: int, seconds: float) -> None:
        self._console, self._steps, self._first, self._before = console, steps, done, seconds
        self._step: Step | None = None
        self._loss = 0.0
        self._validations: list[Mapping[str, Any]] = []
        self._live: Live | None = None

    def __enter__(self) -> TrainingProgress:
        if self._console is not None and self._console.is_terminal:
            from rich.live import Live

            self._live = Live(self._table(), console=self._console, transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def stepped(self, step: Step) -> None:
        """Show a step that was done."""
        first = self._step is None
        self._step = step
        self._loss = step.loss if first else _SMOOTH * self._loss + (1 - _SMOOTH) * step.loss
        if self._live is not None:
            self._live.update(self._table())

    def validated(self, row: Mapping[str, Any]) -> None:
        """Show a row of the history."""
        self._validations.append(row)
        if self._live is not None:
            self._live.update(self._table())
        elif self._console is not None:
            iou = "" if row["val_iou"] is None else f"  validation IoU {row['val_iou']:.3f}"
            self._console.print(
                f"step {row['step']}/{self._steps}  loss {row['train_loss']:.4f}{iou}  "
                f"{row['images_per_second']:.3g} images/s  {clock(self._left())} left",
                soft_wrap=True,
            )

    def _left(self) -> float:
        """Return the seconds that the steps to come will take, as those of this process took."""
        if self._step is None or self._step.step == self._first:
            return 0.0
        each = (self._step.seconds - self._before) / (self._step.step - self._first)
        return each * (self._steps - self._step.step)

    def _table(self) -> RenderableType:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for name in ("step", "loss", "validation IoU", "images/s", "time", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        scores = [row["val_iou"] for row in self._validations if row["val_iou"] is not None]
        best = max(scores, default=None)
        for row in self._validations[-_SHOWN:]:
            iou = "–" if row["val_iou"] is None else f"{row['val_iou']:.3f}"
            style = "bold" if row["val_iou"] is not None and row["val_iou"] == best else "dim"
            table.add_row(
                *(f"{row['step']}", f"{row['train_loss']:.4f}", iou),
                *(f"{row['images_per_second']:.3g}", clock(row["seconds"]), ""),
                style=style,
            )
        if self._step is None:
            table.add_row(f"{self._first}/{self._steps}", "", "", "", clock(self._before), "")
            return table
        table.add_row(
            f"{self._step.step}/{self._steps}",
            f"{self._loss:.4f}",
            "" if best is None else f"best {best:.3f}",
            f"{self._step.images_per_second:.3g}",
            clock(self._step.seconds),
            clock(self._left()),
        )
        return table
