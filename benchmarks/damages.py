"""Damaged files and full disks: what readers of a store get, and what it takes to put it right."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.document import Document
from benchmarks.jobs import (
    SIDES,
    Content,
    Failure,
    Reference,
    computed,
    embed,
    finished,
    forked,
    make_dataset,
    read,
    read_plainly,
    shorten,
    verify_all,
)
from benchmarks.performance import scratch
from emvfm.store.care import find_stores

__all__ = ["TARGETS", "damage", "disks", "harms"]

FLIPS = 12
TARGETS = {  # file of the store; where in it a bit flips, if not anywhere
    "patches": ("grids/6x6/patches/c/0/1/0/0/0", None),
    "cls": ("grids/6x6/cls/c/0/0/0", None),
    "mean": ("grids/6x6/mean/c/0/0/0", None),
    "valid": ("grids/6x6/valid/c/0/0/0", None),
    "image": ("grids/6x6/image/c/0", None),
    "shard manifest": ("manifest/6x6/000000.json", None),
    "shard manifest, its start": ("manifest/6x6/000000.json", rb'(?<="start": )\d'),
    "shard manifest, an image": ("manifest/6x6/000001.json", rb'(?<="images": \[\n    ")[0-9a-f]'),
    "allocation": ("manifest/6x6.json", None),
    "allocation, an image": ("manifest/6x6.json", rb'(?<= ")[0-9a-f]'),
    "zarr.json of patches": ("grids/6x6/patches/zarr.json", None),
    "zarr.json of cls": ("grids/6x6/cls/zarr.json", None),
    "zarr.json of the grid": ("grids/6x6/zarr.json", None),
    "zarr.json of the store": ("zarr.json", None),
    "sample table, rows": ("datasets/*/row/c/0", None),
    "sample table, foreground": ("datasets/*/foreground/6x6/fraction/c/0/0/0", None),
}


@dataclass(frozen=True)
class Reading:
    """What happened to readers of a damaged file."""

    emvfm: str  # "same", "wrong values", "no values", or an error
    plain: str
    verify: str
    named: bool


@dataclass
class Damage:
    """One file damaged in one way, at one or more places, and put right."""

    what: str
    harm: str
    readings: list[Reading] = field(default_factory=list)
    repair: str = "verify finds nothing"
    again: int = 0  # images computed
    expected: int = 0  # images of the shards that verify or its advice withdrew
    problems: list[str] = field(default_factory=list)


def _outcome(found: Content | Failure, expected: Content, root: Path) -> str:
    if isinstance(found, Failure):
        return f"{found.kind}: {shorten(found.message, root)}"
    if found == expected:
        return "same"
    if "another image" in found.values():
        return "image is not the table's"
    return "NaN" if "zeros or NaN" in found.values() else "wrong values"


def _look(reference: Reference, root: Path, path: Path) -> Reading:
    """Read a store with a damaged file in every way."""
    found, plain = forked(read, reference.dataset, root), forked(read_plainly, reference.dataset, root)
    checked = forked(verify_all, root)
    verdict = _outcome(checked, {}, root) if isinstance(checked, Failure) else "; ".join(checked.values())
    array = str(path).split("/c/")[0].removesuffix("/zarr.json")
    return Reading(
        _outcome(found, reference.content, root), _outcome(plain, reference.plain, root), verdict,
        isinstance(found, Failure) and array in found.message,
    )  # fmt: skip


def _flips(data: bytes, pattern: bytes | None, n: int) -> Iterator[bytes]:
    """Yield `data` with one bit flipped, at places spread over it or over what `pattern` finds."""
    rng = np.random.default_rng(len(data))
    first, last = 0, len(data) - 1
    if pattern and (found := re.search(pattern, data)):
        first = last = found.start()
    for i, place in enumerate(np.linspace(first, last, n).astype(int)):
        changed = bytearray(data)
        changed[place] ^= 1 << (i if pattern else int(rng.integers(8)))
        yield bytes(changed)


def harm(reference: Reference, root: Path, what: str, how: str, flips: int = FLIPS) -> Damage:
    """Damage a file of a copy of the store, read it, repair it as emvfm says, and embed again."""
    shutil.copytree(reference.root, root)
    (folder,) = (p for p in (root / "store").iterdir() if p.is_dir())
    pattern = TARGETS[what][1]
    (path,) = folder.glob(TARGETS[what][0])
    data, result = path.read_bytes(), Damage(what, how)
    versions: list[bytes | None] = [None]
    if how == "cut":
        versions = [data[: len(data) // 2]]
    elif how == "flip":
        versions = [*_flips(data, pattern, 8 if pattern else flips)]
    for version in versions:
        _put(path, version)
        result.readings.append(_look(reference, root, path))
    badness = [_badness(reading) for reading in result.readings]
    _put(path, versions[badness.index(max(badness))])
    failure = forked(verify_all, root, True)
    if isinstance(failure, Failure) and "remove that file" in failure.message:
        path.unlink()
        result.repair = "remove the file, as verify says"
        failure = forked(verify_all, root, True)
    if isinstance(failure, Failure):
        result.repair = "none"
    elif failure:
        result.repair = "verify --repair"
    if what.startswith("allocation"):  # it is read when something is to be computed
        failure = forked(_withdraw, root, "6x6/000001")
        result.repair = "a shard withdrawn"
    before = set(reference.content) - finished(root) if result.repair != "none" else set()
    result.expected = len(before)
    if failure := forked(embed, reference.dataset, root, root / "log"):
        result.problems.append(shorten(f"embed: {failure}", root))
    again = [reference.names[name] for name in computed(root / "log")]
    result.again = len(again)
    if set(again) != before:
        result.problems.append("other images computed than withdrawn")
    result.problems += reference.problems(root)
    shutil.rmtree(root)
    return result


def _put(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(data)


def _withdraw(root: Path, shard: str) -> None:
    find_stores(root / "store")[0].forget(shard)


def _badness(reading: Reading) -> int:
    return 3 if reading.emvfm == "wrong values" else 2 if reading.emvfm != "same" else bool(reading.verify)


def _counted(outcomes: Sequence[str]) -> str:
    """Return each outcome with how often it came; of an error, its class and the first message's beginning."""
    first = {outcome.split(":")[0]: outcome for outcome in reversed(outcomes)}
    counts = Counter(outcome.split(":")[0] for outcome in outcomes)
    parts = []
    for kind, n in counts.most_common():
        message = re.sub(r"(?<![^\s'`(])/(?:[^\s/'`]+/)+", "…/", first[kind].partition(": ")[2])[:60]
        parts.append((f"{n} × " if len(outcomes) > 1 else "") + kind + (f" (`{message}`)" if message else ""))
    return ", ".join(parts)


def harms(
    folder: Path, reference: Reference, flips: int, wanted: Sequence[str] = tuple(TARGETS)
) -> list[Damage]:
    """Damage each kind of file in each way."""
    ways = {what: ("flip",) if TARGETS[what][1] else ("flip", "cut", "delete") for what in wanted}
    return [harm(reference, folder / "harm", what, how, flips) for what in wanted for how in ways[what]]


@contextmanager
def _disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a disk in memory."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True, capture_output=True)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True, capture_output=True)


def disks(folder: Path, reference: Reference) -> list[list[Any]]:
    """Fill a disk at several points of a job, and make one read-only; return rows of the page."""
    rows: list[list[Any]] = []
    blocks = sum(-(-p.stat().st_size // 4096) for p in (reference.root / "store").rglob("*") if p.is_file())
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        root, log = folder / f"full{share}", folder / f"full{share}.log"
        try:
            with _disk(root, f"{int(share * blocks * 4)}k"):
                first = forked(embed, reference.dataset, root, log)
                kept, passes = finished(root), len(computed(log))
                _remount(root, "size=256m")
                second = forked(embed, reference.dataset, root, log)
                again = [reference.names[name] for name in computed(log)[passes:]]
                wrong = [str(second)] if second else []
                wrong += reference.problems(root)
                wrong += ["finished images computed again"] if kept & set(again) else []
        except (OSError, subprocess.CalledProcessError) as error:
            return [["full disk, read-only disk", f"skipped: {error}"[:80], *[None] * 3]]
        rows.append([f"full at {share:.0%} of the store", _counted([_outcome(first, {}, root)]) if first else "–",
                     f"{len(kept)} of {len(reference.content)}", len(again), "; ".join(wrong)[:160] or "equal"])  # fmt: skip
    root = folder / "locked"
    with _disk(root, "256m"):
        shutil.copytree(reference.root / "store", root / "store")
        more = make_dataset(folder / "more", len(SIDES), seed=99)
        _remount(root, "ro")
        values = forked(read, reference.dataset, root)
        reused = forked(embed, reference.dataset, root, folder / "locked.log")
        refused = forked(embed, more, root, folder / "locked.log")
        _remount(root, "rw")
        wrong = reference.problems(root) + ([] if refused else ["embedding more gave no error"])
    for what, got in (("reading", _outcome(values, reference.content, root)),
                      ("embedding what is there", _outcome(reused, {}, root) if reused else "same"),
                      ("embedding more images", _outcome(refused, {}, root) if refused else "no error")):  # fmt: skip
        rows.append([f"read-only, {what}", _counted([got]), f"{len(reference.content)} of {len(reference.content)}",
                     0, "; ".join(wrong)[:160] or "equal"])  # fmt: skip
    return rows


def damage(page: Document, flips: int = FLIPS) -> None:
    """Damage files of a finished store, read it in every way, repair it, and embed again."""
    with scratch() as folder:
        reference = Reference.make(folder, 80)
        found, disk_rows = harms(folder, reference, flips), disks(folder, reference)
    page.section(
        "Damage",
        f"One file of a copy of a finished store of {len(reference.content)} images is damaged: a bit flips at each of "
        f"{flips} places spread over the file (at one place of which every bit, where a part of the file is named), half "
        "of the file is cut off, or the file goes. Then the store is read through emvfm, with Zarr alone, and by `verify`; "
        'repaired in the worst of the cases; and embedded again. "Same" is every value as it was: the damage is not in '
        "what this reader uses.",
    )
    page.table(
        ["file", "harm", "through emvfm", "errors that name it", "with Zarr alone", "`verify` finds", "repair",
         "computed again / withdrawn", "afterwards"],
        [[d.what, d.harm, _counted([r.emvfm for r in d.readings]),
          f"{sum(r.named for r in d.readings)} of {sum(':' in r.emvfm for r in d.readings)}",
          _counted([r.plain.split(":")[0] for r in d.readings]),
          f"{sum(bool(r.verify) for r in d.readings)} of {len(d.readings)}", d.repair, f"{d.again} / {d.expected}",
          "; ".join(d.problems)[:160] or "equal"] for d in found],
    )  # fmt: skip
    page.text(
        "A disk that is full, or read-only, while a job writes; then it has room again and the job is repeated."
    )
    page.table(
        ["disk", "the job gets", "images finished", "computed when there is room", "afterwards"], disk_rows
    )
