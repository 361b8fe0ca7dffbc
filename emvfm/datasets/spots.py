"""Tiles around positions in large images: the spots of spatial transcriptomics, or cells.

Each image is gone through once from top to bottom; what is in memory of a TIFF is a band of rows as high as a tile.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.datasets.images import IMAGE_SUFFIXES, pixel_size_nm, write_image
from emvfm.datasets.manifest import SPLITS, Sample, check_fact, check_fact_names
from emvfm.datasets.rows import ImageRows, open_rows
from emvfm.datasets.tables import Table, read_table
from emvfm.errors import CorruptError, MissingError, RefusedError, UsageError
from emvfm.provenance import sha256_file
from emvfm.workspace import check_name

__all__ = ["Section", "Spot", "cut_tiles", "read_spots", "tile_side", "write_tiles"]

#: Rows are read in multiples of this, which the strips and tiles of a TIFF divide.
_STEP = 512
_LARGEST_TILE = 8192
#: Distance of spot centres on the arrays of Ståhl et al. 2016 (doi:10.1126/science.aaf2403), in nm.
_ARRAY_PITCH_NM = 200_000.0
_OWN = ("image", "section", "spot", "x", "y", "pixel_x", "pixel_y", "split", "pixel_size_nm")


@dataclass(frozen=True)
class Spot:
    """A position in px (of the middle of the first pixel: 0) with its name, split and what else is known."""

    name: str
    x: float
    y: float
    split: str = "train"
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """One image and the spots in it."""

    name: str
    image: Path
    pixel_size_nm: float | None
    spots: tuple[Spot, ...]


def _number(text: str, what: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CorruptError(f"{what} that is no number", where=where, got=repr(text))
    return value


def _image_file(name: str, images: Path, where: str) -> Path:
    """Return the file that a table names, which lies in the folder of images."""
    path = images / name
    if not name or not path.resolve().is_relative_to(images.resolve()):
        raise CorruptError("an image outside the folder of images", where=where, got=repr(name))
    if not path.is_file():
        raise MissingError("no such image", where=where, got=name, expected=f"a file under {images}")
    return path


def _from_table(table: Table, images: Path) -> Iterator[tuple[str, Path, float | None, Spot]]:
    single = images.is_file()
    if not single and not images.is_dir():
        raise MissingError("no such image or folder of images", where=images)
    if not single and "image" not in table.columns:
        raise UsageError(
            "the table does not say which image", where=table.path, expected="a column image",
            todo="or give one file by --images",
        )  # fmt: skip
    names = ("pixel_x", "pixel_y") if "pixel_x" in table.columns else ("x", "y")
    if missing := [name for name in names if name not in table.columns]:
        raise UsageError("the table has no positions", where=table.path, expected=f"a column {missing[0]}")
    others = tuple(name for name in table.columns if name not in _OWN)
    check_fact_names(("section", "spot", "x", "y", *others), table.path)
    for n, row in enumerate(table.rows):
        where = table.where(n)
        path = images if single else _image_file(row["image"], images, where)
        x, y = (_number(row[name], "a position", where) for name in names)
        split = row.get("split") or "train"
        if split not in SPLITS:
            raise CorruptError("unknown split", where=where, got=repr(split), expected=" or ".join(SPLITS))
        size = _number(row["pixel_size_nm"], "a pixel size", where) if row.get("pixel_size_nm") else None
        name = row.get("spot") or row.get("id") or str(table.numbers[n] + 1)
        spot = Spot(name, x, y, split, {other: row[other] for other in others})
        yield row.get("section") or path.stem, path, size, spot


def _array_section(folder: Path, name: str) -> Section:
    """Return a section laid out as the repository almaan/her2st has them; only spots under tissue."""
    path = folder / "data" / "ST-spotfiles" / f"{name}_selection.tsv"
    table = read_table(path)
    files = sorted((folder / "data" / "ST-imgs" / name[0] / name).glob("*"))
    files = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if len(files) != 1:
        raise MissingError("not one image of a section", where=path, got=len(files), expected="one")
    spots, grid, pixels = [], [], []
    for n, row in enumerate(table.rows):
        where = table.where(n)
        try:
            x, y, column = (_number(row[key], "a position", where) for key in ("pixel_x", "pixel_y", "new_x"))
            array, kept = f"{row['x']}x{row['y']}", row["selected"] == "1"
        except KeyError as error:
            raise CorruptError("no such column", where=path, expected=error) from None
        if kept:
            spots.append(Spot(array, x, y, "train", {"patient": name[0]}))
            grid.append(column)
            pixels.append(x)
    step = np.polyfit(grid, pixels, 1)[0] if len(set(grid)) > 1 else 0.0
    return Section(name, files[0], _ARRAY_PITCH_NM / float(step) if step > 0 else None, tuple(spots))


def read_spots(
    source: Path, images: Path | None = None, *, pixel_size: float | None = None
) -> tuple[Section, ...]:
    """Read which spots lie in which image.

    Parameters
    ----------
    source
        A table (.csv, .tsv, also .gz) with the columns ``x`` and ``y``, or ``pixel_x`` and ``pixel_y``, in px;
        ``image``, a file under `images`, unless that is a single file; optional ``section`` (else the file's name),
        ``spot``, ``split``, ``pixel_size_nm``; all others become facts. Or a folder laid out as almaan/her2st.
    pixel_size
        In nm, where neither table nor image tells.

    Raises
    ------
    MissingError
        There is no such table or image.
    UsageError
        A column is missing.
    CorruptError, RefusedError
        The table is damaged, a position is no number, a spot is there twice, or an image lies elsewhere.
    """
    source = Path(source)
    if source.is_dir():
        files = sorted((source / "data" / "ST-spotfiles").glob("*_selection.tsv"))
        if not files:
            raise UsageError(
                "not a folder of spots", where=source, expected="data/ST-spotfiles, data/ST-imgs",
                todo="give a table",
            )  # fmt: skip
        if images is not None:
            raise UsageError("the folder of spots has its own images", where="--images")
        return tuple(_array_section(source, file.name.removesuffix("_selection.tsv")) for file in files)
    if images is None:
        raise UsageError("no images to cut tiles from", where="--spots", todo="name them with --images")
    rows: dict[str, list[tuple[Path, float | None, Spot]]] = {}
    for section, path, size, spot in _from_table(read_table(source), Path(images)):
        rows.setdefault(section, []).append((path, size, spot))
    sections = []
    for name, members in rows.items():
        for what, values in (("images", {m[0] for m in members}), ("pixel sizes", {m[1] for m in members})):
            if len(values) > 1:
                raise RefusedError(f"one section with several {what}", where=f"{source}, section {name}")
        names = [spot.name for _, _, spot in members]
        if twice := [n for n in dict.fromkeys(names) if names.count(n) > 1]:
            raise RefusedError("a spot twice in a section", where=f"{source}, section {name}", got=twice[0])
        path, size, _ = members[0]
        size = size or pixel_size_nm(path) or pixel_size
        sections.append(Section(name, path, size, tuple(spot for _, _, spot in members)))
    return tuple(sections)


def tile_side(text: str, section: Section) -> int:
    """Return the side of a tile in px: ``224``, or a length such as ``112um`` in the section's pixels.

    Raises
    ------
    UsageError
        It is no size, or a length where the size of a pixel is unknown.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(px|nm|um|µm|μm|mm)?", text.strip())
    if found is None:
        raise UsageError("not a size of tiles", where="--tile", got=repr(text), expected="224 or 112um")
    value, unit = float(found[1]), found[2] or "px"
    if unit != "px":
        if section.pixel_size_nm is None:
            raise UsageError(
                "a length, but the size of a pixel is unknown", where=f"--tile {text}, section {section.name}",
                todo="give --pixel-size in nm",
            )  # fmt: skip
        value *= {"nm": 1.0, "mm": 1e6}.get(unit, 1e3) / section.pixel_size_nm
    side = round(value)
    if not 8 <= side <= _LARGEST_TILE:
        raise UsageError(
            "not a size of tiles", where="--tile", got=f"{side} px", expected=f"8 to {_LARGEST_TILE}"
        )
    return side


def cut_tiles(image: ImageRows, centres: ArrayLike, side: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield position and tile of all centres whose tile lies within the image, from top to bottom.

    Parameters
    ----------
    centres
        ``(N, 2)``: x and y in px.
    side
        Of a tile, which is ``(side, side)`` or ``(side, side, C)``; its middle is nearest to the centre.
    """
    places = np.asarray(centres, np.float64).reshape(-1, 2)
    corners = np.floor(places - (side - 1) / 2 + 0.5).astype(np.int64)
    height, width = image.shape[:2]
    band, top = np.zeros((0, *image.shape[1:]), image.dtype), 0
    for i in np.lexsort((corners[:, 0], corners[:, 1])).tolist():
        left, upper = corners[i].tolist()
        if left < 0 or upper < 0 or left + side > width or upper + side > height:
            continue
        band, top = band[max(0, upper - top) :], max(top, upper) if len(band) else upper // _STEP * _STEP
        while top + len(band) < upper + side:
            start = top + len(band)
            stop = min(height, (start // _STEP + 1) * _STEP)
            rows = image.rows(start, stop)
            if rows.ndim < len(image.shape):  # rows of a colour image that happen to be grey
                rows = np.repeat(rows[..., None], image.shape[2], axis=2)
            band = np.concatenate([band, rows])
        yield i, np.ascontiguousarray(band[upper - top : upper - top + side, left : left + side])


def _sample_id(section: str, spot: str, number: int) -> str:
    plain = f"{section}-{spot}"
    return plain if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", plain) else f"spot-{number:06d}"


def write_tiles(
    folder: Path, sections: Sequence[Section], tile: str, *, domain: str | None = None
) -> tuple[tuple[Sample, ...], dict[str, Any]]:
    """Cut and write a tile for every spot; return the samples and what ``dataset.json`` says of them.

    A spot whose tile would leave its image is left out and counted. Facts are ``section``, ``spot``, ``x`` and
    ``y`` (px of the section's image) and those of the table.

    Raises
    ------
    RefusedError
        No tile lies within its image.
    """
    samples: dict[tuple[int, int], Sample] = {}
    left_out: dict[str, int] = {}
    sides = {section.name: tile_side(tile, section) for section in sections}
    names = set()
    for number, section in enumerate(sections):
        label = check_name(domain or "spots", "domain")
        for split in {spot.split for spot in section.spots}:
            (folder / split / "images").mkdir(parents=True, exist_ok=True)
        centres = [(spot.x, spot.y) for spot in section.spots]
        with warnings.catch_warnings(), open_rows(section.image) as image:
            warnings.simplefilter("ignore")  # Pillow's word on large images; their size is checked before
            for i, pixels in cut_tiles(image, centres, sides[section.name]):
                spot = section.spots[i]
                name = _sample_id(section.name, spot.name, len(samples))
                if name in names:
                    name = f"spot-{len(samples):06d}"
                names.add(name)
                lossless_png = pixels.dtype == np.uint8 or (pixels.dtype == np.uint16 and pixels.ndim == 2)
                path = f"{spot.split}/images/{name}{'.png' if lossless_png else '.tif'}"
                write_image(folder / path, pixels)
                facts = {
                    "section": section.name, "spot": spot.name, "x": f"{spot.x:.10g}", "y": f"{spot.y:.10g}",
                    **spot.facts,
                }  # fmt: skip
                samples[number, i] = Sample(
                    id=name, image=path, mask=None, split=spot.split, domain=label, volume=section.name, z=None,
                    height=pixels.shape[0], width=pixels.shape[1], pixel_size_nm=section.pixel_size_nm,
                    image_sha256=sha256_file(folder / path), mask_sha256=None,
                    facts={key: check_fact(key, value, section.name) for key, value in facts.items()},
                )  # fmt: skip
        kept = sum(1 for key in samples if key[0] == number)
        left_out[section.name] = len(section.spots) - kept
    if not samples:
        raise RefusedError("no tile lies within its image", where=f"--tile {tile}", got="0 spots")
    record = {
        "kind": "spots",
        "domain": domain or "spots",
        "licence": None,
        "citation": None,
        "pixel_size_nm": None,
        "pairing": {"rule": "none", "found": "tiles around positions, no masks", "examples": []},
        "split": {"scheme": "given", "seed": 0, "gap": 0},
        "tile": tile,
        "tile_px": sides,
        "pixel_sizes_nm": {section.name: section.pixel_size_nm for section in sections},
        "left_out_at_edges": left_out,
    }
    return tuple(samples[key] for key in sorted(samples)), record
