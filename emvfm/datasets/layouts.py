"""Recognising how images and masks lie in a folder: known public layouts, and plain pairs of folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emvfm.datasets.images import is_volume, list_images, page_count, pixel_size_nm
from emvfm.datasets.scales import agree
from emvfm.datasets.sources import SOURCES, Source
from emvfm.datasets.volumes import open_volume, split_inner
from emvfm.errors import CorruptError, MissingError, RefusedError, UsageError
from emvfm.workspace import read_json

__all__ = ["Entry", "Layout", "Part", "detect_layout", "layout_of_pair", "stated_pixel_size"]

_IMAGE_NAMES = ("images", "image", "imgs", "img", "raw")
_MASK_NAMES = ("masks", "mask", "labels", "label", "mitochondria")


@dataclass(frozen=True)
class Entry:
    """One image or mask: a file, a page of a TIFF stack, or a slice of a volume.

    The path of a slice has the name inside the volume after a colon; `name` and `stem` leave it out.
    """

    path: Path
    page: int | None = None

    @property
    def name(self) -> str:
        return self.path.name if self.page is None else f"{split_inner(self.path)[0].name}#{self.page}"

    @property
    def stem(self) -> str:
        """The name of the file without its ending."""
        return split_inner(self.path)[0].stem

    @property
    def location(self) -> str:
        """The absolute path, with ``#page`` for a page of a stack."""
        path = str(self.path.absolute())
        return path if self.page is None else f"{path}#{self.page}"


@dataclass(frozen=True)
class Part:
    """Images and masks that belong together; `split` is what the source gives, None for nothing."""

    name: str
    images: tuple[Entry, ...]
    masks: tuple[Entry, ...]
    split: str | None = None


@dataclass(frozen=True)
class Layout:
    """A recognised source: its parts and what is known about it."""

    kind: str
    domain: str
    parts: tuple[Part, ...]
    pixel_size_nm: float | None = None
    licence: str | None = None
    citation: str | None = None


def _entries(path: Path) -> tuple[Entry, ...]:
    """Return the images of a folder, with stacks expanded to their pages, or the slices of one file."""
    if is_volume(path):
        name, count = open_volume(path, lambda volume: (Path(volume.name), volume.count))
        return tuple(Entry(name, page) for page in range(count))
    if not path.exists():
        raise MissingError("no such folder or file", where=path)
    files = [path] if path.is_file() else list_images(path)
    if not files:
        found = sorted({p.suffix or "no suffix" for p in path.iterdir() if p.is_file()}) or ["nothing"]
        raise MissingError(
            "no images here", where=path, got=", ".join(found[:5]), expected=".png, .jpg, .tif or .tiff"
        )
    counts = [page_count(file) for file in files]
    return tuple(
        entry
        for file, count in zip(files, counts, strict=True)
        for entry in ([Entry(file)] if count == 1 else [Entry(file, page) for page in range(count)])
    )


def _children(folder: Path) -> dict[str, Path]:
    return {p.name.lower(): p for p in sorted(folder.iterdir()) if p.is_dir()}


def _candidates(folder: Path) -> list[Path]:
    """Return the folder, its subfolders and theirs: archives wrap their content in up to two folders."""
    levels = [[folder]]
    for _ in range(2):
        levels.append(
            [
                child
                for parent in levels[-1]
                for name, child in _children(parent).items()
                if not name.startswith((".", "__macosx"))
            ][:50]
        )
    return [path for level in levels for path in level]


def _part(name: str, images: Path, masks: Path, split: str | None) -> Part:
    return Part(name, _entries(images), _entries(masks), split)


def _plus_plus(folder: Path, source: Source) -> Layout | None:
    inside = _children(folder)
    if not {"train_in", "train_out"} <= inside.keys():
        return None
    parts = [_part("train", inside["train_in"], inside["train_out"], "train")]
    if {"test_in", "test_out"} <= inside.keys():
        parts.append(_part("test", inside["test_in"], inside["test_out"], "test"))
    return Layout(
        source.name, source.domain, tuple(parts), source.pixel_size_nm, source.licence, source.citation
    )


def _vnc(folder: Path, source: Source) -> Layout | None:
    inside = _children(folder)
    if not {"raw", "mitochondria"} <= inside.keys():
        return None
    part = _part("stack1", inside["raw"], inside["mitochondria"], None)
    return Layout(source.name, source.domain, (part,), source.pixel_size_nm, source.licence, source.citation)


def _folder_pair(folder: Path) -> tuple[Path, Path] | None:
    inside = _children(folder)
    images = [inside[name] for name in _IMAGE_NAMES if name in inside]
    masks = [inside[name] for name in _MASK_NAMES if name in inside]
    if len(images) > 1 or len(masks) > 1:
        raise RefusedError(
            "several folders of images or masks",
            where=folder,
            got=", ".join(p.name for p in (*images, *masks)),
            todo="name one with --images and --masks",
        )
    return (images[0], masks[0]) if images and masks else None


def _plain(folder: Path, domain: str) -> Layout | None:
    if found := _folder_pair(folder):
        if (folder / "phantom.json").is_file():  # its pixel size is known, being made
            truth = read_json(folder / "phantom.json")
            try:
                tag, pixel_size = f"phantom-{truth['domain']}", float(truth["pixel_size_nm"])
            except (KeyError, TypeError, ValueError) as error:
                raise CorruptError(
                    "not a phantom's record", where=folder / "phantom.json", got=error
                ) from None
            return Layout("phantom", tag, (_part("stack", *found, None),), pixel_size)
        return Layout("folders", domain, (_part("stack", *found, None),))
    parts = []
    for name, child in _children(folder).items():
        if name in ("train", "val", "test") and (found := _folder_pair(child)):
            parts.append(_part(name, *found, name))
    return Layout("split folders", domain, tuple(parts)) if parts else None


def _tag(path: Path) -> str:
    """Return a folder's name as a domain label."""
    text = "".join(c if c.isascii() and (c.isalnum() or c in "._+-") else "-" for c in path.absolute().name)
    return text.strip("-._").lower() or "data"


def _source(name: str) -> Source:
    return next(source for source in SOURCES if source.name == name)


def detect_layout(folder: Path) -> Layout:
    """Recognise the layout in `folder` or up to two folders below.

    Known are Lucchi++ and Kasthuri++ (``Train_In``, ``Train_Out``, ``Test_In``, ``Test_Out``), VNC
    (``raw`` and ``mitochondria``), ``images`` with ``masks``, and those within ``train``, ``val``, ``test``.

    Raises
    ------
    MissingError
        There is no such folder, or nothing known in it.
    RefusedError
        Several layouts fit.
    """
    if not folder.is_dir():
        raise MissingError("no such folder", where=folder)
    candidates = _candidates(folder)
    kasthuri = any("kasthuri" in part.lower() for part in folder.absolute().parts[-2:])
    for path in candidates:
        name = "kasthuri++" if kasthuri or "kasthuri" in path.name.lower() else "lucchi++"
        if layout := _plus_plus(path, _source(name)):
            return layout
    vnc = [path for path in candidates if {"raw", "mitochondria"} <= _children(path).keys()]
    if len(vnc) == 1 and (layout := _vnc(vnc[0], _source("vnc"))):
        return layout
    for path in candidates:
        if layout := _plain(path, _tag(folder)):
            return layout
    raise MissingError(
        "no known layout here",
        where=folder,
        got=", ".join(sorted(_children(folder))[:6]) or "no folders",
        expected="Train_In + Train_Out, raw + mitochondria, or images + masks",
        todo="name the folders with --images DIR --masks DIR",
    )


def _is_stack(path: Path) -> bool:
    return path.is_file() or is_volume(path)


def layout_of_pair(images: Path, masks: Path | None, domain: str | None = None) -> Layout:
    """Return the layout of a folder (or TIFF stack, or volume) of images and one of masks.

    Two stacks of equal length pair page by page. The pixel size is left unknown; see `stated_pixel_size`.

    Raises
    ------
    UsageError
        A stack of images without one of masks, or the other way round.
    """
    left = _entries(images)
    right = _entries(masks) if masks is not None else ()
    if masks is not None and _is_stack(images) != _is_stack(masks):
        raise UsageError("a stack goes with a stack and a folder with a folder", got=f"{images}, {masks}")
    outer = split_inner(images)[0]
    tag = domain or _tag(outer.parent if outer.is_dir() and outer.name.lower() in _IMAGE_NAMES else outer)
    return Layout("stack" if _is_stack(images) else "folders", tag, (Part("stack", left, right),))


def stated_pixel_size(images: Path, masks: Path | None) -> float | None:
    """Return the pixel size in nm that a stack of images states, else its masks; None for folders.

    Raises
    ------
    RefusedError
        Images and masks state different sizes, or pixels that are not square.
    """
    sizes = [pixel_size_nm(path) for path in (images, masks) if path is not None and _is_stack(path)]
    stated = [size for size in sizes if size is not None]
    if len(stated) == 2 and not agree(*stated):
        raise RefusedError(
            "images and masks state different pixel sizes",
            where=images,
            got=f"{stated[0]:g} nm, {stated[1]:g} nm in {masks}",
            todo="check that they belong together, or give --pixel-size",
        )
    return stated[0] if stated else None
