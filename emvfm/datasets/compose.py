"""Composing one dataset from sources: plan from names, write every file once, audit, then publish.

Nothing appears under the dataset's name before its images and masks are decoded, measured, hashed and
audited; a refusal leaves only the audit's findings, in a hidden folder beside the datasets.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from emvfm.datasets.channel_names import parse_channels
from emvfm.datasets.compose_table import TablePlan, plan_table, write_table_samples
from emvfm.datasets.files import bring
from emvfm.datasets.images import read_channels, read_page, write_channels, write_image
from emvfm.datasets.manifest import Dataset, Sample, load_dataset, save_dataset
from emvfm.datasets.masks import read_mask
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.planning import Draft, name_drafts, plan_sources
from emvfm.errors import RefusedError, UsageError
from emvfm.provenance import sha256_file
from emvfm.workspace import Workspace, atomic_folder, check_name, write_json, write_text

__all__ = ["MAPPING_COLUMNS", "compose", "refused_folder"]

MAPPING_COLUMNS = (
    "dataset",
    "split",
    "new_stem",
    "new_image_rel",
    "new_mask_rel",
    "src_image_abs",
    "src_mask_abs",
)


def refused_folder(workspace: Workspace, name: str) -> Path:
    """Return where the findings and the contact sheet of a refused dataset are kept."""
    return workspace.datasets / f".{name}.refused"


def _write_sample(draft: Draft, name: str, folder: Path, link: str) -> Sample | str:
    """Decode, check and bring in one sample; return a sentence instead if image and mask differ in size."""
    import numpy as np

    pixels = read_page(draft.image.path, draft.image.page)
    height, width = pixels.shape[:2]
    masked = None if draft.mask is None else read_mask(draft.mask.path, draft.mask.page)
    if masked is not None and masked.shape != (height, width):
        assert draft.mask is not None
        return (
            f"{draft.image.name} is {height}x{width} px, {draft.mask.name} is "
            f"{masked.shape[0]}x{masked.shape[1]} px"
        )
    if draft.image.page is None:
        image = f"{draft.split}/images/{name}{draft.image.path.suffix}"
        bring(draft.image.path, folder / image, link)
    elif pixels.ndim == 3 and pixels.shape[2] != 3:
        image = f"{draft.split}/images/{name}.tif"
        write_channels(folder / image, np.moveaxis(pixels, -1, 0))
    else:
        lossless_png = pixels.dtype == np.uint8 or (pixels.dtype == np.uint16 and pixels.ndim == 2)
        image = f"{draft.split}/images/{name}{'.png' if lossless_png else '.tif'}"
        write_image(folder / image, pixels)
    mask = None
    if draft.mask is not None and masked is not None:
        if draft.mask.page is None:
            mask = f"{draft.split}/masks/{name}{draft.mask.path.suffix}"
            bring(draft.mask.path, folder / mask, link)
        else:
            mask = f"{draft.split}/masks/{name}.png"
            write_image(folder / mask, masked.astype(np.uint8) * np.uint8(255))
    return Sample(
        id=name,
        image=image,
        mask=mask,
        split=draft.split,
        domain=draft.domain,
        volume=draft.volume,
        z=draft.z,
        height=height,
        width=width,
        pixel_size_nm=draft.pixel_size_nm,
        image_sha256=sha256_file(folder / image),
        mask_sha256=None if mask is None else sha256_file(folder / mask),
        facts=draft.facts,
    )


def _write_samples(
    drafts: Sequence[Draft], names: Sequence[str], folder: Path, link: str, console: Any
) -> tuple[Sample, ...]:
    for split, kind in {(d.split, k) for d in drafts for k in ("images", "masks")}:
        (folder / split / kind).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        written: Iterable[Sample | str] = pool.map(
            lambda draft, sample_id: _write_sample(draft, sample_id, folder, link), drafts, names
        )
        if console is not None and console.is_terminal:
            from rich.progress import track

            written = track(
                written, "reading and checking", total=len(drafts), console=console, transient=True
            )
        try:
            results = list(written)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    problems = [result for result in results if isinstance(result, str)]
    if problems:
        raise RefusedError(
            f"{len(problems)} masks do not have the size of their image", got="; ".join(problems[:3])
        )
    return tuple(result for result in results if isinstance(result, Sample))


def _mapping(origins: Sequence[tuple[str, str]], samples: Sequence[Sample]) -> str:
    """Return the table of where each file came from, in the columns of the reference system."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(MAPPING_COLUMNS)
    for origin, sample in zip(origins, samples, strict=True):
        writer.writerow(
            [
                sample.domain,
                sample.split,
                sample.id,
                sample.image,
                sample.mask or "",
                *origin,
            ]
        )
    return text.getvalue()


def _joined(records: Sequence[dict[str, Any]], key: str) -> str | None:
    values = dict.fromkeys(f"{r['domain']}: {r[key]}" for r in records if r.get(key))
    return "; ".join(values) or None


def _meta(
    records: list[dict[str, Any]], channels: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    rules = {record["pairing"]["rule"] for record in records}
    splits = [record["split"] for record in records]
    return {
        "source": list(dict.fromkeys(record["kind"] for record in records)),
        "licence": _joined(records, "licence"),
        "citation": _joined(records, "citation"),
        "pairing": rules.pop() if len(rules) == 1 else "mixed",
        "split": splits[0] if splits and all(s == splits[0] for s in splits) else {"scheme": "mixed"},
        "sources": records,
        **({"channels": [dict(channel) for channel in channels]} if channels else {}),
    }


def _channels(records: Sequence[Mapping[str, Any]], options: ComposeOptions) -> Any:
    """Return the channels that `options` name, else those in which all sources agree."""
    if options.channels:
        return [channel.to_json() for channel in parse_channels(options.channels)]
    said = [record.get("channels") for record in records]
    if any(channels != said[0] for channels in said):
        raise UsageError(
            "sources with different channels", todo="compose them apart, or name the channels with --channels"
        )
    return said[0] if said else None


def _check_channels(samples: Sequence[Sample], folder: Path, count: int) -> None:
    """Refuse images that have not as many channels as there are names."""
    for sample in samples:
        found = len(read_channels(folder / sample.image))
        if found != count:
            raise RefusedError(
                "not the channels that were named",
                where=sample.id,
                got=f"{found}",
                expected=f"{count} channels",
            )


def _from_table(plan: TablePlan, folder: Path, *, link: str, console: Any) -> Dataset:
    samples = write_table_samples(plan, folder, link, console)
    origins = [(plan.images.origin(n), "") for n in range(len(samples))]
    write_text(folder / "mapping.csv", _mapping(origins, samples))
    channels = [channel.to_json() for channel in plan.channels]
    return Dataset("", folder, samples, _meta([dict(plan.record)], channels))


def _from_sources(
    sources: Sequence[str], workspace: Workspace, options: ComposeOptions, console: Any
) -> Callable[[Path], Dataset]:
    """Plan from names, and return what writes the samples into a folder."""
    drafts, records = plan_sources(sources, workspace, options)
    names, channels = name_drafts(drafts), _channels(records, options)

    def write(folder: Path) -> Dataset:
        samples = _write_samples(drafts, names, folder, options.link, console)
        if options.channels and channels:
            _check_channels(samples, folder, len(channels))
        write_text(folder / "mapping.csv", _mapping([draft.sources for draft in drafts], samples))
        return Dataset("", folder, samples, _meta(records, channels))

    return write


def _audit(dataset: Dataset, name: str, workspace: Workspace, force: bool, seed: int) -> Dataset:
    """Audit the written dataset; keep the findings with it, or beside it if they refuse it."""
    from emvfm.datasets.audit import audit_dataset, write_contact_sheet

    report = audit_dataset(dataset, seed=seed)
    refused = report.verdict != "passed"
    folder = dataset.root
    if refused and not force:
        folder = refused_folder(workspace, name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    write_json(folder / "audit.json", report.to_json())
    flagged = tuple(dict.fromkeys(sample for error in report.errors for sample in error.samples))
    write_contact_sheet(dataset, folder / "contact_sheet.png", flagged=flagged[:12])
    if refused and not force:
        raise RefusedError(
            "the audit refuses this dataset",
            where=name,
            got="; ".join(error.message for error in report.errors[:3]),
            todo=f"look at {folder / 'contact_sheet.png'}, or keep it with --force",
        )
    verdict = "forced" if refused else "passed"
    return replace(dataset, meta={**dataset.meta, "audit": verdict})


def _compose_spots(
    name: str, sources: Sequence[str | Path], folder: Path, workspace: Workspace, options: ComposeOptions
) -> Dataset:
    """Compose a dataset of tiles around positions; the rest is as in `compose`."""
    from emvfm.datasets.spots import read_spots, write_tiles

    assert options.spots is not None
    if sources or options.masks is not None or options.pairs is not None:
        raise UsageError("spots come with --images alone", where="--spots", got="--from, --masks or --pairs")
    sections = read_spots(options.spots, options.images, pixel_size=options.pixel_size)
    domain = options.domain[0] if options.domain else None
    with atomic_folder(folder, replace=options.replace) as temporary:
        samples, record = write_tiles(temporary, sections, options.tile, domain=domain)
        dataset = save_dataset(Dataset(name, temporary, samples, _meta([record])))
        save_dataset(_audit(dataset, name, workspace, options.force, options.seed))
    shutil.rmtree(refused_folder(workspace, name), ignore_errors=True)
    return load_dataset(folder)


def compose(
    name: str,
    sources: Sequence[str | Path],
    workspace: Workspace,
    options: ComposeOptions | None = None,
    *,
    console: Any = None,
) -> Dataset:
    """Compose the dataset `name` under ``<root>/datasets`` and publish it once the audit has passed.

    Parameters
    ----------
    name
        Of the new dataset.
    sources
        Folders of a known layout, datasets (merged with their own pairing and splits), or names of
        downloaded public sources; may be empty if `options` names images and masks.
    options
        Pairing, splits, labels; see `ComposeOptions`.
    console
        A Rich console for progress, or None.

    Raises
    ------
    MissingError
        A source does not exist or is not downloaded.
    RefusedError
        Pairing or sizes are wrong, a stack is too short, or the audit refuses and `options.force` is false.
    CorruptError
        An image or a mask can't be read.
    UsageError
        The dataset exists and `options.replace` is false.

    References
    ----------
    The block split and the pairing by numbers answer the neighbour leak and the scrambled masks of
    earlier joint studies of Lucchi++ and VNC (arXiv:2602.08505).
    """
    options = options or ComposeOptions()
    check_name(name, "dataset")
    folder = workspace.datasets / name
    if folder.exists() and not options.replace:
        raise UsageError(
            "a dataset of this name exists", where=folder, todo="choose another or give --replace"
        )
    if options.spots is not None:
        return _compose_spots(name, sources, folder, workspace, options)
    if options.table is not None:
        if sources:
            raise UsageError(
                "a table is a source of its own", where="--from", got=", ".join(map(str, sources))
            )
        write: Callable[[Path], Dataset] = partial(
            _from_table, plan_table(name, options), link=options.link, console=console
        )
    else:
        write = _from_sources([str(source) for source in sources], workspace, options, console)
    with atomic_folder(folder, replace=options.replace) as temporary:
        dataset = save_dataset(replace(write(temporary), name=name))
        save_dataset(_audit(dataset, name, workspace, options.force, options.seed))
    shutil.rmtree(refused_folder(workspace, name), ignore_errors=True)
    return load_dataset(folder)
