"""Which training sample comes next: plain over the union of the sources, or balanced between them.

A sampler deals its samples like shuffled decks: each sample comes once before any comes again. Its whole
state is JSON-able, so an interrupted training continues with the very sequence it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from emvfm.errors import UsageError

__all__ = ["SCHEMES", "Sampler"]

SCHEMES = ("plain", "balanced")


class Sampler:
    """An endless, seeded, resumable sequence of samples `(source, index)`.

    Parameters
    ----------
    n_per_source
        Number of samples of each source, each at least 1.
    scheme
        ``plain``: one deck of all samples, so that a source counts by its size. ``balanced``: sources take
        turns in an order shuffled for each round, each dealing from a deck of its own, so that the numbers of
        draws per source never differ by more than 1; a small source then repeats sooner than a large one.
    seed
        Of the sequence, at least 0.

    Raises
    ------
    UsageError
        For an unknown scheme, no sources or an empty source.
    """

    def __init__(self, n_per_source: Sequence[int], scheme: str = "plain", seed: int = 0) -> None:
        if scheme not in SCHEMES:
            raise UsageError(
                "unknown scheme", where="sampler", got=repr(scheme), expected=" | ".join(SCHEMES)
            )
        sizes = tuple(int(n) for n in n_per_source)
        if not sizes or min(sizes) < 1:
            raise UsageError(
                "every source needs a sample", where="sampler", got=list(sizes), expected=">= 1 each"
            )
        if seed < 0:
            raise UsageError("negative seed", where="sampler", got=seed, expected="at least 0")
        self.n_per_source = sizes
        self.scheme = scheme
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        # A sample is its position in the union; a deck is a range of positions.
        self._decks = [(0, sum(sizes))] if scheme == "plain" else _ranges(self._starts)
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._turns: list[int] = []
        self._left: list[list[int]] = [[] for _ in self._decks]

    @property
    def epoch_length(self) -> int:
        """Draws until every sample has come at least once."""
        if self.scheme == "plain":
            return sum(self.n_per_source)
        return len(self.n_per_source) * max(self.n_per_source)

    def draw(self, size: int) -> list[tuple[int, int]]:
        """Return the next `size` samples as (source, index within the source).

        Raises
        ------
        UsageError
            When `size` is below 1.
        """
        if size < 1:
            raise UsageError("empty batch", where="sampler", got=size, expected="at least 1")
        return [self._next() for _ in range(size)]

    def state(self) -> dict[str, Any]:
        """Return the state after the draws so far, of JSON types; 128-bit numbers are strings."""
        generator = self._rng.bit_generator.state
        return {
            "n_per_source": list(self.n_per_source),
            "scheme": self.scheme,
            "generator": {
                "name": generator["bit_generator"],
                "state": str(generator["state"]["state"]),
                "inc": str(generator["state"]["inc"]),
                "has_uint32": int(generator["has_uint32"]),
                "uinteger": int(generator["uinteger"]),
            },
            "turns": list(self._turns),
            "left": [list(deck) for deck in self._left],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of :meth:`state`.

        Raises
        ------
        UsageError
            When the state is of other sources, another scheme or another generator, or is no such state; the
            sampler then stays as it was.
        """
        for key, own in (("n_per_source", list(self.n_per_source)), ("scheme", self.scheme)):
            if state.get(key) != own:
                todo = "resume with the data and scheme the training began with"
                raise UsageError(
                    f"other {key}", where="sampler state", got=state.get(key), expected=own, todo=todo
                )
        try:
            generator = state["generator"]
            numbers: Any = {
                "bit_generator": generator["name"],
                "state": {"state": int(generator["state"]), "inc": int(generator["inc"])},
                "has_uint32": int(generator["has_uint32"]),
                "uinteger": int(generator["uinteger"]),
            }
            turns = [int(turn) for turn in state["turns"]]
            left = [[int(position) for position in deck] for deck in state["left"]]
            bits = np.random.PCG64()
            bits.state = numbers
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError("not a state of this sampler", where="sampler state", got=repr(error)) from error
        if not self._possible(turns, left):
            raise UsageError("samples or turns out of range", where="sampler state")
        self._rng = np.random.Generator(bits)
        self._turns, self._left = turns, left

    def _next(self) -> tuple[int, int]:
        if not self._turns:
            self._turns = self._rng.permutation(len(self._decks)).tolist()
        turn = self._turns.pop()
        first, end = self._decks[turn]
        if not self._left[turn]:
            self._left[turn] = (first + self._rng.permutation(end - first)).tolist()
        position = self._left[turn].pop()
        source = int(np.searchsorted(self._starts, position, side="right")) - 1
        return source, position - int(self._starts[source])

    def _possible(self, turns: list[int], left: list[list[int]]) -> bool:
        if len(left) != len(self._decks) or not set(turns) <= set(range(len(self._decks))):
            return False
        return all(
            first <= position < end
            for (first, end), deck in zip(self._decks, left, strict=True)
            for position in deck
        )


def _ranges(starts: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in pairwise(starts)]
