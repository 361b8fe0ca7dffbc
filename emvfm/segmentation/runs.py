"""The folder of a training run: named by what decides its result, made once, finished or resumable.

::

    runs/<slug>-<identity>/
      config.yaml       resolved options; ``emvfm train --config`` repeats the run
      provenance.json   software, machine, digests of data and weights
      status.json       running | finished
      history.jsonl     one line a validation
      steps.csv         one line a step
      metrics.json      {"train": …, "eval": {test set: …}}
      checkpoints/      best.safetensors (head or U-Net), adapter/ (LoRA), backbone.safetensors (--full),
                        state.pt while unfinished
      figures/
      tensorboard/      if asked for
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emvfm.config import dump_yaml, read_yaml, to_dict
from emvfm.datasets.manifest import Dataset
from emvfm.errors import CorruptError, UsageError
from emvfm.provenance import digest, environment
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.recipe import adaptation_of, unused
from emvfm.workspace import Workspace, atomic_folder, read_json, write_json, write_text

__all__ = ["RunFolder", "ensure_run", "run_identity"]

#: Options that can't change the result.
_IRRELEVANT = ("device", "data", "weights", "shuffle_weights", "tensorboard")


@dataclass(frozen=True)
class RunFolder:
    """Reading and writing of one run's files."""

    path: Path

    @property
    def finished(self) -> bool:
        return read_json(self.path / "status.json")["state"] == "finished"

    @property
    def config(self) -> TrainConfig:
        """The resolved options of the run."""
        from emvfm.config import resolve

        return resolve(TrainConfig, flags=read_yaml(self.path / "config.yaml"))

    @property
    def provenance(self) -> dict[str, Any]:
        return read_json(self.path / "provenance.json")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> dict[str, Any]:
        path = self.path / "metrics.json"
        return read_json(path) if path.is_file() else {}

    def update_metrics(self, section: str, values: Mapping[str, Any]) -> None:
        """Replace one section of ``metrics.json``."""
        write_json(self.path / "metrics.json", {**self.metrics, section: dict(values)})

    @property
    def steps_path(self) -> Path:
        return self.path / "steps.csv"

    def set_state(self, state: str) -> None:
        write_json(self.path / "status.json", {"state": state})

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write all validations so far; whole, so that a resumed run never repeats a line."""
        write_text(self.path / "history.jsonl", "".join(json.dumps(dict(row)) + "\n" for row in rows))

    def history(self) -> list[dict[str, Any]]:
        path = self.path / "history.jsonl"
        if not path.is_file():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except json.JSONDecodeError as error:
            raise CorruptError("not a history", where=path, got=error) from None


def run_identity(config: TrainConfig, datasets: Sequence[Dataset], store_key: str, patch: int) -> str:
    """Return the digest of all that decides the trained weights: options, rows of the data, backbone."""
    dropped = {*_IRRELEVANT, *unused(config)}  # one frozen run serves as the start of several
    options = {key: value for key, value in to_dict(config).items() if key not in dropped}
    return digest(
        {"options": options, "data": [d.split("train", "val").digest for d in datasets],
         "embeddings": store_key, "patch": patch}
    )  # fmt: skip


def _slug(config: TrainConfig, datasets: Sequence[Dataset], identity: str) -> str:
    """Return a readable name that is one path component, whatever the names of data and backbone are."""
    adaptation = adaptation_of(config)
    names = "+".join(d.name for d in datasets)[:60]
    slug = f"{names}-{config.backbone[:60]}-{adaptation}-s{config.seed}-{identity[:10]}"
    return re.sub(r"[^A-Za-z0-9._+-]", "_", slug).lstrip("._+-")


def ensure_run(
    workspace: Workspace,
    config: TrainConfig,
    datasets: Sequence[Dataset],
    identity: str,
    facts: Mapping[str, Any],
) -> RunFolder:
    """Return the folder of the run with this identity, made if it is not there.

    `facts` go into ``provenance.json`` beside the environment.
    """
    path = workspace.runs / _slug(config, datasets, identity)
    if not (path / "config.yaml").is_file():
        try:
            with atomic_folder(path, replace=path.exists()) as folder:
                write_text(folder / "config.yaml", dump_yaml(to_dict(config)))
                data = [{"name": d.name, "digest": d.digest, "audit": d.meta.get("audit")} for d in datasets]
                record = {"identity": identity, "data": data, **facts, "environment": environment()}
                write_json(folder / "provenance.json", record)
                write_json(folder / "status.json", {"state": "running"})
                (folder / "checkpoints").mkdir()
                (folder / "figures").mkdir()
        except (OSError, UsageError):
            if not (path / "config.yaml").is_file():  # else another process made it meanwhile
                raise
    return RunFolder(path)
