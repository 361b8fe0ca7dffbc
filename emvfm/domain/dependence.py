r"""Over how many neighbouring slices embeddings depend on each other, and whether blocks are long enough for it.

Exchanging blocks takes them for exchangeable: where what lasts along a stack outlasts a block, two stacks of one kind
lie further apart than their exchanges, and p-values are too small. The length of dependence is the integrated
autocorrelation time

.. math:: \tau = 1 + 2 \sum_{k \ge 1} \rho_k

in slices: the mean of n slices varies as that of n / tau independent ones. It is the larger of two estimates, as each
misses what the other sees. The sum over the first positive autocorrelations (Geyer 1992, doi:10.1214/ss/1177011137)
follows any decay, but falls short in a short stack, from which the mean was taken; it is corrected for that as far as
the stack allows. The sum of a first-order process whose coefficient is corrected for the same bias (Kendall 1954,
doi:10.1093/biomet/41.3-4.403) holds in short stacks, but sees the first lag alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["LEAST_SLICES", "Dependence", "blocks_of_length", "dependence_length", "joint_caveat"]

#: A shorter stack does not tell over how many slices it depends on itself.
LEAST_SLICES = 8
#: Blocks of this many lengths of dependence: exchanging them then misses a sixth of the variance of the mean of a long
#: stack of a first-order process, where blocks of one length miss a half.
SAFE = 3


@dataclass(frozen=True)
class Dependence:
    """How long slices of one dataset depend on each other, beside how long its blocks are.

    Attributes
    ----------
    length
        Integrated autocorrelation time in slices, 1 for independent ones; None where stacks are too short to tell.
    block
        Slices of its blocks, on average.
    blocks
        How many.
    longest
        Slices of its longest stack.
    """

    name: str
    length: float | None
    block: float
    blocks: int
    longest: int

    @property
    def needed(self) -> int | None:
        """Slices that a block needs to have."""
        return None if self.length is None else 1 + math.ceil(SAFE * (self.length - 1) - 1e-9)

    @property
    def enough(self) -> bool:
        """Whether blocks are as long as that, as far as it is known."""
        return self.needed is None or self.block >= self.needed - 1e-9

    @property
    def caveat(self) -> str:
        """What p-values and intervals owe to blocks that are too short, empty where they are long enough."""
        if self.enough:
            return ""
        if self.needed is not None and 2 * self.needed <= self.longest:
            remedy = f"--block-length {self.needed} is long enough"
        else:
            remedy = f"its longest stack of {self.longest} is too short for blocks that are long enough"
        return (
            f"slices of {self.name} depend on each other over about {self.length:.0f} of them, and what is exchanged "
            f"holds {self.block:.0f}; {remedy}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields, what is needed and the caveat as plain JSON values."""
        return {**asdict(self), "needed": self.needed, "enough": self.enough, "caveat": self.caveat}


def _autocorrelations(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``(n // 2 + 1,)``: of all directions together, lag 0 first; the divisor is n at every lag."""
    centred = x - x.mean(axis=0)
    n = len(x)
    sums = np.array([np.vdot(centred[: n - k], centred[k:]) for k in range(n // 2 + 1)])
    return sums / sums[0] if sums[0] > 0 else np.eye(1, len(sums))[0]


def _time(rho: NDArray[np.float64], n: int) -> float:
    """Return the integrated autocorrelation time of n slices in a row."""
    negative = np.flatnonzero(rho <= 0)
    window = int(negative[0]) - 1 if len(negative) else len(rho) - 1
    total = float(rho[1 : window + 1].sum())
    # Taking off the mean lowers every autocorrelation by about tau / n: solved for tau, within reason.
    summed = (1 + 2 * total) / max(1 - 2 * (window - total) / n, 0.2)
    first = (float(rho[1]) * n / (n - 1) + 1 / n) / (1 - 3 / n)
    first = min(max(first, 0.0), 1 - 2 / n)
    return min(max(summed, (1 + first) / (1 - first)), float(n))


def _stacks(volumes: Sequence[str], positions: Sequence[int | None]) -> list[list[list[int]]]:
    """Return, for each volume, the rows at each of its positions in their order."""
    found: dict[str, dict[int, list[int]]] = {}
    for row, (volume, z) in enumerate(zip(volumes, positions, strict=True)):
        if z is not None:
            found.setdefault(volume, {}).setdefault(z, []).append(row)
    return [[stack[z] for z in sorted(stack)] for stack in found.values()]


def dependence_length(x: ArrayLike, volumes: Sequence[str], positions: Sequence[int | None]) -> float | None:
    """Return the integrated autocorrelation time of ``(n, D)`` embeddings along their stacks, in slices.

    Parameters
    ----------
    volumes, positions
        Stack of each embedding and its place there; images without a place are independent. Images of one place
        (tiles of a slice) are averaged.

    Returns
    -------
    float or None
        1 to the number of slices, the mean over stacks weighted by their slices; None where no stack has
        `LEAST_SLICES`. All directions count by their variance, as in a distance.

    Raises
    ------
    UsageError
        Another number of volumes or positions than of embeddings.
    """
    rows = np.asarray(x, np.float64)
    if not len(rows) == len(volumes) == len(positions):
        raise UsageError("one volume and position per row", got=f"{len(volumes)} and {len(positions)}")
    if all(z is None for z in positions):
        return 1.0
    times, sizes = [], []
    for stack in _stacks(volumes, positions):
        if len(stack) >= LEAST_SLICES:
            values = np.stack([rows[at].mean(axis=0) for at in stack])
            times.append(_time(_autocorrelations(values), len(values)))
            sizes.append(len(values))
    return float(np.average(times, weights=sizes)) if times else None


def blocks_of_length(volumes: Sequence[str], positions: Sequence[int | None], length: int) -> list[int]:
    """Return block labels so that blocks of a volume are of nearly equal size, `length` slices or a little more.

    A volume of fewer slices is one block; an image without a position is a block of its own.

    Raises
    ------
    UsageError
        `length` is below 1.
    """
    if length < 1:
        raise UsageError("block too short", where="--block-length", got=length, expected="at least 1")
    block_of: dict[int, tuple[int, int]] = {}
    for volume, stack in enumerate(_stacks(volumes, positions)):
        parts = np.array_split(np.arange(len(stack)), max(1, len(stack) // length))
        for block, part in enumerate(parts):
            for place in part.tolist():
                block_of |= dict.fromkeys(stack[place], (volume, block))
    numbers: dict[object, int] = {}
    return [numbers.setdefault(block_of.get(row, row), len(numbers)) for row in range(len(volumes))]


def joint_caveat(dependences: Sequence[Dependence]) -> str:
    """Return what a comparison of several datasets owes to blocks that are too short."""
    return "; ".join(d.caveat for d in dependences if not d.enough)
