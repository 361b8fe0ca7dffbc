"""Which mask belongs to which image, decided from the names alone and refused where they are not clear.

Equal stems pair; else the one number that varies in the names does (``mask0017.png`` with ``17.png``).
Sorted order is never used: as text, ``0, 1, 10, 100, 2 …`` pairs 163 of Lucchi++'s 165 slices wrongly.
Wrong pairings can be asked for by name, to measure what they do to a study.
"""

from __future__ import annotations

import csv
import io
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emvfm.datasets.images import natural_key
from emvfm.errors import CorruptError, MissingError, RefusedError, UsageError

__all__ = ["Pair", "Pairing", "check_rule", "pair", "pair_as_listed", "read_pairs", "slice_numbers"]

_REMEDY = "say it yourself with --pairs FILE.csv (columns image,mask)"
_RULES = "numbers, text-sorted, shift:K or scramble:P"


@dataclass(frozen=True)
class Pair:
    """An image, its mask (None where nothing is annotated) and the numbers that place it in a stack."""

    image: str
    mask: str | None
    key: tuple[int, ...]


@dataclass(frozen=True)
class Pairing:
    """Pairs in the order of their numbers, and how they were found.

    `rule` is what was asked for (``numbers``, ``csv``, ``text-sorted``, ``shift:K``, ``scramble:P``),
    `found` says in words what decided.
    """

    rule: str
    found: str
    pairs: tuple[Pair, ...]

    @property
    def deliberate_error(self) -> bool:
        """Whether this is one of the wrong pairings made for an experiment."""
        return self.rule not in ("numbers", "csv")


@dataclass(frozen=True)
class _Names:
    """One side of a pairing: names with the numbers in them."""

    side: str
    names: tuple[str, ...]
    numbers: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]  # what stands before each number

    @property
    def varying(self) -> tuple[int, ...]:
        columns = zip(*self.numbers, strict=True)
        return tuple(n for n, column in enumerate(columns) if len(set(column)) > 1)


def _stem(name: str) -> str:
    base = re.split(r"[/\\]", name)[-1]
    page = re.search(r"#\d+$", base)  # a page of a stack, as in ``stack.tif#12``
    base, number = (base[: page.start()], page.group()) if page else (base, "")
    for suffix in (".ome.tiff", ".ome.tif"):
        if base.lower().endswith(suffix):
            return base[: -len(suffix)] + number
    return (base.rpartition(".")[0] or base) + number


def _shown(names: Iterable[str], limit: int = 4) -> str:
    names = sorted(names, key=natural_key)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _parse(side: str, names: Sequence[str]) -> _Names:
    """Return the numbers in the names, which must all follow one pattern.

    Raises
    ------
    RefusedError
        The names follow several patterns.
    """
    parsed = [re.split(r"(\d+)", _stem(name)) for name in names]
    patterns: dict[tuple[str, ...], str] = {}
    for parts, name in zip(parsed, names, strict=True):
        patterns.setdefault(tuple(parts[::2]), name)
    if len(patterns) > 1:
        raise RefusedError(
            f"the {side} follow {len(patterns)} naming patterns",
            got=_shown(patterns.values()),
            expected="one pattern with a running number",
            todo=_REMEDY,
        )
    numbers = tuple(tuple(int(part) for part in parts[1::2]) for parts in parsed)
    return _Names(side, tuple(names), numbers, next(iter(patterns), ()))


def slice_numbers(names: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the varying numbers of each name, or empty tuples where the names have no common pattern.

    The last number is taken for the slice index, the ones before it for the volume.

    >>> slice_numbers(["em5_s08.png", "em5_s09.png"])
    [(8,), (9,)]
    """
    try:
        side = _parse("images", names)
    except RefusedError:
        return [()] * len(names)
    if len(names) == 1:
        return [side.numbers[0][-1:]]
    keys = [tuple(row[c] for c in side.varying) for row in side.numbers]
    return keys if len(set(keys)) == len(keys) else [()] * len(names)


def _refuse_duplicates(side: str, names: Sequence[str], keys: Sequence[tuple[int, ...] | str]) -> None:
    counts = Counter(keys)
    twice = [name for name, key in zip(names, keys, strict=True) if counts[key] > 1]
    if twice:
        raise RefusedError(f"several {side} have the same number or stem", got=_shown(twice), todo=_REMEDY)


def _refuse_missing(images: dict, masks: dict, allow_unmasked: bool) -> None:
    """Refuse masks without image, and images without mask unless allowed."""
    lonely_images = [images[key] for key in images.keys() - masks.keys()]
    lonely_masks = [masks[key] for key in masks.keys() - images.keys()]
    if not images.keys() & masks.keys():
        raise RefusedError(
            "no image and mask have a number in common",
            got=f"images {_shown(lonely_images, 2)}; masks {_shown(lonely_masks, 2)}",
            todo=_REMEDY,
        )
    if lonely_masks:
        also = f"; images without a mask: {_shown(lonely_images)}" if lonely_images else ""
        raise RefusedError(
            f"{len(lonely_masks)} masks without an image",
            got=f"{_shown(lonely_masks)}{also}",
            todo=("the numbers may count from 0 and from 1: " if lonely_images else "") + _REMEDY,
        )
    if lonely_images and not allow_unmasked:
        raise RefusedError(
            f"{len(lonely_images)} images without a mask",
            got=_shown(lonely_images),
            todo="remove them, or keep them unannotated with --allow-unmasked",
        )


def _match_numbers(images: _Names, masks: _Names) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return one key a name for both sides from the numbers that vary.

    Raises
    ------
    RefusedError
        There are none, their count differs, or they would fit in two orders.
    """
    columns, others = images.varying, masks.varying
    if len(images.names) == 1 or len(masks.names) == 1:  # nothing varies in one name: its last number counts
        columns = columns or (len(images.texts) - 2,)
        others = others or (len(masks.texts) - 2,)
    if min(columns, default=-1) < 0 or min(others, default=-1) < 0:
        raise RefusedError(
            "the names have no number that tells the slices apart",
            got=f"{_shown(images.names, 1)} with {_shown(masks.names, 1)}",
            todo=_REMEDY,
        )
    if len(columns) != len(others):
        raise RefusedError(
            f"{len(columns)} numbers vary in the names of the images, {len(others)} in those of the masks",
            got=f"{_shown(images.names, 2)}; {_shown(masks.names, 2)}",
            todo=_REMEDY,
        )
    left = [tuple(row[c] for c in columns) for row in images.numbers]
    right = [tuple(row[c] for c in others) for row in masks.numbers]
    if len(columns) > 1 and [images.texts[c] for c in columns] != [masks.texts[c] for c in others]:
        orders = [
            order
            for order in itertools.permutations(range(len(columns)))
            if {tuple(key[n] for n in order) for key in right} == set(left)
        ]
        if len(orders) > 1:
            raise RefusedError(
                "the numbers in the names fit in more than one order",
                got=f"{_shown(images.names, 2)}; {_shown(masks.names, 2)}",
                todo=_REMEDY,
            )
    return left, right


def _by_names(images: Sequence[str], masks: Sequence[str], allow_unmasked: bool) -> Pairing:
    stems, others = [_stem(n) for n in images], [_stem(n) for n in masks]
    if set(others) <= set(stems) or set(stems) <= set(others):
        left: Sequence = stems
        right: Sequence = others
        found = "equal names"
    else:
        left, right = _match_numbers(_parse("images", images), _parse("masks", masks))
        found = "the number in the names" if len(left[0]) == 1 else f"the {len(left[0])} numbers in the names"
    _refuse_duplicates("images", images, left)
    _refuse_duplicates("masks", masks, right)
    by_key = dict(zip(right, masks, strict=True))
    _refuse_missing(dict(zip(left, images, strict=True)), by_key, allow_unmasked)
    keys = slice_numbers(images) if left is stems else left
    pairs = [
        Pair(image, by_key.get(match), key) for image, match, key in zip(images, left, keys, strict=True)
    ]
    return Pairing("numbers", found, tuple(sorted(pairs, key=lambda p: (p.key, natural_key(p.image)))))


def _text_sorted(images: Sequence[str], masks: Sequence[str]) -> Pairing:
    if len(images) != len(masks):
        raise RefusedError(
            "text-sorted pairing needs as many masks as images", got=f"{len(images)} and {len(masks)}"
        )
    keys = dict(zip(images, slice_numbers(images), strict=True))
    pairs = [Pair(i, m, keys[i]) for i, m in zip(sorted(images), sorted(masks), strict=True)]
    return Pairing(
        "text-sorted",
        "both lists sorted as text (an experiment)",
        tuple(sorted(pairs, key=lambda p: (p.key, natural_key(p.image)))),
    )


def _moved(right: Pairing, rule: str, found: str, source: Sequence[int]) -> Pairing:
    """Return the pairing in which annotated pair n gets the mask of annotated pair ``source[n]``."""
    annotated = [n for n, p in enumerate(right.pairs) if p.mask is not None]
    pairs = list(right.pairs)
    for target, origin in zip(annotated, source, strict=True):
        pairs[target] = replace(pairs[target], mask=right.pairs[annotated[origin]].mask)
    return Pairing(rule, found, tuple(pairs))


def check_rule(rule: str) -> tuple[str, float]:
    """Return the name and the parameter of a pairing rule (0 where it has none), or raise UsageError."""
    name, _, text = rule.partition(":")
    try:
        if name in ("numbers", "text-sorted") and not text:
            return name, 0
        if name == "shift" and int(text) != 0:
            return name, int(text)
        if name == "scramble" and 0 < float(text) <= 1:
            return name, float(text)
    except ValueError:
        pass  # the one error below names the rule and what is allowed
    raise UsageError(
        "unknown pairing rule", got=repr(rule), expected=f"{_RULES} (K not 0, P above 0 and at most 1)"
    )


def pair(
    images: Sequence[str],
    masks: Sequence[str],
    rule: str = "numbers",
    *,
    allow_unmasked: bool = False,
    seed: int = 0,
) -> Pairing:
    """Pair images with masks by their names.

    Parameters
    ----------
    images, masks
        File names with their endings; the order does not matter.
    rule
        ``numbers``, the right one: equal stems, else the numbers that vary in the names. The others
        are wrong on purpose: ``text-sorted`` (both lists sorted as text), ``shift:K`` (the mask of the
        slice K further on, cyclic), ``scramble:P`` (a share P of the masks exchanged at random).
    allow_unmasked
        Keep images without a mask. A mask without an image is refused in any case.
    seed
        For ``scramble``.

    Raises
    ------
    RefusedError
        The names leave a doubt: several patterns, a number twice, a counterpart missing.
    UsageError
        Unknown rule.

    Examples
    --------
    >>> [(p.image, p.mask) for p in pair(["m02.png", "m10.png"], ["10.png", "2.png"]).pairs]
    [('m02.png', '2.png'), ('m10.png', '10.png')]
    """
    name, parameter = check_rule(rule)
    if not images:
        raise RefusedError("no images to pair")
    if name == "text-sorted":
        return _text_sorted(images, masks)
    right = _by_names(images, masks, allow_unmasked)
    if name == "numbers":
        return right
    n = sum(p.mask is not None for p in right.pairs)
    if n < 2:
        raise RefusedError("a wrong pairing needs two masks", got=n)
    if name == "shift":
        if int(parameter) % n == 0:
            raise UsageError("this shift changes nothing", got=rule, expected=f"K not a multiple of {n}")
        source = [(k + int(parameter)) % n for k in range(n)]
        return _moved(right, rule, f"masks of the slice {int(parameter)} further on (an experiment)", source)
    chosen = random.Random(seed).sample(range(n), max(2, round(parameter * n)))  # noqa: S311 (an experiment, not a secret)
    source = list(range(n))
    for here, there in zip(chosen, [*chosen[1:], chosen[0]], strict=True):  # one cycle: no mask stays
        source[here] = there
    return _moved(
        right, rule, f"{len(chosen)} of {n} masks exchanged at random, seed {seed} (an experiment)", source
    )


def pair_as_listed(
    rows: Sequence[tuple[str, str | None]],
    images: Sequence[str],
    masks: Sequence[str],
    *,
    allow_unmasked: bool = False,
) -> Pairing:
    """Pair by an explicit list of (image, mask) names, which must name known files once each.

    Raises
    ------
    MissingError
        The list names a file that is not there.
    RefusedError
        A file is listed twice, or an image has no mask and `allow_unmasked` is false.
    """
    for side, listed, known in (
        ("images", [i for i, _ in rows], set(images)),
        ("masks", [m for _, m in rows if m], set(masks)),
    ):
        if unknown := [name for name in listed if name not in known]:
            raise MissingError(f"the pairs name {side} that are not there", got=_shown(unknown))
        _refuse_duplicates(side, listed, listed)
    bare = [image for image, mask in rows if not mask]
    if bare and not allow_unmasked:
        raise RefusedError(
            f"{len(bare)} images without a mask", got=_shown(bare), todo="keep them with --allow-unmasked"
        )
    keys = slice_numbers([image for image, _ in rows])
    pairs = [Pair(image, mask or None, key) for (image, mask), key in zip(rows, keys, strict=True)]
    return Pairing(
        "csv", "a list of pairs", tuple(sorted(pairs, key=lambda p: (p.key, natural_key(p.image))))
    )


def read_pairs(path: Path) -> list[tuple[str, str | None]]:
    """Read a CSV with the columns ``image,mask``; an empty mask means an image without one.

    Raises
    ------
    MissingError
        There is no such file.
    CorruptError
        It is no CSV with these columns.
    """
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
        rows = [(row["image"], row["mask"] or None) for row in reader]
    except FileNotFoundError:
        raise MissingError("no such list of pairs", where=path) from None
    except (KeyError, csv.Error, UnicodeDecodeError) as error:
        raise CorruptError(
            "not a list of pairs", where=path, got=error, expected="a CSV with the columns image,mask"
        ) from None
    if not rows or any(not image for image, _ in rows):
        raise CorruptError("a list of pairs without images", where=path)
    return rows
