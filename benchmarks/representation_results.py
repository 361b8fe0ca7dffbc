"""docs/results-representations.md: what is found of compounds, targets and doses, beside what never looked.

``nox -s representations -- --shared FOLDER`` composes the cells if they are not there, writes the baselines of the
plates, runs the commands as a user would, and reads what they said. A command that was finished is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.document import Document
from benchmarks.representation_cells import CellRuns, run_cells, write_cells
from benchmarks.representation_plates import PlateRuns, run_plates, write_plates
from benchmarks.representation_steps import Steps
from benchmarks.study import Study

COMMAND = "nox -s representations -- --shared FOLDER"

_SHOWS = """
- **Replicates of a compound are found on other plates, targets hardly.** The first is what a shared plate map lets one
  find by position as well; the table of positions says how much of it there is.
- **Noise and constant features score what a random order does**, by every command, and no correction changes that.
- **The cells are an easy set.** It cannot rank backbones: what counts brightness alone does as well as or better than
  what was trained, and each treatment has one well of its own, so that *treatment* and *well* are one word for the
  same thing. `random:onehot=well` scores 1 without looking.
- **14 wells and plates, and 3 plates with the drug, carry every interval of the cells.** More crops of a well would
  not make them narrower. Verdicts say what these wells say, not what cells in general do.
- **Three plates are one experiment**: the same map, one cell line, of which one plate was fixed after 24 h and two
  after 48 h (`experiment-metadata.tsv`). Intervals resample compounds, not plates.
- Nothing here was tuned on another set; layers were chosen within, by folds of plates.
"""


def write(plates: PlateRuns, cells: CellRuns, page: Path, command: str) -> None:
    """Write the page and its pictures from finished runs."""
    document = Document(
        "Results: what representations learn",
        command,
        "Two sets: 1 152 wells of the JUMP pilot as CellProfiler describes them, and crops of single cells of BBBC021 "
        "as two small backbones and simpler things see them. Every row stands beside what never looked at an image. "
        "What rows and columns mean: [What representations learn](representations.md) and [Baselines](baselines.md). "
        "Brackets are 95 % intervals.",
    )
    write_plates(document, plates, page.parent / "images")
    write_cells(document, cells, page.parent / "images")
    document.section("What this shows and what it cannot", _SHOWS.strip())
    document.write(page)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--root", type=Path, default=Path("emvfm-workspace"), help="workspace")
    parser.add_argument("--page", type=Path, default=Path("docs/results-representations.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of untrained networks")
    parser.add_argument("--crops", type=int, default=15, help="of every well and plate")
    parser.add_argument("--jobs", type=int, default=1, help="commands at a time")
    given = parser.parse_args(arguments)
    steps = Steps(Study(given.shared.resolve(), given.root.resolve(), given.jobs, {}))
    changed = [f"--crops {given.crops}"] * (given.crops != 15)
    changed += [f"--seeds {' '.join(map(str, given.seeds))}"] * (given.seeds != [0, 1, 2])
    plates, cells = run_plates(steps), run_cells(steps, given.seeds, given.crops)
    write(plates, cells, given.page, " ".join([COMMAND, *changed]))


if __name__ == "__main__":
    main()
