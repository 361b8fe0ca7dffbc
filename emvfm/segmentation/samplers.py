"""Which training sample comes next: plain over all sources, balanced between them, or by their foreground.

A sampler deals its samples like shuffled decks: each sample comes once before any comes again, or as often
as its share of the foreground says. Its whole state is JSON-able, so an interrupted training continues with
the very sequence it would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from emvfm.errors import UsageError

__all__ = ["SCHEMES", "Sampler"]

SCHEMES = ("plain", "balanced", "foreground")

#: Part of the draws by foreground that comes to all samples alike: what is empty must be learnt, too.
ALIKE = 0.1


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
        ``foreground``: one deck for all, made anew each round with as many cards as there are samples; nine
        tenths of them go to samples by their foreground, the rest to all alike. A sample has the whole
        number of cards just below or above its expectation, which is met exactly on average.
    seed
        Of the sequence, at least 0.
    foreground
        For ``foreground`` alone: the share of foreground in every sample of every source, at least 0.

    Raises
    ------
    UsageError
        For an unknown scheme, no sources, an empty source, or foreground that does not fit.
    """

    def __init__(
        self,
        n_per_source: Sequence[int],
        scheme: str = "plain",
        seed: int = 0,
        *,
        foreground: Sequence[Sequence[float]] | None = None,
    ) -> None:
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
        self._expected = _expected_cards(sizes, scheme, foreground)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        # A sample is its position in the union; a deck is a range of positions.
        self._decks = _ranges(self._starts) if scheme == "balanced" else [(0, sum(sizes))]
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._turns: list[int] = []
        self._left: list[list[int]] = [[] for _ in self._decks]

    @property
    def epoch_length(self) -> int:
        """Draws until every sample has come at least once; by foreground, draws of one deck."""
        if self.scheme == "balanced":
            return len(self.n_per_source) * max(self.n_per_source)
        return sum(self.n_per_source)

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
            "expected": None if self._expected is None else self._expected.tolist(),
            "turns": list(self._turns),
            "left": [list(deck) for deck in self._left],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of :meth:`state`.

        Raises
        ------
        UsageError
            When the state is of other sources, another scheme, other foreground or another generator, or is no
            such state; the sampler then stays as it was.
        """
        mine = self.state()
        for key in ("n_per_source", "scheme", "expected"):
            own = mine[key]
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
            self._left[turn] = self._shuffled(first, end)
        position = self._left[turn].pop()
        source = int(np.searchsorted(self._starts, position, side="right")) - 1
        return source, position - int(self._starts[source])

    def _shuffled(self, first: int, end: int) -> list[int]:
        if self._expected is None:
            return (first + self._rng.permutation(end - first)).tolist()
        return self._rng.permutation(_deal(self._expected, self._rng.random())).tolist()

    def _possible(self, turns: list[int], left: list[list[int]]) -> bool:
        if len(left) != len(self._decks) or not set(turns) <= set(range(len(self._decks))):
            return False
        return all(
            first <= position < end
            for (first, end), deck in zip(self._decks, left, strict=True)
            for position in deck
        )


def _expected_cards(
    sizes: tuple[int, ...], scheme: str, foreground: Sequence[Sequence[float]] | None
) -> np.ndarray[Any, Any] | None:
    """Return how many cards each sample of the union has in a deck on average; None for whole decks."""
    if scheme != "foreground":
        if foreground is not None:
            raise UsageError("foreground is not asked for", where=f"sampler {scheme}", todo="leave it out")
        return None
    lengths = None if foreground is None else [len(source) for source in foreground]
    if foreground is None or lengths != list(sizes):
        raise UsageError(
            "one share of foreground per sample", where="sampler", got=lengths, expected=list(sizes)
        )
    shares = np.concatenate([np.asarray(source, np.float64) for source in foreground])
    if not (np.isfinite(shares).all() and (shares >= 0).all()):
        raise UsageError("shares of foreground must be at least 0", where="sampler", got=float(shares.min()))
    n, total = len(shares), shares.sum()
    return np.ones(n) if total == 0 else ALIKE + (1 - ALIKE) * n * shares / total


def _deal(expected: np.ndarray[Any, Any], offset: float) -> np.ndarray[Any, Any]:
    """Return a deck of as many cards as samples: systematic sampling from an offset in [0, 1)."""
    steps = np.minimum(np.floor(np.cumsum(expected) + offset).astype(int), len(expected))
    steps[-1] = len(expected)  # the sum of the expectations, but for rounding
    return np.repeat(np.arange(len(expected)), np.diff(steps, prepend=0))


def _ranges(starts: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in pairwise(starts)]
