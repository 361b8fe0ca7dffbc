"""What ruins a study before it starts, as pure functions from measured samples to findings.

An ``error`` makes the audit refuse the dataset; a ``warning`` is worth a look; ``info`` is for the record.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np

from emvfm.datasets.manifest import Sample
from emvfm.datasets.sample_facts import Facts

__all__ = [
    "Finding",
    "check_duplicates",
    "check_files",
    "check_images",
    "check_masks",
    "check_neighbours",
    "check_pixel_sizes",
    "check_splits",
]

SATURATED = 0.2
NEAR_DUPLICATE = 0.999
FULL = 0.98
MOSTLY = 0.5
_EXAMPLES = 12


@dataclass(frozen=True)
class Finding:
    """One thing found: a stable `code`, how grave it is, a sentence, the samples and the numbers."""

    code: str
    severity: Literal["error", "warning", "info"]
    message: str
    samples: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "samples": list(self.samples), "numbers": dict(self.numbers)}


def _named(items: Iterable[str], limit: int = 3) -> str:
    names = list(items)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def check_files(facts: Sequence[Facts]) -> list[Finding]:
    """Report missing, damaged and changed files."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for fact in facts:
        for code, text in fact.problems:
            found[code].append((fact.sample.id, text))
    return [
        Finding(
            code,
            "error",
            f"{len(rows)} × {rows[0][1]}" if len(rows) > 1 else rows[0][1],
            tuple(dict.fromkeys(name for name, _ in rows)),
            {"n": len(rows), "all": [text for _, text in rows[:_EXAMPLES]]},
        )
        for code, rows in found.items()
    ]


def check_masks(facts: Sequence[Facts]) -> list[Finding]:
    """Report empty, full and inverted masks and masks of another size than their image."""
    findings = []
    wrong = [f for f in facts if f.shape and f.mask_shape and f.shape != f.mask_shape]
    if wrong:
        first = wrong[0]
        sizes = ["×".join(map(str, shape or ())) for shape in (first.mask_shape, first.shape)]
        findings.append(
            Finding(
                "size-mismatch",
                "error",
                f"{len(wrong)} masks differ in size from their image, such as {first.sample.id}: "
                f"{sizes[0]} against {sizes[1]} px",
                tuple(f.sample.id for f in wrong),
                {"n": len(wrong)},
            )
        )
    groups: dict[str, list[Facts]] = defaultdict(list)
    for fact in facts:
        if fact.foreground is not None:
            groups[fact.sample.domain].append(fact)
    for domain, members in sorted(groups.items()):
        shares = np.array([f.foreground for f in members], float)
        typical = float(np.median(shares[shares > 0])) if (shares > 0).any() else 0.0
        numbers = {"n": len(members), "median_foreground": round(typical, 5)}
        empty = tuple(f.sample.id for f in members if f.foreground == 0)
        if empty:
            whole = len(empty) == len(members)
            findings.append(
                Finding(
                    "empty-masks",
                    "error" if whole else "warning",
                    f"{domain}: {'all' if whole else len(empty)} of {len(members)} masks are empty"
                    f"{'' if whole else ' (' + _named(empty) + ')'}",
                    empty,
                    {**numbers, "empty": len(empty)},
                )
            )
        full = tuple(f.sample.id for f in members if (f.foreground or 0) > FULL)
        high = tuple(f.sample.id for f in members if MOSTLY < (f.foreground or 0) <= FULL)
        if full:
            findings.append(
                Finding(
                    "full-masks",
                    "error",
                    f"{domain}: {len(full)} of {len(members)} masks are full or inverted (above "
                    f"{100 * FULL:.0f} % foreground; {_named(full)})",
                    full,
                    numbers,
                )
            )
        if high:
            alone = typical < MOSTLY / 2  # the other masks of the domain show which way round is right
            suspect = alone or typical > 0.8
            findings.append(
                Finding(
                    "inverted-masks",
                    "error" if suspect else "warning",
                    f"{domain}: {len(high)} of {len(members)} masks are more than half foreground"
                    + (
                        f", the others about {100 * typical:.0f} %: inverted?"
                        if alone
                        else f" (median {100 * typical:.0f} %): inverted?"
                    ),
                    high,
                    numbers,
                )
            )
    return findings


def check_images(facts: Sequence[Facts]) -> list[Finding]:
    """Report constant and saturated images and mixed types and sizes."""
    findings = []
    read = [f for f in facts if f.shape is not None]
    constant = tuple(f.sample.id for f in read if f.spread == 0)
    if constant:
        findings.append(
            Finding(
                "constant-images",
                "error",
                f"{len(constant)} images have one grey value only ({_named(constant)})",
                constant,
                {"n": len(constant)},
            )
        )
    saturated = [f for f in read if f.spread > 0 and f.at_limit > SATURATED]
    if saturated:
        worst = max(saturated, key=lambda f: f.at_limit)
        findings.append(
            Finding(
                "saturated-images",
                "warning",
                f"{len(saturated)} images have more than {100 * SATURATED:.0f} % of their pixels at the "
                f"lowest or highest value ({worst.sample.id}: {100 * worst.at_limit:.0f} %)",
                tuple(f.sample.id for f in saturated),
                {"n": len(saturated), "worst": round(worst.at_limit, 4)},
            )
        )
    types = sorted({f.dtype for f in read if f.dtype})
    if len(types) > 1:
        findings.append(Finding("mixed-types", "warning", f"different pixel types: {_named(types)}"))
    sizes: dict[str, set[tuple[int, int] | None]] = defaultdict(set)
    for fact in read:
        sizes[fact.sample.volume].add(fact.shape)
    mixed = sorted(volume for volume, shapes in sizes.items() if len(shapes) > 1)
    if mixed:
        findings.append(Finding("mixed-sizes", "warning", f"different image sizes within {_named(mixed)}"))
    return findings


def _positions(samples: Sequence[Sample]) -> dict[str, list[tuple[int, Sample]]]:
    """Return each volume's samples with their rank in z; samples without z are left out."""
    volumes: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.z is not None:
            volumes[f"{sample.domain}/{sample.volume}"].append(sample)
    ranked = {}
    for volume, members in volumes.items():
        rank = {z: n for n, z in enumerate(sorted({s.z for s in members if s.z is not None}))}
        ranked[volume] = sorted(((rank[s.z], s) for s in members if s.z is not None), key=lambda r: r[0])
    return ranked


def check_neighbours(samples: Sequence[Sample], gap: int, declared_random: bool) -> list[Finding]:
    """Report slices of two splits that are closer than the gap: the test would show what was trained on.

    A random split that was asked for by name is a warning, because it is wanted for comparison.
    """
    close: list[tuple[Sample, Sample, int]] = []
    for ranked in _positions(samples).values():
        kept = [(n, s) for n, s in ranked if s.split != "gap"]
        for start, (n, sample) in enumerate(kept):
            for m, other in kept[start + 1 :]:
                if m - n > gap:
                    break
                if other.split != sample.split:
                    close.append((sample, other, m - n))
    if not close:
        return []
    first, second, _ = close[0]
    ids = tuple(dict.fromkeys(s.id for a, b, _ in close for s in (a, b)))
    return [
        Finding(
            "neighbours-across-splits",
            "warning" if declared_random else "error",
            f"{len(close)} pairs of slices less than {gap + 1} positions apart lie in different splits, "
            f"such as {first.id} ({first.split}) and {second.id} ({second.split})"
            + ("; the random split leaks by design" if declared_random else ""),
            ids,
            {"pairs": len(close), "gap": gap},
        )
    ]


def _held_apart(a: Sample, b: Sample) -> bool:
    return a.split != b.split and "gap" not in (a.split, b.split)


def check_duplicates(facts: Sequence[Facts], thumbnails: Mapping[str, np.ndarray]) -> list[Finding]:
    """Report equal and nearly equal images, within and across splits, and masks used more than once."""
    findings = []
    same: dict[str, list[Sample]] = defaultdict(list)
    masks: dict[str, list[Sample]] = defaultdict(list)
    for fact in facts:
        same[fact.sample.image_sha256].append(fact.sample)
        if fact.sample.mask_sha256 and fact.foreground:
            masks[fact.sample.mask_sha256].append(fact.sample)
    pairs = [pair for group in same.values() if len(group) > 1 for pair in combinations(group, 2)]
    for code, severity, text, chosen in (
        ("duplicates-across-splits", "error", "in different splits", [p for p in pairs if _held_apart(*p)]),
        ("duplicates", "warning", "within a split", [p for p in pairs if not _held_apart(*p)]),
    ):
        if chosen:
            a, b = chosen[0]
            findings.append(
                Finding(
                    code,
                    severity,  # type: ignore[arg-type]
                    f"{len(chosen)} pairs of identical images {text}, such as {a.id} and {b.id}",
                    tuple(dict.fromkeys(s.id for p in chosen for s in p)),
                    {"pairs": len(chosen)},
                )
            )
    shared = [g for g in masks.values() if len({s.image_sha256 for s in g}) > 1]
    if shared:
        findings.append(
            Finding(
                "shared-masks",
                "warning",
                f"{len(shared)} masks serve several images, such as {_named(s.id for s in shared[0])}",
                tuple(s.id for g in shared for s in g),
                {"n": len(shared)},
            )
        )
    findings += _near_duplicates([f.sample for f in facts], thumbnails)
    return findings


def _near_duplicates(samples: Sequence[Sample], thumbnails: Mapping[str, np.ndarray]) -> list[Finding]:
    by_length: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.id in thumbnails:
            by_length[len(thumbnails[sample.id])].append(sample)
    across: list[tuple[Sample, Sample]] = []
    within: list[tuple[Sample, Sample]] = []
    highest = 0.0
    for members in by_length.values():
        stack = np.stack([thumbnails[s.id] for s in members])
        for start in range(0, len(members), 512):
            similar = stack[start : start + 512] @ stack.T
            for row, column in np.argwhere(similar > NEAR_DUPLICATE):
                a, b = members[start + row], members[column]
                if start + row < column and a.image_sha256 != b.image_sha256:
                    highest = max(highest, float(similar[row, column]))
                    (across if _held_apart(a, b) else within).append((a, b))
    findings = []
    for code, text, chosen in (
        ("near-duplicates-across-splits", "in different splits", across),
        ("near-duplicates", "within a split", within),
    ):
        if chosen:
            a, b = chosen[0]
            # Neighbours in one stack may be this alike; how close they may be is the gap's business.
            known = all(
                p.z is not None and q.z is not None and (p.domain, p.volume) == (q.domain, q.volume)
                for p, q in chosen
            )
            findings.append(
                Finding(
                    code,
                    "error" if chosen is across and not known else "warning",
                    f"{len(chosen)} pairs of nearly identical images {text}, such as {a.id} and {b.id} "
                    f"(correlation up to {highest:.4f})",
                    tuple(dict.fromkeys(s.id for p in chosen for s in p)),
                    {"pairs": len(chosen), "highest": round(highest, 6)},
                )
            )
    return findings


def check_pixel_sizes(samples: Sequence[Sample]) -> list[Finding]:
    """Report domains whose pixels differ in size, and pixels of unknown size."""
    sizes: dict[str, set[float | None]] = defaultdict(set)
    for sample in samples:
        sizes[sample.domain].add(sample.pixel_size_nm)
    findings = []
    unknown = sorted(domain for domain, values in sizes.items() if None in values)
    if unknown:
        findings.append(
            Finding("unknown-pixel-size", "info", f"pixel size unknown in {_named(unknown)}", (), {})
        )
    known = {d: sorted(v for v in values if v is not None) for d, values in sizes.items()}
    every = [v for values in known.values() for v in values]
    if len(set(every)) > 1:
        ratio = max(every) / min(every)
        text = ", ".join(
            f"{d} {'/'.join(f'{v:g}' for v in values)}" for d, values in sorted(known.items()) if values
        )
        findings.append(
            Finding(
                "pixel-sizes-differ",
                "warning" if ratio > 1.25 else "info",
                f"pixel sizes differ by a factor of {ratio:.2g} (nm: {text})",
                (),
                {"ratio": round(ratio, 4)},
            )
        )
    return findings


def check_splits(samples: Sequence[Sample]) -> list[Finding]:
    """Report splits that can't carry a study."""
    annotated = Counter(s.split for s in samples if s.mask is not None)
    findings = []
    if not annotated:
        return [Finding("no-masks", "info", "no sample has a mask: nothing to train on or to score", (), {})]
    numbers = dict(annotated)
    for split, least, what in (("train", 4, "training"), ("test", 3, "test")):
        if annotated[split] < least:
            text = f"only {annotated[split]} annotated {what} slice(s)"
            findings.append(Finding("few-annotated", "warning", text, (), numbers))
    return findings
