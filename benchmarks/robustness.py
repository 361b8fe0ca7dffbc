"""The tables of docs/robustness.md: what is in a store after kills, races and damage.

``python -m benchmarks.robustness`` needs nothing but emvfm; as root it also fills a disk and locks one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.damages import damage
from benchmarks.document import Document
from benchmarks.jobs import (
    FORK,
    Failure,
    Reference,
    begin,
    computed,
    embed,
    finished,
    forked,
    read,
    read_plainly,
    shorten,
    verify_all,
)
from benchmarks.performance import scratch
from emvfm.datasets.manifest import Dataset

__all__ = ["crash", "damage", "race"]

COMMAND = "nox -s robustness"
SHARD = 16  # images

# ---------------------------------------------------------------------- kills


@dataclass
class Crash:
    """A job that was killed and then resumed."""

    phases: list[str] = field(default_factory=list)
    again: int = 0  # images of finished shards that were computed once more
    lost: int = 0  # images computed more than once
    left: int = 0  # temporary files that stayed
    problems: list[str] = field(default_factory=list)


PHASES = (
    "before the store is there", "store there, no shard begun", "a shard half computed and half written",
    "a shard's files named, its manifest not yet", "between shards", "all shards published, no sample table yet",
    "after its end",
)  # fmt: skip


def phase(root: Path, n: int) -> str:
    """Return how far a killed job came, by the files it left."""
    folder = next((path.parent for path in (root / "store").glob("[0-9a-f]*/zarr.json")), None)
    if folder is None:
        return PHASES[0]
    if len(finished(root)) == n:
        return PHASES[5]
    named = {p.parts[-6:-4] for p in folder.glob("grids/*/patches/c/*/*/*/*/*") if not p.name.startswith(".")}
    if len(named) > len(list(folder.glob("manifest/*/*.json"))):
        return PHASES[3]
    if next(folder.glob("grids/*/patches/c/*/*/*/*/.*.tmp"), None):
        return PHASES[2]
    return PHASES[4 if finished(root) else 1]


def crashes(folder: Path, reference: Reference, trials: int, seed: int = 0) -> list[Crash]:
    """Kill and resume `trials` jobs at moments that are uniform over the time of an uninterrupted one."""
    rng, found, n = np.random.default_rng(seed), [], len(reference.names)
    for trial in range(trials):
        crash, root, published, runs = Crash(), folder / f"crash{trial}", set[str](), list[str]()
        kills = 1 + int(rng.integers(2))
        for run in range(kills + 1):
            log = folder / f"crash{trial}-{run}.log"
            if run < kills:
                process = begin(embed, reference.dataset, root, log)
                process.join(float(rng.uniform(0, reference.seconds)))
                process.kill()
                process.join()
                crash.phases.append(phase(root, n) if process.exitcode else PHASES[-1])
            elif failure := forked(embed, reference.dataset, root, log):
                crash.problems.append(shorten(f"resuming: {failure}", root))
            images = [reference.names[name] for name in computed(log)]
            crash.again += len(published & set(images))
            published, runs = finished(root), runs + images
        crash.lost = len(runs) - len(set(runs))
        crash.left = sum(path.suffix in {".tmp", ".partial"} for path in root.rglob(".*"))
        crash.problems += reference.problems(root)
        found.append(crash)
        shutil.rmtree(root)
    return found


def crash(page: Document, trials: int) -> None:
    """Kill jobs at random moments, resume them, and compare the store with that of an uninterrupted one."""
    with scratch() as folder:
        reference = Reference.make(folder, 48)
        found = crashes(folder, reference, trials)
    equal = sum(not c.problems for c in found)
    phases = Counter(name for c in found for name in c.phases)
    page.section(
        "Kills",
        f"{len(reference.names)} images on two patch grids, {reference.seconds:.2f} s without a kill. {trials} jobs "
        "get SIGKILL at a moment drawn uniformly over that time, half of them once more while they resume, and then "
        "run to their end in the same workspace. Equal means: every image's patches, class token, mean and validity, "
        "and the sample table, byte for byte, through emvfm and through Zarr alone; `verify` finds nothing; and the "
        "same files are there. A kill leaves what was written in the system's cache: a loss of power is not tried.",
    )
    page.table(
        ["stores equal to the uninterrupted one", "images of finished shards computed again",
         "images lost per kill, mean", "at most in a trial", "temporary files left, hidden"],
        [[f"{equal} of {trials}", sum(c.again for c in found),
          float(np.sum([c.lost for c in found]) / phases.total()), max(c.lost for c in found),
          sum(c.left for c in found)]],
    )  # fmt: skip
    page.table(["when the kill came", "kills"], [[name, phases[name]] for name in PHASES])
    _failures(page, {f"trial {i}": c.problems for i, c in enumerate(found)})


def _failures(page: Document, found: dict[str, list[str]]) -> None:
    lines = [f"{name}: {'; '.join(problems)}"[:400] for name, problems in found.items() if problems]
    if lines:
        page.text("What was not equal:")
        page.bullets(lines)


# ---------------------------------------------------------------------- races


@dataclass(frozen=True)
class Race:
    """Jobs that began together."""

    seconds: float
    active: int  # jobs that computed anything
    missing: int  # images that none computed
    twice: int  # images computed more than once
    victim: int  # images the killed job had computed
    killed: bool
    problems: list[str]


def together(
    folder: Path, reference: Reference, parts: Sequence[Dataset], seed: int = 0, kill: bool = False
) -> Race:
    """Embed `parts`, each by a job of its own; with `kill`, the first is killed once it computes."""
    folder.mkdir()
    root, rng, barrier = folder / "workspace", np.random.default_rng(seed), FORK.Barrier(len(parts) + 1)
    logs = [folder / f"{i}.log" for i in range(len(parts))]
    waits = [0.0, *rng.uniform(0.01 if kill else 0, 0.03, len(parts) - 1)]
    jobs = [begin(embed, p, root, log, barrier, w) for p, log, w in zip(parts, logs, waits, strict=True)]
    barrier.wait(120)
    since, wanted = time.perf_counter(), int(rng.integers(2, SHARD))
    while kill and jobs[0].is_alive() and len(computed(logs[0])) < wanted:
        time.sleep(0.001)
    if kill:
        jobs[0].kill()
    for job in jobs:
        job.join()
    seconds = time.perf_counter() - since
    done = [[reference.names[name] for name in computed(log)] for log in logs]
    count = Counter(image for images in done for image in images)
    problems = [shorten(path.read_text().strip().split("\n")[-1], root) for path in folder.glob("*.error")]
    problems += [f"{n} jobs did not end" for n in [sum(bool(j.exitcode) for j in jobs[kill:])] if n]
    stray = [n for n in count if count[n] > 1 + (n in done[0])] if kill else []
    problems += [f"{len(stray)} images of no dead job computed again"] if stray else []
    problems += [f"verify: {found}"] if (found := forked(verify_all, root)) else []
    plain = forked(read_plainly, reference.dataset, root)
    for part in {id(part): part for part in parts[kill:]}.values():
        images = {s.image_sha256 for s in part.samples}
        if forked(read, part, root) != {image: reference.content[image] for image in images}:
            problems.append("other values through emvfm")
        if isinstance(plain, Failure) or any(plain.get(i) != reference.plain[i] for i in images):
            problems.append(f"through Zarr: {plain if isinstance(plain, Failure) else 'other values'}")
    shutil.rmtree(root)
    return Race(
        seconds, sum(map(bool, done)), len(reference.names.keys()) - len(count),
        sum(n > 1 for n in count.values()), len(done[0]) if kill else 0, jobs[0].exitcode == -9, problems,
    )  # fmt: skip


def overlapping(dataset: Dataset, n: int) -> list[Dataset]:
    """Return `n` datasets of half the images each; each image is in half of them."""
    samples, length = dataset.samples, len(dataset.samples)
    starts = [i * length // n for i in range(n)]
    return [replace(dataset, samples=(samples + samples)[s : s + length // 2]) for s in starts]


def races(folder: Path, reference: Reference, processes: int, seeds: int) -> dict[str, list[Race]]:
    """Run every kind of race `seeds` times."""
    kinds = {
        "one job alone": ([reference.dataset], False),
        f"{processes} jobs, one dataset": ([reference.dataset] * processes, False),
        f"{processes} jobs, datasets that overlap by halves": (
            overlapping(reference.dataset, processes),
            False,
        ),
        f"{processes} jobs, one dataset, one job killed": ([reference.dataset] * processes, True),
    }
    return {
        name: [together(folder / f"{n}-{seed}", reference, parts, seed, kill) for seed in range(seeds)]
        for n, (name, (parts, kill)) in enumerate(kinds.items())
    }


def race(page: Document, processes: int, seeds: int = 4) -> None:
    """Let jobs begin together and see who computed what."""
    with scratch() as folder:
        reference = Reference.make(folder, 192)
        found = races(folder, reference, processes, seeds)
    page.section(
        "Races",
        f"{len(reference.names)} images in {len(reference.names) // SHARD} shards; jobs pass a barrier and begin within "
        f"30 ms of each other, {seeds} times each. Every job writes down each image that it gives to the model. The "
        "one that is killed has computed 2 to 15 images by then; the others take over what it had not published. "
        f"The jobs share {os.cpu_count()} cores, one thread each.",
    )
    page.table(
        ["jobs", "without fault", "jobs that computed", "images none computed", "images computed twice",
         "images the killed job had computed", "s, median"],
        [[name, f"{sum(not r.problems for r in runs)} of {len(runs)}", _span(r.active for r in runs),
          sum(r.missing for r in runs), _span(r.twice for r in runs),
          _span(r.victim for r in runs if r.killed) if any(r.killed for r in runs) else None,
          float(np.median([r.seconds for r in runs]))] for name, runs in found.items()],
    )  # fmt: skip
    _failures(
        page, {f"{name}, seed {i}": r.problems for name, runs in found.items() for i, r in enumerate(runs)}
    )


def _span(values: Iterable[int]) -> str:
    numbers = sorted(values)
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} – {numbers[-1]}"


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.robustness", description=__doc__)
    parser.add_argument("--trials", type=int, default=50, help="jobs that are killed")
    parser.add_argument("--processes", type=int, default=8, help="jobs that begin together")
    parser.add_argument("--seeds", type=int, default=4, help="times that each race is run")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of robustness.md")
    given = parser.parse_args()
    page = Document(
        "Robustness",
        COMMAND,
        "What is in an embedding store after jobs were killed, ran at once, or files were damaged. The backbone is a tiny "
        "untrained ViT on the CPU: what is written, and when, does not depend on the model.",
    )
    crash(page, given.trials)
    race(page, given.processes, given.seeds)
    damage(page)
    page.write(given.out / "robustness.md")


if __name__ == "__main__":
    main()
