"""From a run, an input and options to files: what exists is not made again, what was interrupted goes on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emvfm.datasets.volumes import split_inner
from emvfm.errors import CorruptError, EmvfmError, MissingError, UsageError
from emvfm.provenance import digest, sha256_file
from emvfm.segmentation.checkpoints import Segmenter
from emvfm.segmentation.chosen_threshold import validation_threshold
from emvfm.segmentation.prediction import Judge, Verdict, fill, input_sizes, plan_of, scratch_dtype
from emvfm.segmentation.prediction_config import WHAT, PredictConfig
from emvfm.segmentation.prediction_files import FORMATS
from emvfm.segmentation.prediction_input import Item, Source, find_source, input_identity
from emvfm.segmentation.prediction_scratch import Scratch, open_scratch
from emvfm.segmentation.prediction_values import Values
from emvfm.segmentation.scale_check import scale_remarks
from emvfm.workspace import Workspace, read_json, write_json

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Prediction", "predict"]

#: Largest plane that is split by watershed, in px: it is in memory as a whole, several times.
MOST_SPLIT = 2**24
_ENDINGS = {".tif": "tiff", ".tiff": "tiff", ".zarr": "ome-zarr"}


@dataclass(frozen=True)
class Prediction:
    """What was written.

    Attributes
    ----------
    out
        File or folder.
    record
        What ``<out>.json`` keeps: run, input, options, and of each image its share of foreground, its number
        of instances, and how unlike the training images it is; remarks on pixel sizes.
    fresh
        False if it was there already.
    """

    out: Path
    record: dict[str, Any]
    fresh: bool

    def to_json(self) -> dict[str, Any]:
        """Return the record with the place, as plain JSON values."""
        return {"out": str(self.out), "fresh": self.fresh, **self.record}


def _format(out: Path, config: PredictConfig, many: bool) -> str:
    """Return the format by options and ending, which must agree; a folder of several files has no ending."""
    by_ending = _ENDINGS.get(out.suffix.lower())
    if many:
        if by_ending is not None:
            raise UsageError(
                "several files need a folder", where=f"--out {out}", expected="a name without .tif or .zarr"
            )
        return "tiff" if config.format == "auto" else config.format
    if by_ending is None or config.format not in ("auto", by_ending):
        raise UsageError(
            "the output's name does not end as its format does",
            where=f"--out {out}",
            got=out.suffix or "no ending",
            expected={"auto": ".tif or .ome.zarr"}.get(config.format) or FORMATS[config.format][0],
        )
    return by_ending


def _check(source: Source, config: PredictConfig) -> None:
    if not config.what or len(set(config.what)) < len(config.what) or not {*config.what} <= {*WHAT}:
        raise UsageError(
            "not a choice of outputs",
            where="--what",
            got=", ".join(config.what) or "none",
            expected=f"{', '.join(WHAT)}, each once",
        )
    if "instances" not in config.what or config.instances != "watershed":
        return
    if config.connect == "volume":
        raise UsageError("the watershed works on slices", where="--connect volume", todo="take components")
    for item in source.items:
        if item.height * item.width > MOST_SPLIT:
            raise UsageError(
                "too large for the watershed",
                where=item.path,
                got=f"{item.height} x {item.width} px",
                expected=f"at most {MOST_SPLIT} px",
                todo="take --instances components",
            )


def _place(what: str, item: Item, source: Source, config: PredictConfig, ending: str) -> Path:
    """Return where a file goes below the output, ``.`` for the output itself."""
    several = len(config.what) > 1
    if not source.folder:
        return Path(what + ending) if several else Path()
    return Path(what) / (item.name + ending) if several else Path(item.name + ending)


def _write(
    result: Path,
    source: Source,
    scratch: Scratch,
    config: PredictConfig,
    threshold: float,
    key: str,
    kind: str,
    verdicts: Sequence[Verdict],
) -> list[dict[str, Any]]:
    """Write all files below `result` and return what is known of each image."""
    if result.is_dir():  # of a process that was killed while it wrote
        shutil.rmtree(result)
    result.unlink(missing_ok=True)
    ending, write = FORMATS[kind]
    images, first = [], 0
    for n, item in enumerate(source.items):
        values = Values(item, first, scratch, config, threshold)
        for what in config.what:
            place = _place(what, item, source, config, ending)
            path = result / place
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, values.picture(what, digest([key, what, n])))
        images.append(
            {
                "name": item.name,
                "shape": [item.planes, *item.size] if item.stack else list(item.size),
                "pixel_size_nm": list(item.spacing),
                "foreground": values.foreground(),
                "instances": values.instances if "instances" in config.what else None,
                "ood": verdicts[n].to_json() if verdicts else None,
            }
        )
        first += item.planes
    return images


def _spare_inputs(out: Path, source: Source) -> None:
    """Refuse an output in whose place the input would be lost."""
    for item in source.items:
        if split_inner(item.path)[0].resolve().is_relative_to(out.resolve()):
            raise UsageError("the output is where the input is", where=out, todo="choose another name")


def _settled(out: Path, record: Path, key: str, overwrite: bool) -> Prediction | None:
    """Return this very prediction if it is there; None if there is room for it.

    Raises
    ------
    UsageError
        Something else is there and may not be replaced.
    """
    if not out.exists():
        return None
    try:
        known = read_json(record)
    except (CorruptError, MissingError):
        known = None
    made = isinstance(known, dict) and "key" in known
    if made and known["key"] == key:
        return Prediction(out, known, False)
    if not overwrite:
        raise UsageError(
            "something else is there", where=out, todo="choose another name, remove it, or give --overwrite"
        )
    if out.is_dir() and not made:
        raise UsageError(
            "a folder that is no prediction is not replaced", where=out, todo="remove it yourself"
        )
    return None


def _put(result: Path, out: Path) -> None:
    """Give the result its name; what is there makes way."""
    if out.is_dir():
        old = result.with_name("old")
        out.rename(old)
    result.replace(out)


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EmvfmError(
            "not enough space for unfinished values", where=folder, got=f"{free} bytes", expected=f"{needed}"
        )


def _threshold(
    segmenter: Segmenter, config: PredictConfig, workspace: Workspace, console: Console | None
) -> tuple[float, str | None]:
    """Return the threshold and, if it was not given, the slices that chose it."""
    if config.threshold != "validation":
        return float(config.threshold), None
    tta = "turns" if config.tta else "none"
    chosen = validation_threshold(segmenter, workspace, tta=tta, console=console)
    return chosen.value, chosen.chosen_on


def predict(
    segmenter: Segmenter,
    reference: str,
    out: Path,
    config: PredictConfig,
    workspace: Workspace,
    *,
    judge: Judge | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Prediction:
    """Predict on an input of any size and write what is asked for.

    An interrupted prediction goes on where it was, and gives the same bytes; one that is there is not repeated.

    Parameters
    ----------
    segmenter
        Of `load_run`.
    reference
        Image, folder of images, stack, volume, or dataset of the workspace; see `find_source`.
    out
        File, or folder where there are several files. ``<out>.json`` is written beside it.
    judge
        Tells inputs unlike the training images; nobody does without it.

    Raises
    ------
    UsageError
        Options do not fit the input, something else is at `out`, another process is at it, or the run's
        validation slices were to choose the threshold and can't.
    MissingError
        There is no such input.
    CorruptError
        A file of the input is damaged.
    RefusedError
        The input looks unlike the training images and `config` refuses such, or its pixels are not square.
    """
    out = out.expanduser().absolute()
    source = find_source(reference, workspace, config.pixel_size)
    _check(source, config)
    kind = _format(out, config, source.folder or len(config.what) > 1)
    preprocess, model = segmenter.preprocess, segmenter.model
    sizes = input_sizes(source, preprocess)
    plan_of(sizes[0], config, preprocess.patch)  # impossible windows fail here
    dtype = scratch_dtype(source, sizes, config)
    backbone = model.backbone
    values_key = digest(
        {
            "input": input_identity(source),
            "run": segmenter.run.provenance.get("identity"),
            "head": sha256_file(segmenter.run.checkpoints / "best.safetensors"),
            "backbone": None if backbone is None else [backbone.weights_digest, backbone.adapter_digest],
            "computed": [model.device.type, None if backbone is None else backbone.precision],
            "options": [config.tile, config.overlap, config.tta],
            "values": [dtype.name, config.threshold if dtype.name == "uint8" else None],
            "judge": None if judge is None else judge.key,
            "version": 2,
        }
    )
    form = [
        config.what,
        config.threshold,
        kind,
        config.depth,
        config.instances,
        config.connect,
        config.min_size,
    ]
    key = digest([values_key, form])
    record_path = out.with_name(out.name + ".json")
    _spare_inputs(out, source)
    if (found := _settled(out, record_path, key, overwrite)) is not None:
        return found
    out.parent.mkdir(parents=True, exist_ok=True)
    with open_scratch(out) as folder:
        if (found := _settled(out, record_path, key, overwrite)) is not None:  # made by another meanwhile
            return found
        threshold, chosen_on = _threshold(segmenter, config, workspace, console)
        every = [size for size, item in zip(sizes, source.items, strict=True) for _ in range(item.planes)]
        scratch = Scratch(folder, values_key, every, dtype)
        _require_space(folder, scratch.missing)
        if console is not None and scratch.journal.plane + scratch.journal.row:
            console.print(f"going on with an interrupted prediction: {scratch.journal.plane} planes are done")
        verdicts = fill(segmenter, source, scratch, config, threshold, judge=judge, console=console)
        result = folder / "result"
        images = _write(result, source, scratch, config, threshold, key, kind, verdicts)
        record = {
            "key": key,
            "run": segmenter.run.path.name,
            "model": segmenter.label,
            "input": reference,
            "what": list(config.what),
            "format": kind,
            "threshold": threshold,
            "chosen_on": chosen_on,
            "windows": {"tile": config.tile, "overlap": config.overlap, "tta": config.tta},
            "remarks": scale_remarks(
                segmenter.run.provenance.get("pixel_sizes_nm", []),
                [(item.name, item.spacing) for item in source.items],
                preprocess.input_size,
            ),
            "n": len(images),
            "images": images,
        }
        write_json(record_path, record)  # first, so that a finished output always has its record
        _put(result, out)
    return Prediction(out, record, True)
