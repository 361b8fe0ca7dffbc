"""Splits as pure functions from slice positions to ``train``, ``val``, ``test`` and ``gap``.

Neighbouring slices of a stack are nearly the same image (adjacent VNC sections share two thirds of
their mitochondria), so a split is a block of consecutive slices with a gap that belongs to no split.
The random split of the reference system is available by name, for comparison.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from emvfm.errors import RefusedError, UsageError

__all__ = [
    "RANDOM_TEST",
    "REFERENCE_SEED",
    "block_split",
    "carve_validation",
    "random_split",
    "smallest_distance",
]

#: The reference system keeps ``round(0.85 n)`` samples for training and shuffles with this seed.
REFERENCE_SEED = 42
RANDOM_TEST = 0.15


def _count(n: int, fraction: float, what: str) -> int:
    if not 0 <= fraction < 1:
        raise UsageError(f"unusable {what} fraction", got=fraction, expected="0 or more, below 1")
    return max(1, round(fraction * n)) if fraction > 0 else 0


def _surroundings(start: int, length: int, gap: int) -> set[int]:
    return set(range(start - gap, start + length + gap))


def block_split(n: int, *, val: float = 0.1, test: float = 0.2, gap: int = 1, seed: int = 0) -> list[str]:
    """Split `n` consecutive slices into one test block, one validation block and the rest.

    The test block is one of the ``n // n_test`` blocks that tile the stack, chosen by `seed` (seeds in
    turn visit all of them, as folds do); the validation block lies where it costs the fewest gap slices.

    Parameters
    ----------
    n
        Number of slices, in the order of the stack.
    val, test
        Fractions of `n`; 0 leaves the split out, anything else gives at least one slice.
    gap
        Slices left out on each side of a block: slices of two splits are more than `gap` positions apart.

    Returns
    -------
    list of str
        `n` entries of ``train``, ``val``, ``test``, ``gap``.

    Raises
    ------
    RefusedError
        The stack is too short to leave a training slice.
    """
    if gap < 0:
        raise UsageError("unusable gap", got=gap, expected="0 or more slices")
    n_test, n_val = _count(n, test, "test"), _count(n, val, "val")
    too_short = RefusedError(
        "stack too short for these splits",
        got=f"{n} slices",
        expected=f"more than {n_test} test + {n_val} val + gaps of {gap}",
        todo="lower --test, --val or --gap, add slices, or take --split random",
    )
    taken: dict[int, str] = {}
    lost: set[int] = set()
    if n_test:
        folds = max(n // n_test, 1)
        order = random.Random(REFERENCE_SEED).sample(range(folds), folds)  # noqa: S311
        fold = order[seed % folds]
        start = n - n_test if fold == folds - 1 else fold * n_test  # the last block ends with the stack
        if start < 0:
            raise too_short
        taken.update(dict.fromkeys(range(start, start + n_test), "test"))
        lost = _surroundings(start, n_test, gap) - taken.keys()
    if n_val:
        costs: dict[int, set[int]] = {}
        for start in range(n - n_val + 1):
            block = range(start, start + n_val)
            if any(position in taken or position in lost for position in block):
                continue
            around = lost | (_surroundings(start, n_val, gap) - set(block) - taken.keys())
            costs[start] = {p for p in around if 0 <= p < n}
        if not costs:
            raise too_short
        fewest = min(len(cost) for cost in costs.values())
        cheap = [start for start, cost in costs.items() if len(cost) == fewest]
        start = random.Random(seed).choice(cheap)  # noqa: S311
        lost = costs[start]
        taken.update(dict.fromkeys(range(start, start + n_val), "val"))
    splits = [taken.get(p, "gap" if p in lost else "train") for p in range(n)]
    if "train" not in splits:
        raise too_short
    return splits


def carve_validation(n: int, *, val: float = 0.1, gap: int = 1, seed: int = 0) -> list[str]:
    """Split the `n` slices of a given training stack into train, a validation block and its gap."""
    return block_split(n, val=val, test=0.0, gap=gap, seed=seed)


def random_split(n: int, *, val: float = 0.1, test: float = RANDOM_TEST, seed: int = 0) -> list[str]:
    """Split `n` samples at random, as the reference system does: neighbours leak between the splits.

    ``Random(42 + seed)`` shuffles the samples in sorted order; the first ``round((1 - test) n)`` are for
    training and the rest for the test. Validation takes the last ``round(val n_train)`` of the former.

    Raises
    ------
    RefusedError
        A split that was asked for, or training, would be empty.
    """
    _count(n, test, "test")
    _count(n, val, "val")
    order = list(range(n))
    random.Random(REFERENCE_SEED + seed).shuffle(order)  # noqa: S311
    n_kept = round((1 - test) * n)
    n_val = round(val * n_kept)
    if n_kept - n_val < 1 or (test > 0 and n_kept == n) or (val > 0 and n_val == 0):
        raise RefusedError(
            "too few samples for these splits",
            got=f"{n} samples",
            expected=f"at least one each for {test:g} test and {val:g} val",
            todo="raise --test or --val, set them to 0, or add samples",
        )
    splits = ["test"] * n
    for rank, position in enumerate(order[:n_kept]):
        splits[position] = "train" if rank < n_kept - n_val else "val"
    return splits


def smallest_distance(splits: Sequence[str]) -> int | None:
    """Return the smallest distance in positions between slices of two different splits, None if there is one.

    >>> smallest_distance(["train", "gap", "test", "test"])
    2
    """
    smallest: int | None = None
    last: tuple[int, str] | None = None
    for position, split in enumerate(splits):
        if split == "gap":
            continue
        if last is not None and last[1] != split:
            distance = position - last[0]
            smallest = distance if smallest is None else min(smallest, distance)
        last = (position, split)
    return smallest
