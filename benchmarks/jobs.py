"""Jobs and readers of a store, each in a fork of its own, and what an undisturbed one gives.

The process that starts them never computes and never opens a store, so that a fork begins with nothing
but modules.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import timm  # noqa: F401 - what takes seconds to load is loaded before the forks
import torch
import zarr
from PIL import Image

from benchmarks.performance import write_images
from emvfm.backbones.loading import load_backbone
from emvfm.backbones.preprocess import Preprocess
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset
from emvfm.extraction.config import EmbedConfig
from emvfm.extraction.pipeline import embed_dataset
from emvfm.provenance import sha256_file
from emvfm.store.care import find_stores, verify
from emvfm.store.view import Embeddings
from emvfm.workspace import Workspace

OPTIONS = EmbedConfig(backbone="timm:test_vit", untrained=True, device="cpu", precision="float32")
SIDES = (96, 144)  # two patch grids
FORK = multiprocessing.get_context("fork")

Content = dict[str, str]  # digest of all that is read of an image, by its SHA-256; and of the sample table


# ---------------------------------------------------------------------- jobs and readers


def make_dataset(folder: Path, n: int, seed: int = 0) -> Dataset:
    """Write `n` noise images with masks, half of each side, that take turns."""
    samples, rng = [], np.random.default_rng(seed)
    for side in SIDES:
        (folder / str(side)).mkdir(parents=True)
        for sample in write_images(folder / str(side), n // len(SIDES), side, seed + side).samples:
            mask = f"{side}/mask-{sample.image}"
            pixels = rng.integers(0, 2, (side, side), dtype=np.uint8) * np.uint8(255)
            Image.fromarray(pixels).save(folder / mask, compress_level=1)
            samples.append(replace(
                sample, id=f"{sample.id}-{side}", image=f"{side}/{sample.image}", mask=mask,
                mask_sha256=sha256_file(folder / mask),
            ))  # fmt: skip
    return Dataset("noise", folder, tuple(sorted(samples, key=lambda s: s.id)), {})


def _name(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def names(dataset: Dataset, root: Path) -> dict[str, str]:
    """Return the SHA-256 of each image's file by the digest of the pixels that the model gets."""
    preprocess = Preprocess.for_backbone(load_backbone(OPTIONS, Workspace(root)).spec, OPTIONS)
    pixels = {s.image_sha256: preprocess.prepare(read_image(dataset.image_path(s))) for s in dataset.samples}
    return {_name(prepared.pixels): image for image, prepared in pixels.items()}


def embed(dataset: Dataset, root: Path, log: Path, start: Barrier | None = None, wait: float = 0.0) -> None:
    """Embed `dataset` as a job does; each image that goes into the model adds a line to `log`."""
    torch.set_num_threads(1)
    backbone = load_backbone(OPTIONS, Workspace(root))
    compute, lines = backbone.tokens, os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def logged(images: torch.Tensor, layers: Sequence[int] | None = None) -> Any:
        for image in images:
            os.write(lines, f"{_name(image.numpy())}\n".encode())
        return compute(images, layers)

    backbone.tokens = logged  # type: ignore[method-assign]
    if start is not None:
        start.wait()
        time.sleep(wait)
    try:
        embed_dataset(dataset, backbone, OPTIONS, Workspace(root))
    except BaseException:
        log.with_suffix(".error").write_text(traceback.format_exc())
        raise


def computed(log: Path) -> list[str]:
    """Return the digests of the pixels that went into the model, in order."""
    return log.read_text().split() if log.is_file() else []


def _digest(parts: Sequence[Any]) -> str:
    """Return the digest of arrays; those that are empty of values say so."""
    arrays = [np.asarray(part) for part in parts]
    if not all(array.any() and np.isfinite(array).all() for array in arrays):
        return "zeros or NaN"
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def read(dataset: Dataset, root: Path) -> Content:
    """Return what a reader gets through emvfm."""
    embeddings = Embeddings(find_stores(root / "store")[0], dataset)
    pooled = [embeddings.image_embeddings("mean+cls", layer) for layer in range(len(embeddings.layers))]
    return {
        sample.image_sha256: _digest(
            [embeddings.patches(i), embeddings.valid(i), embeddings.foreground(i), *(p[i] for p in pooled)]
        )
        for i, sample in enumerate(embeddings.samples)
    }


def read_plainly(dataset: Dataset, root: Path) -> Content:
    """Return what a stranger gets with Zarr alone, following the sample tables."""
    (folder,) = (path.parent for path in (root / "store").glob("[0-9a-f]*/zarr.json"))
    group, found = zarr.open_group(folder, mode="r"), {}
    grids = {k: {n: a[:] for n, a in v.arrays()} for k, v in sorted(group["grids"].groups())}  # type: ignore
    wanted = {s.image_sha256: s.id for s in dataset.samples}
    for _, table in group["datasets"].groups():  # type: ignore[union-attr]
        columns = {k: v[:].tolist() for k, v in table.arrays()}  # type: ignore[index,union-attr]
        for i, image in enumerate(columns["image"]):
            arrays, row = grids[columns["grid"][i]], columns["row"][i]
            stated = arrays["image"][row] == image and columns["id"][i] == wanted.get(image)
            values = _digest([arrays[name][row] for name in ("patches", "cls", "mean", "valid")])
            found[image] = values if stated else "another image"
        rest = [columns[name] for name in ("id", "split", "domain", "volume", "z")]
        fractions = [np.asarray(table[f"foreground/{grid}/fraction"][:]) for grid in grids]  # type: ignore
        whole = _digest(fractions) != "zeros or NaN"
        text = json.dumps([rest, [values.tolist() for values in fractions]])
        found[f"table of {len(columns['id'])}"] = (
            _name(np.frombuffer(text.encode(), np.uint8)) if whole else "zeros or NaN"
        )
    return found


@dataclass(frozen=True)
class Failure:
    """The error with which a fork ended: its class and its message."""

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def _report(send: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")  # Zarr's, of what is damaged
    try:
        send.send(function(*arguments))
    except BaseException as error:  # it is the result
        send.send(Failure(type(error).__name__, str(error)))


def forked(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `function` returns in a fork of this process, or the `Failure` it ends with."""
    receive, send = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_report, args=(send, function, arguments))
    process.start()
    send.close()
    result = receive.recv()
    process.join()
    return result


def _quietly(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        function(*arguments)
    except BaseException:  # what a reader finds afterwards is what counts
        os._exit(1)


def begin(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Start a fork that runs `function`; an error is its exit code 1."""
    process = FORK.Process(target=_quietly, args=(function, arguments))
    process.start()
    return process


@dataclass(frozen=True)
class Reference:
    """An uninterrupted job of one process: what every other must agree with."""

    dataset: Dataset
    root: Path
    names: dict[str, str]
    content: Content
    plain: Content
    files: set[str]
    seconds: float

    @classmethod
    def make(cls, folder: Path, n: int) -> Reference:
        """Write images under `folder` and embed them; the time is the median of three jobs."""
        dataset, seconds = make_dataset(folder / "images", n), []
        for i in range(3):
            root, since = folder / f"reference{i}", time.perf_counter()
            process = begin(embed, dataset, root, folder / f"reference{i}.log")
            process.join()
            seconds.append(time.perf_counter() - since)
            assert process.exitcode == 0
        content, plain = forked(read, dataset, root), forked(read_plainly, dataset, root)
        assert len(content) == n == len(set(content.values())), content
        assert len(plain) == n + 1, plain
        found = forked(names, dataset, root)
        return cls(dataset, root, found, content, plain, visible(root), float(np.median(seconds)))

    def problems(self, root: Path) -> list[str]:
        """Return in what a store differs from this one."""
        found = forked(verify_all, root)
        wrong = [f"verify: {found}"] if found else list[str]()
        for read_it, expected in ((read, self.content), (read_plainly, self.plain)):
            got = forked(read_it, self.dataset, root)
            if got != expected:
                how = "through emvfm" if read_it is read else "through Zarr"
                wrong.append(f"{how}: {got if isinstance(got, Failure) else 'other values'}")
        if visible(root) != self.files:
            wrong.append("other files: " + ", ".join(sorted(visible(root) ^ self.files)[:3]))
        return [shorten(line, root) for line in wrong]


def shorten(text: str, root: Path) -> str:
    """Return `text` with paths from the store's folder on."""
    for folder in (root / "store").glob("[0-9a-f]*"):
        text = text.replace(f"{folder}/", "").replace(f"{folder.name}/", "").replace(str(folder), "store")
    return text.replace("`", "'")


def verify_all(root: Path, repair: bool = False) -> dict[str, str]:
    """Return what `emvfm store verify` finds in the only store of a workspace."""
    return verify(find_stores(root / "store")[0], repair=repair)


def visible(root: Path) -> set[str]:
    """Return the files of the store that have no hidden name on their way: what a reader may open."""
    found = (path.relative_to(root / "store") for path in (root / "store").rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)}


def finished(root: Path) -> set[str]:
    """Return the images of the finished shards, from their manifests alone."""
    paths = (root / "store").glob("[0-9a-f]*/manifest/*/*.json")
    return {image for path in paths for image in json.loads(path.read_text())["images"]}
