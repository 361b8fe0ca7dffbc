"""The same numbers as in the run's folder, for those who watch them in TensorBoard; an extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emvfm.errors import MissingError
from emvfm.segmentation.history import Step

__all__ = ["Board", "require_tensorboard"]


def require_tensorboard() -> None:
    """Raise MissingError, before anything is computed, if the extra is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise MissingError(
            "TensorBoard is not installed", where="--tensorboard", todo="pip install 'emvfm[tensorboard]'"
        ) from None


class Board:
    """Writes steps and validations as TensorBoard events; does nothing without a folder.

    Parameters
    ----------
    done
        Steps that a resumed training has done; events beyond are hidden, for they come again.
    """

    def __init__(self, folder: Path | None, done: int) -> None:
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def stepped(self, step: Step) -> None:
        """Write a step."""
        self._add(step.step, {"train/loss": step.loss, "train/lr": step.lr})

    def validated(self, row: Mapping[str, Any]) -> None:
        """Write a row of the history."""
        scores = {"validation/iou": row["val_iou"], "validation/loss": row["val_loss"]}
        self._add(row["step"], {name: value for name, value in scores.items() if value is not None})

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
