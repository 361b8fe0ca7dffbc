"""Samples from a table: its rows name images, its columns become the facts of samples."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emvfm.datasets.channel_names import Channel, parse_channels
from emvfm.datasets.files import bring
from emvfm.datasets.images import write_channels, write_image
from emvfm.datasets.manifest import Sample, check_fact_names
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.table_images import TableImages, open_images
from emvfm.datasets.table_splits import split_table
from emvfm.datasets.tables import Table, join_labels, keep_rows, read_table
from emvfm.errors import CorruptError, EmvfmError, UsageError
from emvfm.provenance import sha256_file
from emvfm.workspace import check_name

if TYPE_CHECKING:
    import numpy as np

__all__ = ["TablePlan", "plan_table", "write_table_samples"]

#: Columns that say what a manifest has a column of its own for.
_UNDERSTOOD = ("id", "split", "domain", "volume", "pixel_size_nm")
#: Other columns of the manifest: a table's own are kept under another name.
_TAKEN = ("image", "mask", "z", "height", "width", "image_sha256", "mask_sha256")


@dataclass(frozen=True)
class TablePlan:
    """What is decided of a table's samples before an image is read."""

    table: Table
    images: TableImages
    channels: tuple[Channel, ...]
    ids: tuple[str, ...]
    splits: tuple[str, ...]
    domains: tuple[str, ...]
    volumes: tuple[str, ...]
    pixel_sizes: tuple[float | None, ...]
    crops: tuple[tuple[int, int] | None, ...]
    facts: tuple[Mapping[str, str], ...]
    record: Mapping[str, Any]


def _ids(table: Table, name: str) -> tuple[str, ...]:
    if "id" not in table.columns:
        return tuple(f"{name}-{number:06d}" for number in table.numbers)
    seen: dict[str, int] = {}
    for n, row in enumerate(table.rows):
        try:
            check_name(row["id"], "sample")
        except UsageError as error:
            raise CorruptError("unusable id", where=table.where(n), got=error) from None
        if row["id"] in seen:
            first = table.numbers[seen[row["id"]]] + 2
            raise CorruptError("an id twice", where=table.where(n), got=f"{row['id']}, as in line {first}")
        seen[row["id"]] = n
    folded = {row["id"].casefold() for row in table.rows}
    if len(folded) < len(seen):  # their files would be one where names have no case
        raise CorruptError("ids that differ only in upper and lower case", where=table.path)
    return tuple(seen)


def _pixel_sizes(table: Table, given: float | None) -> tuple[float | None, ...]:
    if "pixel_size_nm" not in table.columns:
        return (given,) * len(table)
    sizes: list[float | None] = []
    for n, row in enumerate(table.rows):
        text = row["pixel_size_nm"]
        try:
            size = float(text) if text else given
        except ValueError:
            size = math.nan
        if size is not None and not 0 < size < math.inf:
            raise CorruptError(
                "not a pixel size", where=table.where(n), got=repr(text), expected="nanometres"
            )
        sizes.append(size)
    return tuple(sizes)


def _crops(table: Table, choice: str | None) -> tuple[tuple[int, int] | None, ...]:
    """Return height and width of each image as two columns say, None where nothing is cut away."""
    if choice is None:
        return (None,) * len(table)
    columns = [column.strip() for column in choice.split(",")]
    if len(columns) != 2:
        raise UsageError("two columns of sizes", where="--crop", got=choice, expected="such as h,w")
    sides = [table.column(column, "--crop") for column in columns]
    for n, pair in enumerate(zip(*sides, strict=True)):
        for text in pair:
            if not re.fullmatch(r"[1-9][0-9]{0,6}", text):
                raise CorruptError("not a size in px", where=table.where(n), got=repr(text))
    return tuple((int(height), int(width)) for height, width in zip(*sides, strict=True))


def _facts(table: Table) -> tuple[dict[str, str], ...]:
    names = {c: f"source_{c}" if c in _TAKEN else c for c in table.columns if c not in _UNDERSTOOD}
    check_fact_names(list(names.values()), table.path)
    return tuple({names[c]: row[c] for c in names} for row in table.rows)


def _refuse_stack_options(options: ComposeOptions) -> None:
    for option, given in (
        ("--masks", options.masks),
        ("--pairs", options.pairs),
        ("--pairing", options.pairing != "numbers"),
    ):
        if given:
            raise UsageError("a table of images has no masks to pair", where=option)


def plan_table(name: str, options: ComposeOptions) -> TablePlan:
    """Decide ids, splits and facts of the samples of ``options.table``; only the headers of images are read.

    Raises
    ------
    MissingError
        The table or its images are not there.
    CorruptError
        The table, its ids or the array of images are damaged.
    UsageError
        Options and table do not fit.
    RefusedError
        There is too little for the splits.
    """
    assert options.table is not None
    _refuse_stack_options(options)
    if options.images is None:
        raise UsageError("images of the table's rows", where="--table", expected="--images FILE or FOLDER")
    if len(options.domain) > 1:
        raise UsageError("one --domain for a table", got=len(options.domain))
    table = join_labels(keep_rows(read_table(options.table), options.where), options.labels)
    channels = parse_channels(options.channels) if options.channels else ()
    images = open_images(options.images, table, options.image_column, len(channels) or None)
    splits, split = split_table(
        table,
        options.split_by,
        val=options.val,
        test=options.test,
        seed=options.seed,
        scheme=options.split,
    )
    domain = check_name(options.domain[0] if options.domain else name, "domain")
    domains = tuple(row.get("domain") or domain for row in table.rows)
    for one in dict.fromkeys(domains):
        check_name(one, "domain")
    group = options.split_by[0].partition("=")[0].strip() if options.split_by else ""
    volumes = tuple(
        row.get("volume") or "-".join(filter(None, (where, row.get(group, ""))))
        for where, row in zip(domains, table.rows, strict=True)
    )
    record = {
        "kind": "table",
        "domain": domain,
        "licence": None,
        "citation": None,
        "pixel_size_nm": options.pixel_size,
        "pairing": {
            "rule": "table",
            "found": f"{len(table)} images of {options.table.name}",
            "examples": [],
        },
        "split": split,
        "table": {"sha256": sha256_file(options.table), "columns": list(table.columns)},
    }
    return TablePlan(
        table,
        images,
        channels,
        _ids(table, name),
        tuple(splits),
        domains,
        volumes,
        _pixel_sizes(table, options.pixel_size),
        _crops(table, options.crop),
        _facts(table),
        record,
    )


def _write_image(planes: np.ndarray, path: Path) -> Path:
    """Write ``(C, H, W)`` as the plainest file that keeps its type, and return its path."""
    import numpy as np

    small = planes.dtype in (np.dtype(np.uint8), np.dtype(np.uint16))
    if len(planes) == 1:
        return write_image(path.with_name(path.name + (".png" if small else ".tif")), planes[0])
    return write_channels(path.with_name(path.name + ".tif"), planes)


def _write_sample(plan: TablePlan, n: int, folder: Path, link: str) -> tuple[Sample, int]:
    import numpy as np

    try:
        planes = plan.images.planes(n)
    except EmvfmError as error:
        raise type(error)(str(error), where=plan.table.where(n)) from None
    if plan.channels and len(planes) == 3 and len(plan.channels) == 1 and (planes[:1] == planes).all():
        planes = planes[:1]  # grey that is stored as colour
    if plan.channels and len(planes) != len(plan.channels):
        raise CorruptError(
            "not the channels that were named",
            where=plan.images.origin(n),
            got=f"{len(planes)} channels",
            expected=f"{len(plan.channels)} ({', '.join(c.name for c in plan.channels)})",
        )
    if (crop := plan.crops[n]) is not None:
        if crop[0] > planes.shape[1] or crop[1] > planes.shape[2]:
            got, expected = "x".join(map(str, crop)), f"{planes.shape[1]}x{planes.shape[2]} px at the most"
            raise CorruptError(
                "a crop beyond the image", where=plan.table.where(n), got=got, expected=expected
            )
        planes = np.ascontiguousarray(planes[:, : crop[0], : crop[1]])
    stem = folder / plan.splits[n] / "images" / plan.ids[n]
    source = plan.images.file(n) if crop is None else None
    if source is None:
        path = _write_image(planes, stem)
    else:
        path = stem.with_name(stem.name + source.suffix.lower())
        bring(source, path, link)
    sample = Sample(
        id=plan.ids[n],
        image=path.relative_to(folder).as_posix(),
        mask=None,
        split=plan.splits[n],
        domain=plan.domains[n],
        volume=plan.volumes[n],
        z=None,
        height=planes.shape[1],
        width=planes.shape[2],
        pixel_size_nm=plan.pixel_sizes[n],
        image_sha256=sha256_file(path),
        mask_sha256=None,
        facts=plan.facts[n],
    )
    return sample, len(planes)


def write_table_samples(plan: TablePlan, folder: Path, link: str, console: Any = None) -> tuple[Sample, ...]:
    """Write every image of the plan under `folder` and return the samples, in the order of the table.

    Raises
    ------
    CorruptError
        An image is damaged, or has other channels than the plan or the first image.
    """
    for split in dict.fromkeys(plan.splits):
        (folder / split / "images").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        written: Any = pool.map(lambda n: _write_sample(plan, n, folder, link), range(len(plan.ids)))
        if console is not None and console.is_terminal:
            from rich.progress import track

            written = track(written, "reading", total=len(plan.ids), console=console, transient=True)
        try:
            found: Sequence[tuple[Sample, int]] = list(written)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    counts = dict.fromkeys(count for _, count in found)
    if len(counts) > 1 and set(counts) != {1, 3}:  # grey and colour may be mixed
        got = " and ".join(map(str, counts))
        raise CorruptError("images of different channels", where=plan.table.path, got=f"{got} channels")
    return tuple(sample for sample, _ in found)
