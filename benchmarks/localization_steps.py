"""What docs/results-localization.md is written from: the sets, and the commands that are run on them, once each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study import WEIGHTS, Study
from emvfm.localization.label_spaces import KAGGLE_NAMES
from emvfm.localization.simulation import simulate_embeddings
from emvfm.provenance import digest
from emvfm.workspace import read_json, write_json, write_text

__all__ = ["BENCHES", "PIXELS", "SEEDS", "Bench", "Work", "compose_all", "opencell"]

TINY = "vit_tiny_patch16_224_augreg_in21k_ft_in1k_fp16.safetensors"
PIXELS = "pixel:all"
EVERY = 8  # of the crops of bbbc021, which are alike by the hundred
SEEDS = (0, 1, 2)
PLATES = ("Week4_27801", "Week4_27821", "Week4_27861")
FIELDS = 4  # of each simulated protein


@dataclass(frozen=True)
class Bench:
    """One set of images: options of ``bench localize`` for what is asked, and of the backbones.

    Attributes
    ----------
    name
        Of the dataset, and a key of `TEXTS`.
    asked
        Labels, groups and splits.
    ways
        Of channels; none where images have one.
    sizes
        At which the first backbone is tested as well.
    audited
        Whether macro F1 is what runs are compared by, which is what ``bench audit`` reads.
    """

    name: str
    asked: tuple[str, ...]
    size: int
    ways: tuple[str, ...] = ()
    mapping: str = ""
    head: str = "logreg"
    sizes: tuple[int, ...] = ()
    audited: bool = True


BENCHES = (
    Bench("bbbc013", ("--train-split", "train", "--test-split", "test"), 56,
          ("replicate", "map", "random-map", "mean"), "red=gfp,green=dna", sizes=(112,)),
    Bench("bbbc021", ("--labels", "concentration_uM", "--split-by", "plate", "--group", "Image_FileName_DAPI"), 70,
          ("replicate", "map", "mean"), "red=cytoskeleton1,green=cytoskeleton2,blue=dna"),
    Bench("hpa", ("--labels", "stain", "--group", "id"), 112),
    Bench("hpa-protein", ("--group", "id", "--label-map", "NAMES", "--min-count", "5", "--score", "macro_ap",
                          "--thresholds", "fixed"), 224, audited=False),
)  # fmt: skip


class Work:
    """The commands of the page, each run once and remembered."""

    def __init__(self, study: Study, seeds: Sequence[int]) -> None:
        self.study, self.seeds = study, tuple(seeds)

    def once(self, *arguments: str) -> dict[str, Any]:
        """Return what a command recorded, after running it if it was not."""
        note = self.study.root / "localization" / f"{digest([*arguments])[:16]}.json"
        folder = Path(read_json(note)["folder"]) if note.is_file() else None
        if folder is None or not (folder / "metrics.json").is_file():
            _, found, _ = self.study.call(*arguments)
            folder = Path(found["folder"])
            write_json(note, {"arguments": list(arguments), "folder": str(folder)})
        return {**read_json(folder / "metrics.json"), "folder": str(folder)}

    def compose(self, name: str, *arguments: str) -> None:
        """Compose a dataset if it is not there."""
        if not (self.study.dataset(name) / "dataset.json").is_file():
            self.study.call("data", "compose", name, *arguments)

    def backbones(self, seeds: Sequence[int] | None = None) -> list[str]:
        """Return the options of all members of a grid, with an untrained twin a seed."""
        weights = self.study.shared / "weights"
        names = [
            f"dinov2_vits14,weights={weights / WEIGHTS}",
            f"timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k,weights={weights / TINY}",
            *(
                f"dinov2_vits14,untrained,init_seed={seed}"
                for seed in (self.seeds if seeds is None else seeds)
            ),
            PIXELS,
        ]
        return [part for name in names for part in ("--backbone", name)]

    def asked(self, bench: Bench) -> list[str]:
        """Return the options that say what is predicted."""
        return [str(self.names()) if part == "NAMES" else part for part in bench.asked]

    def grid(self, bench: Bench) -> dict[str, Any]:
        """Test all backbones by all ways of channels on one set."""
        ways = [part for way in bench.ways for part in ("--channels", way)]
        mapping = ["--map", bench.mapping] if bench.mapping else []
        return self.once(
            "bench", "localize", bench.name, *self.asked(bench), "--head", bench.head, "--input-size", str(bench.size),
            *self.backbones(), *ways, *mapping, "--against", PIXELS, "--panels", "0",
        )  # fmt: skip

    def headed(self, bench: Bench, head: Sequence[str]) -> dict[str, Any]:
        """Test one untrained twin and the others, channels joined and mapped, by another head."""
        ways = [part for way in bench.ways if way in ("replicate", "map") for part in ("--channels", way)]
        mapping = ["--map", bench.mapping] if bench.mapping else []
        return self.once(
            "bench", "localize", bench.name, *self.asked(bench), *head, "--input-size", str(bench.size),
            *self.backbones(self.seeds[:1]), *ways, *mapping, "--against", PIXELS, "--panels", "0",
        )  # fmt: skip

    def resized(self, bench: Bench, size: int) -> dict[str, Any]:
        """Test the first backbone with channels joined and mapped, at another input size."""
        return self.once(
            "bench", "localize", bench.name, *bench.asked, "--head", bench.head, "--input-size", str(size),
            *self.backbones()[:2], "--channels", "replicate", "--channels", "map", "--map", bench.mapping,
            "--panels", "0",
        )  # fmt: skip

    def names(self) -> Path:
        """Write the names of the targets of the Kaggle competition as a map of labels."""
        path = self.study.root / "kaggle-targets.csv"
        lines = ["target,name", *(f"{number},{name}" for number, name in enumerate(KAGGLE_NAMES))]
        write_text(path, "\n".join(lines) + "\n")
        return path


def _thinned(work: Work) -> Path:
    """Write the table of bbbc021 with every fourth crop of the plates that have treatments."""
    path = work.study.root / "bbbc021.csv"
    with (work.study.shared / "data" / "bbbc021" / "index.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["plate"] in PLATES]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[::EVERY])
    return path


def compose_all(work: Work) -> None:
    data = work.study.shared / "data"
    work.compose(
        "bbbc013", "--table", str(data / "bbbc013" / "index.csv"), "--images", str(data / "bbbc013" / "crops.npz"),
        "--channels", "gfp,dna", "--crop", "h,w", "--where", "label=CytoplasmicGFP,NuclearGFP,NoGFP",
        "--split-by", "well=B01,B12",
    )  # fmt: skip
    work.compose(
        "bbbc021", "--table", str(_thinned(work)), "--images", str(data / "bbbc021" / "crops.npz"),
        "--channels", "dna,cytoskeleton1,cytoskeleton2", "--split-by", "plate",
    )  # fmt: skip
    hpa = [
        "--table",
        str(data / "hpa-sample" / "labels.csv"),
        "--images",
        str(data / "hpa-sample" / "images"),
    ]
    work.compose("hpa", *hpa)
    work.compose(
        "hpa-protein", *hpa, "--where", "stain=protein_of_interest", "--labels", "protein_target_ids= "
    )


def opencell(work: Work, seed: int, **drawn: float) -> tuple[Path, np.ndarray]:
    """Write simulated embeddings of the proteins of OpenCell; return the table and the labels ``(N, L)``."""
    source = work.study.shared / "data" / "opencell" / "localization_annotations.csv"
    with source.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if float(row["annotation_grade"]) >= 2]
    proteins = sorted({row["target_name"] for row in rows})
    names = sorted({row["annotation_name"] for row in rows})
    labels = np.zeros((len(proteins), len(names)), np.int8)
    for row in rows:
        labels[proteins.index(row["target_name"]), names.index(row["annotation_name"])] = 1
    group = np.repeat(np.arange(len(proteins)), FIELDS)
    width = 64 if drawn else 24
    features = simulate_embeddings(labels[group], group, width=width, seed=seed, **(drawn or {"noise": 0.05}))
    kind = "signal" if drawn else "identity"
    path = work.study.root / f"opencell-{kind}-{seed}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path, features=features, protein=np.array(proteins)[group],
        id=np.array([f"{proteins[g]}-{i % FIELDS}" for i, g in enumerate(group)]),
    )  # fmt: skip
    return path, labels[group]
