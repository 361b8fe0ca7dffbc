"""Planning a dataset from names alone: which mask, which split, which name; nothing is decoded here."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from emvfm.datasets.catalog import list_datasets, resolve_reference
from emvfm.datasets.fetch import downloaded_folder
from emvfm.datasets.layouts import Entry, Layout, Part, detect_layout, layout_of_pair, stated_pixel_size
from emvfm.datasets.manifest import Dataset, load_dataset
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.pairing import Pairing, check_rule, pair, pair_as_listed, read_pairs
from emvfm.datasets.sources import SOURCES
from emvfm.datasets.splits import RANDOM_TEST, block_split, random_split
from emvfm.errors import MissingError, RefusedError, UsageError
from emvfm.workspace import Workspace, check_name

__all__ = ["Draft", "name_drafts", "plan_layout", "plan_sources"]

BLOCK_TEST = 0.2


@dataclass(frozen=True)
class Draft:
    """A sample before it is written.

    `origin` names where image and mask first came from, if they come from a composed dataset now.
    """

    image: Entry
    mask: Entry | None
    split: str
    domain: str
    volume: str
    z: int | None
    pixel_size_nm: float | None
    origin: tuple[str, str] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, str]:
        """Where image and mask come from, as absolute paths (``#page`` in a stack, empty for no mask)."""
        return self.origin or (self.image.location, "" if self.mask is None else self.mask.location)


def _pair_part(part: Part, options: ComposeOptions) -> Pairing:
    images, masks = [e.name for e in part.images], [e.name for e in part.masks]
    if options.pairs is not None:
        return pair_as_listed(read_pairs(options.pairs), images, masks, allow_unmasked=options.allow_unmasked)
    if not masks:
        if not options.allow_unmasked:
            raise RefusedError(
                "images without masks", todo="name them with --masks, or give --allow-unmasked"
            )
        return pair_as_listed([(name, None) for name in images], images, [], allow_unmasked=True)
    return pair(images, masks, options.pairing, allow_unmasked=options.allow_unmasked, seed=options.seed)


def _draft_part(part: Part, pairing: Pairing, domain: str, pixel_size: float | None) -> list[Draft]:
    """Return the part's samples with volume and slice index, still all of one split."""
    images = {e.name: e for e in part.images}
    masks = {e.name: e for e in part.masks}
    drafts = []
    for row in pairing.pairs:
        image = images[row.image]
        volume, z = part.name, row.key[-1] if row.key else None
        if image.page is not None:
            volume, z = f"{part.name}-{image.stem}", image.page
        elif len(row.key) > 1:
            volume = "-".join([part.name, *map(str, row.key[:-1])])
        mask = None if row.mask is None else masks[row.mask]
        drafts.append(Draft(image, mask, part.split or "train", domain, f"{domain}-{volume}", z, pixel_size))
    return drafts


def _spread(drafts: Sequence[Draft], annotated: Sequence[int], splits: Sequence[str], gap: int) -> list[str]:
    """Extend the splits of the annotated slices to all: bare ones train, unless too near val or test."""
    known = dict(zip(annotated, splits, strict=True))
    held_out = [position for position, split in known.items() if split in ("val", "test")]
    return [
        known.get(n) or ("gap" if any(abs(n - other) <= gap for other in held_out) else "train")
        for n in range(len(drafts))
    ]


def _split_volume(drafts: Sequence[Draft], options: ComposeOptions, test: float) -> tuple[list[str], str]:
    """Return the splits of one volume (in stack order) and the scheme that was possible."""
    annotated = [n for n, draft in enumerate(drafts) if draft.mask is not None]
    if not annotated:
        return ["train"] * len(drafts), "block"
    n = len(annotated)
    if any(draft.z is None for draft in drafts):
        splits = random_split(n, val=options.val, test=test, seed=options.seed)
        return _spread(drafts, annotated, splits, 0), "random (the names give no slice order)"
    splits = block_split(n, val=options.val, test=test, gap=options.gap, seed=options.seed)
    return _spread(drafts, annotated, splits, options.gap), "block"


def _split(
    drafts: list[Draft], layout: Layout, options: ComposeOptions
) -> tuple[list[Draft], dict[str, Any]]:
    given = {part.split for part in layout.parts} - {None}
    scheme = options.split
    if scheme == "auto":
        scheme = "given" if "test" in given else "block"
    if scheme == "given" and not given:
        raise UsageError(
            "this source gives no splits", where="--split given", got=layout.kind, expected="block or random"
        )
    record: dict[str, Any] = {"seed": options.seed, "val": options.val}
    if scheme == "random":
        test = RANDOM_TEST if options.test is None else options.test
        annotated = [n for n, draft in enumerate(drafts) if draft.mask is not None]
        splits = random_split(len(annotated), val=options.val, test=test, seed=options.seed)
        whole = _spread(drafts, annotated, splits, 0)
        record |= {"scheme": "random", "test": test, "gap": 0}
        return [replace(d, split=s) for d, s in zip(drafts, whole, strict=True)], record
    test = 0.0 if scheme == "given" else (BLOCK_TEST if options.test is None else options.test)
    volumes: dict[str, list[int]] = {}
    for n, draft in enumerate(drafts):
        if scheme == "block" or (draft.split == "train" and "val" not in given):
            volumes.setdefault(draft.volume, []).append(n)
    found = set()
    for positions in volumes.values():
        try:
            splits, how = _split_volume([drafts[n] for n in positions], options, test)
        except RefusedError as error:
            raise RefusedError(str(error), where=drafts[positions[0]].volume) from None
        found.add(how)
        for n, split in zip(positions, splits, strict=True):
            drafts[n] = replace(drafts[n], split=split)
    if scheme == "given":
        record |= {"scheme": "given", "test": None, "gap": options.gap}
        if found:
            record["validation"] = " and ".join(sorted(found))
    else:
        record |= {"scheme": " and ".join(sorted(found)), "test": test, "gap": options.gap}
    return drafts, record


def plan_layout(
    layout: Layout, options: ComposeOptions, domain: str | None = None
) -> tuple[list[Draft], dict[str, Any]]:
    """Decide pairs and splits of a source from its file names; nothing is read.

    Returns
    -------
    drafts
        The samples in the order of parts and slices.
    record
        What ``dataset.json`` keeps about the source: pairing with examples, split, licence, citation.

    Raises
    ------
    RefusedError
        The pairing is not clear or a stack is too short for the splits.
    """
    if options.pairs is not None and len(layout.parts) > 1:
        raise UsageError(
            "a list of pairs fits one folder of images only",
            where=options.pairs,
            got=f"{len(layout.parts)} folders in this layout",
            todo="name one with --images and --masks",
        )
    domain = check_name(domain or layout.domain, "domain")
    pixel_size = options.pixel_size or layout.pixel_size_nm
    drafts: list[Draft] = []
    pairings = []
    for part in layout.parts:
        try:
            pairing = _pair_part(part, options)
        except RefusedError as error:
            raise RefusedError(f"cannot pair {part.images[0].path.parent}: {error}") from None
        pairings.append(pairing)
        drafts += _draft_part(part, pairing, domain, pixel_size)
    drafts, split = _split(drafts, layout, options)
    return drafts, {
        "kind": layout.kind,
        "domain": domain,
        "licence": layout.licence,
        "citation": layout.citation,
        "pixel_size_nm": pixel_size,
        "pairing": {
            "rule": pairings[0].rule,
            "found": pairings[0].found,
            "examples": [[p.image, p.mask] for pairing in pairings for p in pairing.pairs[1:3]][:2],
        },
        "split": split,
    }


def _plan_dataset(dataset: Dataset) -> tuple[list[Draft], list[dict[str, Any]]]:
    """Return a composed dataset's samples as drafts, which keep its pairing and splits."""
    origins: dict[str, tuple[str, str]] = {}
    if (mapping := dataset.root / "mapping.csv").is_file():
        rows = csv.DictReader(io.StringIO(mapping.read_text(encoding="utf-8")))
        origins = {
            r["new_stem"]: (r["src_image_abs"], r["src_mask_abs"] or "") for r in rows if "src_mask_abs" in r
        }
    drafts = [
        Draft(
            Entry(dataset.image_path(s)),
            None if s.mask is None else Entry(dataset.root / s.mask),
            s.split,
            s.domain,
            s.volume,
            s.z,
            s.pixel_size_nm,
            origins.get(s.id),
            s.facts,
        )
        for s in dataset.samples
    ]
    own = {"from_dataset": dataset.name}
    if dataset.meta.get("channels"):
        own["channels"] = dataset.meta["channels"]
    return drafts, [{**record, **own} for record in dataset.meta.get("sources", [])]


def _find(source: str, workspace: Workspace) -> Dataset | Layout:
    """Return what a ``--from`` means: a composed dataset, a downloaded source, or a folder."""
    if source in list_datasets(workspace):
        return resolve_reference(workspace, source)
    if any(known.name == source.lower() for known in SOURCES) and not Path(source).exists():
        return detect_layout(downloaded_folder(workspace, source))
    path = Path(source).expanduser()
    if (path / "dataset.json").is_file():
        return load_dataset(path.absolute())
    if path.is_dir():
        return detect_layout(path.absolute())
    if path.is_file():
        raise UsageError("a file is no source", where=path, todo="use --images STACK --masks MASKS")
    raise MissingError(
        "no such source",
        where=source,
        expected="a folder, a dataset (" + (", ".join(list_datasets(workspace)) or "none yet") + ")"
        " or a downloaded source (" + ", ".join(s.name for s in SOURCES) + ")",
    )


def plan_sources(
    sources: Sequence[str], workspace: Workspace, options: ComposeOptions
) -> tuple[list[Draft], list[dict[str, Any]]]:
    """Return the samples of all sources, and what is kept of each source.

    Raises
    ------
    UsageError
        Options and sources do not fit.
    """
    table_only = ("image_column", "crop", "where", "labels", "split_by")
    if given := [name for name in table_only if getattr(options, name)]:
        raise UsageError("this goes with --table", where="--" + given[0].replace("_", "-"))
    found = [_find(str(source), workspace) for source in sources]
    if options.images is not None:
        images, masks = options.images.absolute(), options.masks and options.masks.absolute()
        layout = layout_of_pair(images, masks)
        if options.pixel_size is None:
            layout = replace(layout, pixel_size_nm=stated_pixel_size(images, masks))
        found.append(layout)
    elif options.masks is not None:
        raise UsageError("--masks goes with --images")
    if not found:
        raise UsageError(
            "nothing to compose", todo="give --from SOURCE, --images DIR --masks DIR, or --table"
        )
    if options.domain and len(options.domain) != len(found):
        raise UsageError("one --domain for each source", got=len(options.domain), expected=len(found))
    rule, _ = check_rule(options.pairing)
    if rule != "numbers" and all(isinstance(item, Dataset) for item in found):
        raise UsageError(
            "composed datasets keep their pairing",
            where=f"--pairing {options.pairing}",
            todo="name the raw folders",
        )
    drafts: list[Draft] = []
    records: list[dict[str, Any]] = []
    for n, item in enumerate(found):
        domain = options.domain[n] if options.domain else None
        if isinstance(item, Dataset):
            new, record = _plan_dataset(item)
            if domain:
                new = [replace(draft, domain=check_name(domain, "domain")) for draft in new]
            records += record
        else:
            new, one = plan_layout(item, options, domain)
            records.append(one)
        taken = {draft.volume for draft in drafts}
        if any(draft.volume in taken for draft in new):  # equal names of different stacks
            new = [replace(draft, volume=f"{draft.volume}-{n + 1}") for draft in new]
        drafts += new
    return drafts, records


def name_drafts(drafts: Sequence[Draft]) -> list[str]:
    """Return ``<domain>-<split>-<6 digits>``: the slice index where unique in the split, else a counter."""
    groups: dict[tuple[str, str], list[int]] = {}
    for n, draft in enumerate(drafts):
        groups.setdefault((draft.domain, draft.split), []).append(n)
    names = [""] * len(drafts)
    for (domain, split), positions in groups.items():
        indices = [drafts[n].z for n in positions]
        if None in indices or len(set(indices)) < len(indices):
            indices = list(range(len(positions)))
        for n, index in zip(positions, indices, strict=True):
            names[n] = f"{domain}-{split}-{index:06d}"
    return names
