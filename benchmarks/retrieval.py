"""How long retrieval takes and how much memory, against the way of copairs, and at a size copairs does not reach.

``python -m benchmarks.retrieval`` needs nothing but emvfm: plates are laid out as those of JUMP, and their features
are noise that compounds move (neither time nor memory depends on the values).
"""

from __future__ import annotations

import argparse
import os
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.document import Document
from benchmarks.timing import paired
from emvfm.provenance import peak_memory_mib
from emvfm.representations.pairing import Pairing
from emvfm.representations.ranking import rank_queries
from emvfm.representations.retrieval import mean_average_precision

COMMAND = "nox -s retrieval_speed"
WELLS, CONTROLS = 384, 64


@dataclass(frozen=True)
class Screen:
    """Plates of one map: 320 wells of compounds, some of them twice, and 64 of controls."""

    features: NDArray[np.float32]
    compound: NDArray[np.str_]
    plate: NDArray[np.int64]
    control: NDArray[np.bool_]

    @property
    def table(self) -> dict[str, list[str]]:
        """Facts of the wells."""
        return {
            "compound": self.compound.tolist(),
            "plate": self.plate.astype(str).tolist(),
            "role": np.where(self.control, "control", "treated").tolist(),
        }


def screen(plates: int, dimensions: int, seed: int = 0) -> Screen:
    """Lay out plates as the JUMP pilot has them: 306 compounds of which 14 are in two wells."""
    rng = np.random.default_rng(seed)
    wells = np.array([f"c{i % 306}" for i in range(WELLS - CONTROLS)] + ["DMSO"] * CONTROLS)
    compound = np.tile(wells, plates)
    effects = {name: rng.standard_normal(dimensions, dtype=np.float32) for name in np.unique(wells)}
    features = rng.standard_normal((len(compound), dimensions), dtype=np.float32)
    features += 0.2 * np.stack([effects[name] for name in compound])
    return Screen(features, compound, np.repeat(np.arange(plates), WELLS), compound == "DMSO")


def ours(own: Screen) -> NDArray[np.float64]:
    """Average precision of replicates against controls, as `bench retrieve --preset replicability`."""
    pairing = Pairing(own.table, positives="same compound", negatives="role=control")
    return rank_queries(own.features, pairing, queries=np.flatnonzero(~own.control)).average_precision


def _pairs_within(members: dict[object, list[int]], values: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pair the rows of one label whose other value agrees too, row by row with sets, as its matcher does."""
    found = []
    for rows in members.values():
        processed: set[int] = set()
        for row in rows:
            processed.add(row)
            found += [(row, other) for other in set(rows) - processed if values[row] == values[other]]
    return found


def _pairs_between(members: dict[object, list[int]], values: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pair the rows of different labels whose other value differs too, as its matcher does."""
    pairs: list[tuple[int, int]] = []
    for one, two in combinations(members, 2):
        pairs.extend(product(members[one], members[two]))
    table = np.array(pairs)
    table = np.unique(table[values[table[:, 0]] != values[table[:, 1]]], axis=0)
    return list(map(tuple, table))


def _similarities(
    features: NDArray[np.float32], pairs: NDArray[np.int32], batch: int = 20_000
) -> NDArray[np.float32]:
    found = np.empty(len(pairs), np.float32)

    def compute(start: int) -> None:
        x, y = (features[pairs[start : start + batch, side]] for side in (0, 1))
        x = x / np.linalg.norm(x, axis=1)[:, None]
        y = y / np.linalg.norm(y, axis=1)[:, None]
        found[start : start + batch] = (x * y).sum(axis=1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compute, range(0, len(pairs), batch)))
    return found


def theirs(own: Screen) -> NDArray[np.float64]:
    """The same in the way of copairs 0.5: pairs as lists, their similarities, one long sorted list of ranks.

    Written from what its matcher and its rank lists compute (cytomining/copairs, matching.py, average_precision.py).
    Positives are the same compound and the same reference, which every control has for itself and all treated wells
    share; negatives differ in both.
    """
    reference = np.where(own.control, np.arange(len(own.compound)), -1)
    members: dict[object, list[int]] = {}
    for row, name in enumerate(own.compound.tolist()):
        members.setdefault(name, []).append(row)
    kinds = (_pairs_within(members, reference), _pairs_between(members, reference))
    positive, negative = (np.fromiter(kind, np.dtype((np.int32, 2)), len(kind)) for kind in kinds)
    labels = np.repeat(np.array([1, 0], np.int32), [positive.size, negative.size])
    rows = np.concatenate([positive.ravel(), negative.ravel()])
    values = np.concatenate([np.repeat(_similarities(own.features, p), 2) for p in (positive, negative)])
    relevant = labels[np.lexsort([1 - values, rows])]
    asked, counts = np.unique(rows, return_counts=True)
    starts = np.r_[0, np.cumsum(counts)[:-1]]
    positives = np.add.reduceat(relevant, starts)
    hits = np.cumsum(relevant) - np.repeat(np.r_[0, np.cumsum(positives)[:-1]], counts)
    places = np.arange(1, len(relevant) + 1) - np.repeat(starts, counts)
    found = np.full(len(own.compound), np.nan)
    with np.errstate(invalid="ignore"):
        found[asked] = np.add.reduceat(hits / places * relevant, starts) / positives
    return found[~own.control]


def peak(function: Callable[[], object]) -> float:
    """Return the most MB that are allocated while a function runs."""
    tracemalloc.start()
    function()
    most = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return most


def against_copairs(page: Document, plates: int, dimensions: int, rounds: int) -> None:
    """Compare time, memory and values on plates laid out as the JUMP pilot."""
    own = screen(plates, dimensions)
    times = paired({"the peer": lambda: theirs(own), "emvfm": lambda: ours(own)}, rounds, pause=0.3)
    faster, slowest, fastest = times.ratio("the peer", "emvfm")
    apart = float(np.nanmax(np.abs(theirs(own) - ours(own))))
    most = {"the peer": peak(lambda: theirs(own)), "emvfm": peak(lambda: ours(own))}
    page.section(
        "Replicates against controls",
        f"{plates} plates of 384 wells, {dimensions} features; average precision of each treated well, {rounds} paired "
        "rounds. The other side finds pairs, measures their similarity and ranks them as copairs does; it is written "
        "after its source, since copairs itself was not at hand. Nulls are not part of it.",
    )
    page.table(
        ["what", "measured", "rounds", "expected"],
        [["copairs' way, s", times.median("the peer"), "", ""],
         ["emvfm, s", times.median("emvfm"), "", ""],
         ["times faster", faster, f"{slowest:.0f} – {fastest:.0f}", "≥ 20"],
         ["copairs' way, peak MB", f"{most['the peer']:.0f}", "", ""],
         ["emvfm, peak MB", f"{most['emvfm']:.0f}", "", ""],
         ["share of memory", most["emvfm"] / most["the peer"], "", "< 0.2"],
         ["largest difference of a value (float32 there)", f"{apart:.1e}", "", "a rank or two"]],
    )  # fmt: skip


def at_scale(page: Document, n: int, dimensions: int) -> None:
    """Score n profiles by compound across plates, exclusions and p-values included."""
    rng = np.random.default_rng(0)
    compounds = n // 8
    compound, plate = np.arange(n) % compounds, np.arange(n) // WELLS
    features = rng.standard_normal((n, dimensions), dtype=np.float32)
    features += 0.15 * rng.standard_normal((compounds, dimensions), dtype=np.float32)[compound]
    before, start = peak_memory_mib(), time.perf_counter()
    table = {"compound": compound.astype(str).tolist(), "plate": plate.astype(str).tolist()}
    ranking = rank_queries(features, Pairing(table, positives="same compound", exclude=["plate"]))
    ranked = time.perf_counter() - start
    found = mean_average_precision(ranking, table["compound"], draws=999, samples=200)
    whole = time.perf_counter() - start
    page.section(
        "Many profiles",
        f"{n} profiles of {dimensions} features, {compounds} compounds in eight wells each, candidates on the query's "
        "plate left out, all other profiles are negatives. Memory is that of the whole process.",
    )
    page.table(
        ["what", "measured", "expected"],
        [["average precision of all queries, s", f"{ranked:.0f}", ""],
         ["with nulls, p- and q-values of all compounds, s", f"{whole:.0f}", ""],
         ["peak memory, GB", (peak_memory_mib() or 0) * 2**20 / 1e9, "< 4"],
         ["of that before it began, GB", (before or 0) * 2**20 / 1e9, ""],
         ["mAP", found.overall.value, ""],
         ["of a random order", found.expected, ""]],
    )  # fmt: skip


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.retrieval", description=__doc__)
    parser.add_argument("--plates", type=int, default=7, help="plates of the comparison with copairs")
    parser.add_argument("--features", type=int, default=602, help="features of the comparison with copairs")
    parser.add_argument("--rounds", type=int, default=3, help="paired rounds of the comparison")
    parser.add_argument("--profiles", type=int, default=100_000, help="profiles of the large run")
    parser.add_argument("--dimensions", type=int, default=512, help="features of the large run")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of performance-retrieval.md")
    given = parser.parse_args()
    page = Document(
        "Performance: retrieval",
        COMMAND,
        "Candidates of a comparison take turns within one run. Features are noise that compounds move: neither time "
        "nor memory depends on their values.",
    )
    at_scale(page, given.profiles, given.dimensions)  # first, so that its peak is its own
    against_copairs(page, given.plates, given.features, given.rounds)
    page.write(given.out / "performance-retrieval.md")


if __name__ == "__main__":
    main()
