"""Paired timing: the candidates take turns within one run, so that a busy machine is busy for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Paired", "paired"]


@dataclass(frozen=True)
class Paired:
    """Seconds of each candidate in each round, ``{name: (rounds,)}``."""

    seconds: dict[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Return the median seconds of a candidate."""
        return float(np.median(self.seconds[name]))

    def ratio(self, slow: str, fast: str) -> tuple[float, float, float]:
        """Return the median over rounds of ``slow / fast`` and the lowest and highest round."""
        ratios = np.array(self.seconds[slow]) / np.array(self.seconds[fast])
        return float(np.median(ratios)), float(ratios.min()), float(ratios.max())


def paired(candidates: Mapping[str, Callable[[], object]], rounds: int = 5, *, pause: float = 0.0) -> Paired:
    """Time every candidate once a round, in an order that turns from round to round, after one warm-up round.

    Parameters
    ----------
    pause
        Seconds before each: the threads of one linear algebra library spin for a while after their work, and would be
        counted against the candidate that comes next.
    """
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(-1, rounds):
        for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
            time.sleep(pause)
            start = time.perf_counter()
            candidates[name]()
            if round_number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return Paired({name: tuple(values) for name, values in seconds.items()})
