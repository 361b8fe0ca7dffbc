"""Embeddings of datasets as rows to be projected: which are drawn, what is known of each, and the files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emvfm.datasets.manifest import Sample
from emvfm.domain.moments import Moments, streamed_moments
from emvfm.domain.pca import balanced_moments
from emvfm.domain.sampling import draw_blocks, equal_shares
from emvfm.errors import UsageError
from emvfm.studies.domains import Domain
from emvfm.studies.options import DomainOptions

__all__ = [
    "Rows",
    "all_patches",
    "coordinate_arrays",
    "coordinate_table",
    "draw_images",
    "draw_patches",
    "joint_moments",
    "unit_length",
    "vectors_by_domain",
]


@dataclass(frozen=True)
class Rows:
    """Images or patches of some domains, domain by domain and in the order of their samples.

    Attributes
    ----------
    domains
        What the numbers in `domain` stand for.
    domain, sample
        ``(N,)``: which domain, and which of its samples.
    cells
        ``(N, 2)`` rows and columns of patches, None for images.
    foreground
        ``(N,)`` in [0, 1], NaN where there is no mask.
    """

    domains: tuple[Domain, ...]
    domain: NDArray[np.intp]
    sample: NDArray[np.intp]
    cells: NDArray[np.intp] | None
    foreground: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.domain)

    @property
    def samples(self) -> list[Sample]:
        """The sample of each row."""
        return [self.domains[g].embeddings.samples[i] for g, i in zip(self.domain, self.sample, strict=True)]

    @property
    def names(self) -> list[str]:
        """The domain of each row, as given on the command line."""
        return [self.domains[g].name for g in self.domain]

    def blocks(self) -> list[list[int]]:
        """Return, for each domain, the block of slices that each of its rows belongs to."""
        return [[d.blocks[i] for i in self.sample[self.domain == g]] for g, d in enumerate(self.domains)]


def _image_foreground(domain: Domain, i: int) -> float:
    if domain.embeddings.samples[i].mask is None:
        return float("nan")
    valid = domain.embeddings.valid(i)
    return float((domain.embeddings.foreground(i) * valid).sum() / valid.sum())


def draw_images(domains: Sequence[Domain], at_most: int | None = None, seed: int = 0) -> Rows:
    """Return all images, or whole blocks of slices with at most so many images, equally many a domain."""
    drawn = []
    for g, domain in enumerate(domains):
        rng = np.random.default_rng([seed, g])
        most = len(domain) if at_most is None else max(2, at_most // len(domains))
        drawn.append(draw_blocks(domain.blocks, most, rng))
    foreground = [
        [_image_foreground(d, int(i)) for i in rows] for d, rows in zip(domains, drawn, strict=True)
    ]
    return Rows(
        tuple(domains),
        np.repeat(np.arange(len(domains)), list(map(len, drawn))),
        np.concatenate(drawn),
        None,
        np.concatenate([np.asarray(f, np.float64) for f in foreground]),
    )


def draw_patches(
    domains: Sequence[Domain], per_image: int, at_most: int | None = None, seed: int = 0
) -> Rows:
    """Draw the same number of patches of each domain, spread equally over its images.

    Parameters
    ----------
    per_image
        At most so many of an image; the domain that has the fewest decides the number of all.
    at_most
        Patches of all domains together. Where that is less than one an image, whole blocks of slices are
        left out.
    """
    inside = [[np.argwhere(d.embeddings.valid(i) >= 0.5) for i in range(len(d))] for d in domains]
    capacity = [[min(per_image, len(cells)) for cells in own] for own in inside]
    total = min(map(sum, capacity))
    if at_most is not None:
        total = min(total, max(2, at_most // len(domains)))
    parts: list[tuple[NDArray, ...]] = []
    for g, domain in enumerate(domains):
        rng = np.random.default_rng([seed, g])
        images = draw_blocks(domain.blocks, total, rng) if total < len(domain) else np.arange(len(domain))
        shares = equal_shares([capacity[g][i] for i in images], total, rng)
        for i, share in zip(images, shares, strict=True):
            if not share:
                continue
            own = inside[g][i]
            cells = own[np.sort(rng.choice(len(own), share, replace=False))]
            foreground = np.full(len(cells), np.nan)
            if domain.embeddings.samples[i].mask is not None:
                foreground = domain.embeddings.foreground(i)[tuple(cells.T)].astype(np.float64)
            parts.append((np.full(len(cells), g), np.full(len(cells), i), cells, foreground))
    domain_of, sample, cells, foreground = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Rows(tuple(domains), domain_of, sample, cells, foreground)


def unit_length(rows: NDArray) -> NDArray:
    """Return ``(n, D)`` rows of length 1 in single precision or better; a row of zeros stays."""
    values = rows.astype(np.result_type(rows, np.float32), copy=False)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1)


def vectors_by_domain(
    rows: Rows, options: DomainOptions, layer: int, *, l2: bool = False
) -> list[NDArray[np.float32]]:
    """Return the embeddings ``(n_g, D)`` of the rows of each domain.

    Parameters
    ----------
    layer
        Position among the stored layers.
    l2
        Scale each row to length 1.
    """
    found = []
    for g, domain in enumerate(rows.domains):
        mine = rows.domain == g
        if rows.cells is None:
            vectors = domain.vectors(options, layer)[rows.sample[mine]]
        else:
            images, cells = rows.sample[mine], rows.cells[mine]
            order = np.unique(images)
            tokens = domain.embeddings.iter_patches(order.tolist(), [domain.embeddings.layers[layer]])
            taken = [t[0][tuple(cells[images == i].T)] for i, t in zip(order, tokens, strict=True)]
            vectors = np.concatenate(taken).astype(np.float32)
        found.append(unit_length(vectors) if l2 else vectors)
    return found


def joint_moments(
    rows: Sequence[NDArray], streams: Sequence[Iterable[NDArray]] | None, *, balanced: bool
) -> Moments:
    """Return the moments a basis is made from.

    Parameters
    ----------
    rows
        ``(n_g, D)`` of each domain.
    streams
        Blocks of each domain that count instead of the rows.
    balanced
        Each domain counts the same, however many rows it has.
    """
    # The rows in hand are few enough for products in double precision; a stream of many keeps its own.
    given: Sequence[Iterable[NDArray]] = (
        [[x.astype(np.float64)] for x in rows] if streams is None else streams
    )
    parts = [streamed_moments(blocks) for blocks in given]
    if balanced:
        return balanced_moments(parts)
    total = parts[0]
    for part in parts[1:]:
        total = total.merged(part)
    return total


def all_patches(domain: Domain, layer: int, *, l2: bool) -> Iterator[NDArray]:
    """Yield every patch of a domain, image by image."""
    for tokens in domain.patches(layer):
        yield unit_length(tokens) if l2 else tokens


def coordinate_table(rows: Rows, coordinates: Mapping[int, NDArray], axes: Sequence[str]) -> str:
    """Return CSV text: one line a row and layer, with all that is known of it.

    Parameters
    ----------
    coordinates
        ``(N, k)`` by block of the backbone; `axes` names the columns.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    patch = ["row", "column"] if rows.cells is not None else []
    writer.writerow(["layer", "domain", "sample", "split", "volume", "z", *patch, "foreground", *axes])
    samples, names = rows.samples, rows.names
    for layer, values in coordinates.items():
        for k, (sample, name) in enumerate(zip(samples, names, strict=True)):
            cell = rows.cells[k].tolist() if rows.cells is not None else []
            known = np.isfinite(rows.foreground[k])
            writer.writerow([
                layer, name, sample.id, sample.split, sample.volume, "" if sample.z is None else sample.z, *cell,
                f"{rows.foreground[k]:.6g}" if known else "", *(f"{v:.9g}" for v in values[k]),
            ])  # fmt: skip
    return text.getvalue()


def coordinate_arrays(rows: Rows, more: Mapping[str, NDArray]) -> bytes:
    """Return a compressed npz without pickled objects: facts of each row, and the arrays in `more`.

    An unknown z is -1 there, an unknown foreground NaN.
    """
    samples = rows.samples
    facts: dict[str, NDArray] = {
        "domain": np.array(rows.names),
        "sample": np.array([s.id for s in samples]),
        "split": np.array([s.split for s in samples]),
        "volume": np.array([s.volume for s in samples]),
        "z": np.array([-1 if s.z is None else s.z for s in samples], np.int64),
        "foreground": rows.foreground,
    }
    if rows.cells is not None:
        facts["row"], facts["column"] = rows.cells.T
    if twice := facts.keys() & more.keys():
        raise UsageError("an array has the name of a fact", got=", ".join(sorted(twice)))
    stream = io.BytesIO()
    np.savez_compressed(stream, **facts, **more)  # type: ignore[arg-type]
    return stream.getvalue()
