"""What the task probe says: scores of every training and test set, directions, and plain sentences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from emvfm.domain.classifier_scores import Estimate

__all__ = ["DirectionCosine", "TaskCell", "TaskProbe"]


@dataclass(frozen=True)
class TaskCell:
    """A probe trained on one dataset and tested on one; of the same dataset, out of fold.

    Attributes
    ----------
    auroc, balanced_accuracy, average_precision
        None where nothing could be tested. Half of the patches are foreground, so chance is 0.5 for all.
    difference
        AUROC minus that of the test set's own probe on the same patches, paired; None on the diagonal.
    n, blocks
        Patches tested, and the blocks of slices they come from (the effective n).
    """

    train: str
    test: str
    auroc: Estimate | None
    balanced_accuracy: Estimate | None
    average_precision: Estimate | None
    difference: Estimate | None
    n: int
    blocks: int


@dataclass(frozen=True)
class DirectionCosine:
    """How alike the task directions of two datasets are.

    Attributes
    ----------
    value, low, high
        Cosine with its block-jackknife interval; None with fewer than three parts in either.
    halves
        Cosine between two halves of each dataset alone, trained on half the patches: what noise leaves of 1.
    dimension
        Random directions have a cosine of about 1 / sqrt(dimension).
    """

    names: tuple[str, str]
    value: float
    low: float | None
    high: float | None
    halves: tuple[float | None, float | None]
    dimension: int

    @property
    def verdict(self) -> str:
        bounds = "" if self.low is None else f" [{self.low:.2f}, {self.high:.2f}]"
        said = (
            f"cosine of the task directions of {self.names[0]} and {self.names[1]}: {self.value:.2f}{bounds}"
        )
        known = [half for half in self.halves if half is not None]
        floor = f"random ones in {self.dimension} dimensions: ±{self.dimension**-0.5:.2f}"
        if not known:
            return f"{said} ({floor})"
        halves = " and ".join(
            f"{half:.2f} for {name}"
            for name, half in zip(self.names, self.halves, strict=True)
            if half is not None
        )
        return f"{said} (between halves of one dataset {halves}; {floor})"


@dataclass(frozen=True)
class TaskProbe:
    """The task probe within and across datasets.

    Attributes
    ----------
    names
        Datasets with masks, in the order of rows and columns.
    cells
        All pairs of training and test set, row by row.
    impossible
        Datasets without what it takes, and what that is.
    """

    names: tuple[str, ...]
    target: str
    cells: tuple[TaskCell, ...]
    cosines: tuple[DirectionCosine, ...]
    patches: tuple[int, ...]
    images: tuple[int, ...]
    foreground: float
    background: float
    level: float
    seed: int
    impossible: dict[str, str]
    protocol: str = (
        "equally many foreground and background patches an image; own probe cross-validated leaving out runs "
        "of neighbouring slices with a gap; scaling fitted on training patches; bootstrap over blocks"
    )

    def cell(self, train: str, test: str) -> TaskCell:
        return next(c for c in self.cells if (c.train, c.test) == (train, test))

    @property
    def verdicts(self) -> list[str]:
        """One sentence for each probe and for each pair of directions."""
        said = [f"{name}: the task probe is not possible, {why}" for name, why in self.impossible.items()]
        for cell in self.cells:
            if cell.auroc is None:
                said.append(
                    f"{cell.test}: too few blocks of slices with {self.target} for a probe of its own"
                )
                continue
            few = "" if cell.auroc.low is not None else f"; {cell.blocks} blocks are too few for an interval"
            if cell.train == cell.test:
                said.append(f"{cell.test}'s own probe finds {self.target} with AUROC {cell.auroc}{few}")
                continue
            line = (
                f"a probe trained on {cell.train} finds {self.target} in {cell.test} with AUROC {cell.auroc}"
            )
            if cell.difference is not None:
                gap = cell.difference
                bounds = ""
                if gap.low is not None and gap.high is not None:
                    ends = sorted((abs(gap.low), abs(gap.high)))
                    bounds = f" [{ends[0]:.2f}, {ends[1]:.2f}]"
                    if gap.low <= 0 <= gap.high:
                        bounds = f", within chance [{gap.low:+.2f}, {gap.high:+.2f}]"
                side = "below" if gap.value < 0 else "above"
                line += f", {abs(gap.value):.2f} {side} {cell.test}'s own probe{bounds}"
            said.append(line + few)
        return said + [cosine.verdict for cosine in self.cosines]

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the verdicts as plain JSON values."""
        return {**asdict(self), "verdicts": self.verdicts}
