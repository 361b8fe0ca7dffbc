"""The manifest: one row a sample; nothing else says which image belongs to which mask and split."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.provenance import digest, sha256_file
from emvfm.workspace import check_name, read_json, write_json, write_text

__all__ = [
    "SPLITS",
    "Dataset",
    "Sample",
    "check_fact",
    "check_fact_names",
    "fact_names",
    "load_dataset",
    "save_dataset",
    "verify_files",
]

SCHEMA = 1
#: ``gap`` holds slices next to a test or validation block: in no split, so that no neighbour leaks.
SPLITS = ("train", "val", "test", "gap")


@dataclass(frozen=True)
class Sample:
    """One image with what is known about it.

    Parameters
    ----------
    id
        Unique within the dataset, safe as a file name.
    image, mask
        Paths relative to the dataset folder, with ``/``; `mask` is None where nothing is annotated.
    split
        One of `SPLITS`.
    domain
        The source the image comes from, such as ``lucchi``.
    volume, z
        The stack the slice belongs to and its position there; `z` is None for single images.
    height, width
        Size in px.
    pixel_size_nm
        Side of a pixel in nm, None where unknown.
    image_sha256, mask_sha256
        SHA-256 (hex) of the files' bytes.
    facts
        What else the manifest says of the sample, by the names of its further columns: label, well,
        plate, compound, protein, patient; several labels are joined by ``;``, unknown is an empty text.
    """

    id: str
    image: str
    mask: str | None
    split: str
    domain: str
    volume: str
    z: int | None
    height: int
    width: int
    pixel_size_nm: float | None
    image_sha256: str
    mask_sha256: str | None
    facts: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Dataset:
    """A named set of samples under one folder.

    `meta` is what ``dataset.json`` holds beside the rows: ``source``, ``licence``, ``citation``,
    ``pairing``, ``split`` (scheme, seed, gap), ``audit`` (``passed``, ``refused`` or ``forced``), and
    ``channels``: a list of name, stain and wavelength_nm in the order of the files, where it is known.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def where(self, keep: Callable[[Sample], bool]) -> Dataset:
        """Return the dataset restricted to the samples `keep` accepts, in the same order."""
        return replace(self, samples=tuple(s for s in self.samples if keep(s)))

    def split(self, *names: str) -> Dataset:
        """Return the dataset restricted to the named splits."""
        return self.where(lambda sample: sample.split in names)

    def annotated(self) -> Dataset:
        """Return the dataset restricted to the samples that have a mask."""
        return self.where(lambda sample: sample.mask is not None)

    def image_path(self, sample: Sample) -> Path:
        return self.root / sample.image

    def mask_path(self, sample: Sample) -> Path | None:
        return None if sample.mask is None else self.root / sample.mask

    @property
    def digest(self) -> str:
        """SHA-256 of what a study reads from here: content, pairing, splits and facts, no names of files."""
        return digest(
            sorted(
                (
                    s.image_sha256,
                    s.mask_sha256 or "",
                    s.split,
                    s.domain,
                    s.volume,
                    -1 if s.z is None else s.z,
                    s.pixel_size_nm or 0.0,
                    # Nothing without facts: datasets composed before there were any keep their digest.
                    *sorted((name, value) for name, value in s.facts.items() if value),
                )
                for s in self.samples
            )
        )


_COLUMNS = tuple(f.name for f in fields(Sample) if f.name != "facts")
_MOST_FACTS, _LONGEST_NAME, _LONGEST_VALUE = 1000, 100, 10_000


def check_fact_names(names: Sequence[str], where: object = None) -> tuple[str, ...]:
    """Return the names of further columns if a manifest can have them.

    Raises
    ------
    CorruptError
        A name is empty, repeated, one of the manifest's own, longer than 100 characters, or has characters
        that are not printed, ``=`` or spaces at an end; or there are more than 1000.
    """
    if len(names) > _MOST_FACTS:
        raise CorruptError("too many columns", where=where, got=len(names), expected=f"{_MOST_FACTS} at most")
    seen: set[str] = set(_COLUMNS)
    for name in names:
        odd = not name or not name.isprintable() or name != name.strip() or "=" in name
        if odd or len(name) > _LONGEST_NAME:
            raise CorruptError(
                "unusable name of a column",
                where=where,
                got=repr(name[: _LONGEST_NAME + 1]),
                expected=f"1 to {_LONGEST_NAME} printed characters without '='",
            )
        if name in seen:
            own = " of the manifest itself" if name in _COLUMNS else " twice"
            raise CorruptError(f"a column{own}", where=where, got=repr(name), todo="rename it")
        seen.add(name)
    return tuple(names)


def check_fact(name: str, value: str, where: object = None) -> str:
    """Return what a further column says if it is one line of text of at most 10 000 characters.

    Raises
    ------
    CorruptError
        It is longer, or has control characters or halves of characters.
    """
    if len(value) > _LONGEST_VALUE or any(
        ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in value
    ):
        raise CorruptError(
            "unusable value of a column",
            where=where,
            got=f"{name} of {len(value)} characters, {value[:20]!r}",
            expected=f"one line of at most {_LONGEST_VALUE} characters",
        )
    return value


def fact_names(samples: Iterable[Sample]) -> tuple[str, ...]:
    """Return the names of all facts of the samples, in the order in which they first occur."""
    return tuple(dict.fromkeys(name for sample in samples for name in sample.facts))


def save_dataset(dataset: Dataset) -> Dataset:
    """Write ``manifest.csv`` and then ``dataset.json`` under ``dataset.root``; return the dataset.

    Raises
    ------
    CorruptError
        A fact has a name or a value that a manifest can't have.
    """
    names = check_fact_names(fact_names(dataset.samples), dataset.name)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_COLUMNS, *names))
    for sample in dataset.samples:
        own = ["" if (value := getattr(sample, c)) is None else value for c in _COLUMNS]
        facts = [check_fact(name, sample.facts.get(name, ""), sample.id) for name in names]
        writer.writerow(own + facts)
    write_text(dataset.root / "manifest.csv", text.getvalue())
    write_json(
        dataset.root / "dataset.json",
        {"schema": SCHEMA, "name": dataset.name, "digest": dataset.digest, **dataset.meta},
    )
    return dataset


def _sample(row: Mapping[str, str], names: Sequence[str], where: str) -> Sample:
    try:
        sample = Sample(
            id=row["id"],
            image=row["image"],
            mask=row["mask"] or None,
            split=row["split"],
            domain=row["domain"],
            volume=row["volume"],
            z=int(row["z"]) if row["z"] else None,
            height=int(row["height"]),
            width=int(row["width"]),
            pixel_size_nm=float(row["pixel_size_nm"]) if row["pixel_size_nm"] else None,
            image_sha256=row["image_sha256"],
            mask_sha256=row["mask_sha256"] or None,
            facts={name: check_fact(name, row[name], where) for name in names},
        )
    except CorruptError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError("bad manifest row", where=where, got=error) from None
    if not all((sample.domain, sample.volume, sample.image, sample.image_sha256)) or None in row:
        raise CorruptError("incomplete manifest row", where=where)
    if (sample.mask is None) != (sample.mask_sha256 is None) or min(sample.height, sample.width) < 1:
        raise CorruptError("contradictory manifest row", where=where)
    if sample.pixel_size_nm is not None and not 0 < sample.pixel_size_nm < math.inf:
        raise CorruptError("unusable pixel size", where=where, got=sample.pixel_size_nm)
    try:
        check_name(sample.id, "sample")
    except UsageError as error:
        raise CorruptError("unusable sample id", where=where, got=error) from None
    if sample.split not in SPLITS:
        raise CorruptError("unknown split", where=where, got=sample.split, expected=" or ".join(SPLITS))
    for path in filter(None, (sample.image, sample.mask)):
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
            raise CorruptError("path leaves the dataset folder", where=where, got=repr(path))
    return sample


def load_dataset(root: Path) -> Dataset:
    """Read the dataset under `root`.

    Raises
    ------
    MissingError
        There is no dataset there.
    CorruptError
        The manifest is damaged, was changed after it was written, repeats an id or points outside
        the folder.
    """
    manifest = root / "manifest.csv"
    if not (root / "dataset.json").is_file() or not manifest.is_file():
        raise MissingError("no dataset here", where=root, todo="make one with `emvfm data compose`")
    meta = read_json(root / "dataset.json")
    if not isinstance(meta, dict) or meta.get("schema") != SCHEMA or not isinstance(meta.get("name"), str):
        raise CorruptError("unknown dataset schema", where=root / "dataset.json", expected=f"schema {SCHEMA}")
    try:
        reader = csv.DictReader(io.StringIO(manifest.read_text(encoding="utf-8"), newline=""))
        rows: Iterable[dict[str, str]] = list(reader)
        header = list(reader.fieldnames or ())
    except (csv.Error, UnicodeDecodeError) as error:
        raise CorruptError("not a CSV manifest", where=manifest, got=error) from None
    if repeated := [name for name in _COLUMNS if header.count(name) > 1]:
        raise CorruptError("a column twice", where=manifest, got=repeated[0])
    names = check_fact_names([name for name in header if name not in _COLUMNS], manifest)
    samples = tuple(_sample(row, names, f"{manifest}:{n}") for n, row in enumerate(rows, start=2))
    if len({s.id for s in samples}) != len(samples):
        raise CorruptError("a sample id occurs twice", where=manifest)
    dataset = Dataset(
        meta["name"],
        root,
        samples,
        {k: v for k, v in meta.items() if k not in ("schema", "name", "digest")},
    )
    if meta.get("digest") != dataset.digest:  # an audit holds for the rows it saw
        raise CorruptError(
            "the manifest was changed or cut after composing", where=manifest, todo="compose again"
        )
    return dataset


def verify_files(dataset: Dataset) -> None:
    """Compare every image and mask with its SHA-256: a hard link changes with its source if that is edited.

    Raises
    ------
    MissingError
        A file is gone.
    CorruptError
        A file is not the one that was composed.
    """
    for sample in dataset.samples:
        for path, expected in (
            (dataset.image_path(sample), sample.image_sha256),
            (dataset.mask_path(sample), sample.mask_sha256),
        ):
            if path is None:
                continue
            if not path.is_file():
                raise MissingError("file of the dataset is gone", where=path, todo="compose again")
            if sha256_file(path) != expected:
                raise CorruptError("file was changed after composing", where=path, todo="compose again")
