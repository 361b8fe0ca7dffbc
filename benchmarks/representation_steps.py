"""The inputs and commands behind docs/results-representations.md; a command that was finished is not run again."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study import WEIGHTS, Study
from emvfm.provenance import digest, sha256_file
from emvfm.workspace import write_bytes, write_json, write_text

__all__ = ["BASELINES", "CORRECTIONS", "Steps", "cell_backbones", "cells", "plate_baselines", "plates"]

TINY = "vit_tiny_patch16_224_augreg_in21k_ft_in1k_fp16.safetensors"
CORRECTIONS = ("none", "center", "sphere", "tvn", "pca-cs", "coral", "combat")
BASELINES = ("noise", "constant", "well", "row and column")
PLATES = ("BR00117010", "BR00117012", "BR00117024")
CELLS = "bbbc021"
_NOISE = 64


@dataclass
class Steps:
    """Commands of one study, some at a time, each result kept in ``steps/`` of the workspace."""

    study: Study

    def run(self, *arguments: str) -> dict[str, Any]:
        """Return what a command says, from an earlier call where its folder of results is still there."""
        files = {part: sha256_file(path) for part in arguments if (path := Path(part)).is_file()}
        path = self.study.root / "steps" / f"{digest([list(arguments), files])[:16]}.json"
        if path.is_file():
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if Path(kept.get("folder", self.study.root)).exists():
                return kept
        _, found, _ = self.study.call(*arguments)
        write_json(path, found)
        print(" ".join(arguments[:2]), Path(found.get("folder", "")).name, file=sys.stderr, flush=True)
        return found

    def all(self, wanted: Mapping[Any, Sequence[str]]) -> dict[Any, dict[str, Any]]:
        """Run commands by name, `study.jobs` at a time."""
        with ThreadPoolExecutor(self.study.jobs) as pool:
            waiting = {name: pool.submit(self.run, *arguments) for name, arguments in wanted.items()}
            try:
                for future in as_completed(waiting.values()):
                    future.result()
            except BaseException:  # what has begun is finished and kept, the rest would be in vain
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return {name: future.result() for name, future in waiting.items()}


def plates(study: Study) -> list[str]:
    """Return the files of the three plates."""
    return [str(study.shared / "data" / "jump-cp-pilot" / f"{plate}.csv.gz") for plate in PLATES]


def _one_hot(values: Sequence[str]) -> np.ndarray[Any, Any]:
    return (np.asarray(values)[:, None] == np.unique(values)).astype(np.int8)


def _knowing_nothing(name: str, wells: Sequence[str], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if name == "noise":
        return rng.normal(size=(len(wells), _NOISE)).round(4)
    if name == "constant":
        return np.ones((len(wells), _NOISE), np.int8)
    if name == "well":
        return _one_hot(wells)
    return np.hstack([_one_hot([well[0] for well in wells]), _one_hot([well[1:] for well in wells])])


def plate_baselines(study: Study) -> dict[str, list[str]]:
    """Write tables with the facts of the plates and features that no image entered; same file names, so same rows."""
    found: dict[str, list[str]] = {name: [] for name in BASELINES}
    rng = np.random.default_rng(0)
    for source in map(Path, plates(study)):
        with gzip.open(source, "rt", encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        facts = [name for name in rows[0] if name.startswith("Metadata_")]
        for name in BASELINES:
            path = study.root / "tables" / name.replace(" ", "-") / source.name
            features = _knowing_nothing(name, [row["Metadata_Well"] for row in rows], rng)
            text = io.StringIO(newline="")
            writer = csv.writer(text)
            writer.writerow([*facts, *(f"f{i}" for i in range(features.shape[1]))])
            writer.writerows(
                [*(row[fact] for fact in facts), *own]
                for row, own in zip(rows, features.tolist(), strict=True)
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, gzip.compress(text.getvalue().encode(), mtime=0))
            found[name].append(str(path))
    return found


def cells(study: Study, each: int) -> dict[str, int]:
    """Compose `each` crops of every well and plate, drawn by seed 0; return what is there, by treatment."""
    source = study.shared / "data" / "bbbc021"
    with (source / "index.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    wells: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        wells.setdefault(f"{row['plate']} {row['well']}", []).append(row)
    rng, kept = np.random.default_rng(0), []
    for unit in sorted(wells):
        own = wells[unit]
        for i in sorted(rng.choice(len(own), min(each, len(own)), replace=False)):
            row = own[i]
            drug = row["compound"] != "DMSO"
            treatment = f"{float(row['concentration_uM']):g} uM" if drug else "DMSO"
            kept.append([row["row"], row["plate"], row["well"], row["compound"], treatment, unit])
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["row", "plate", "well", "compound", "treatment", "unit"], *kept])
    table = study.root / "tables" / "bbbc021.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    write_text(table, text.getvalue())
    record = study.dataset(CELLS) / "dataset.json"
    if record.is_file() and sha256_file(table) not in record.read_text(encoding="utf-8"):
        raise SystemExit(f"{record}: a dataset of other cells; take another --root")
    if not record.is_file():
        images = ["--images", str(source / "crops.npz"), "--channels", "blue:DNA,green,red"]
        study.call("data", "compose", CELLS, "--table", str(table), *images)
    return {name: sum(row[4] == name for row in kept) for name in sorted({row[4] for row in kept})}


def cell_backbones(study: Study, seeds: Sequence[int]) -> dict[str, str]:
    """Return what looks at the cells, by name, as ``NAME,option=value,…``."""
    weights = study.shared / "weights"
    small, tiny = "dinov2_vits14", "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    found = {"ViT-S/14 (imgfocus)": f"{small},weights={weights / WEIGHTS}"}
    found |= {f"ViT-S/14 untrained, seed {seed}": f"{small},untrained,init_seed={seed}" for seed in seeds}
    found["ViT-S/14 (imgfocus), shuffled"] = f"{found['ViT-S/14 (imgfocus)']},shuffle_weights"
    found["ViT-Ti/16"] = f"{tiny},weights={weights / TINY}"
    found |= {f"ViT-Ti/16 untrained, seed {seed}": f"{tiny},untrained,init_seed={seed}" for seed in seeds}
    found |= {
        name: name
        for name in (
            "pixel:all",
            "pixel:intensity",
            "random:noise",
            "random:onehot=plate",
            "random:onehot=well",
        )
    }
    return found


def flags(backbone: str) -> list[str]:
    """Return ``NAME,option=value,…`` as options of a command that takes one backbone."""
    name, *parts = backbone.split(",")
    found = ["--backbone", name]
    for part in parts:
        key, equals, value = part.partition("=")
        found += [f"--{key.replace('_', '-')}", *([value] if equals else [])]
    return found
