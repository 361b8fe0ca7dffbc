"""docs/results-representations.md: what is found of compounds, targets and doses, beside what never looked.

``nox -s representations -- --shared FOLDER`` composes the cells if they are not there, writes the baselines of the
plates, runs the commands as a user would, and reads what they said. A command that was finished is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.document import Document
from benchmarks.representation_cells import TRAINED, CellRuns, run_cells, write_cells
from benchmarks.representation_plate_page import write_plates
from benchmarks.representation_plates import SHOWN, PlateRuns, run_plates
from benchmarks.representation_steps import Steps
from benchmarks.study import Study

COMMAND = "nox -s representations -- --shared FOLDER"


def _plates_show(runs: PlateRuns) -> list[str]:
    whole, targets = runs.replicate[SHOWN], runs.match[SHOWN]
    sphere, center, coral = (
        runs.replicate[f"{SHOWN}, {name}"]["overall"]["value"] for name in ("sphere", "center", "coral")
    )
    unseen = runs.unseen
    alone, same, other = (runs.position[question, SHOWN] for question in ("controls", "same", "other"))
    well = runs.replicate["well"]["overall"]["value"]
    return [
        (
            f"**Compounds are found again on other plates**: mAP {whole['overall']['value']:.3f} where a random order has "
            f"{whole['expected']:.3f}. Noise and constant features score what a random order does in every task."
        ),
        (
            "**Part of that is position.** Controls of one position find each other (R@1 "
            f"{alone['hits']['1']['value']:.3f}, by "
            f"chance {alone['expected_hits']['1']:.3f}); compounds in two wells score "
            f"{same['overall']['value']:.3f} at their "
            f"own position and {other['overall']['value']:.3f} at the other. Knowing the well and nothing else scores "
            f"{well:.3f}, so mAP of replicates on a shared map is no proof of biology by itself."
        ),
        (
            "**A gain by whitening can come from the controls.** Sphering lifts mAP from "
            f"{whole['overall']['value']:.3f} to "
            f"{sphere:.3f}; against controls that it was not fitted on, {unseen['none']['overall']['value']:.3f} becomes "
            f"{unseen['others']['overall']['value']:.3f}. The other corrections are "
            "fitted on the same controls and were not put to this test, nor was sphering with another "
            "`--eps` or `--shrinkage`. Taking off the mean of the controls, and no more (center), gives "
            f"{center:.3f}, and coral {coral:.3f}: these features had been normalised to the same controls before."
        ),
        (
            f"**Targets are found a little**: {targets['overall']['value']:.3f} where a random order has "
            f"{targets['expected']:.3f}. Row and column alone have "
            f"{runs.match['row and column']['overall']['value']:.3f}: targets are not dealt at random over the map. Nor are "
            "they independent, one compound has up to dozens, so that their number below a false discovery rate and their "
            "interval say more than they know."
        ),
        (
            "Three plates are one experiment: one map, one cell line; one plate stood for 24 h and two for 48 h, "
            "and two carry "
            "a note on staining (`experiment-metadata.tsv`). Intervals resample compounds, not plates."
        ),
    ]


def _cells_show(runs: CellRuns) -> list[str]:
    def first(name: str) -> str:
        return f"{runs.retrieve['treatment', name]['hits']['1']['value']:.3f}"

    names = [name for task, name in runs.retrieve if task == "treatment"]
    dose = [
        name
        for name in names
        if (runs.retrieve["dose", name]["normalised"]["low"] or 0) > 1e-6 and name != "random:onehot=well"
    ]
    trained = " and ".join(f"{name} {first(name)}" for name in TRAINED.values())
    return [
        (
            "**The cells are an easy set and cannot rank backbones.** Brightness carries the treatment: statistics of "
            f"intensity alone have R@1 {first('pixel:intensity')} ({trained}, a random order "
            f"{runs.retrieve['treatment', names[0]]['expected_hits']['1']:.3f}). Backbones see each crop "
            "normalised by itself, "
            "so that brightness is taken from them and not from the baselines."
        ),
        (
            "**Treatment and well are one word for the same thing**: `random:onehot=well` scores 1 without "
            "looking. Whatever a "
            "well does to its cells counts as treatment here."
        ),
        (
            f"**Dose** is told from a random order by {', '.join(dose) or 'nothing'} (lower end of the interval "
            "above nought), "
            "on 8 wells of 3 plates, and 5 µM is on two of them."
        ),
        (
            "14 wells and plates carry every interval, and 3 plates with the drug. More crops would not narrow "
            "them; verdicts "
            "say what these wells say. Layers were chosen within the set, and nothing was tuned on another."
        ),
        (
            "Similarity of neighbours is by cosine of embeddings as they are: with other corrections, heads or "
            "crops the order "
            "may be another."
        ),
    ]


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
    document.section("What this shows and what it cannot")
    document.bullets([*_plates_show(plates), *_cells_show(cells)])
    document.write(page)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument(
        "--root", type=Path, default=Path("emvfm-workspace/representations"), help="workspace"
    )
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
