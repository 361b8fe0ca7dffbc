"""Profiles: one vector a row with what is known of the row, from a dataset's embeddings or from a table.

Light enough for the command line to import: arrays are loaded inside the functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

from emvfm.backbones.options import BackboneOptions, ChannelOptions
from emvfm.config import Doc
from emvfm.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from emvfm.datasets.manifest import Dataset
    from emvfm.store.view import Embeddings
    from emvfm.workspace import Workspace

__all__ = [
    "Pooling",
    "ProfileOptions",
    "Profiles",
    "join_profiles",
    "open_all",
    "open_layers",
    "open_profiles",
]

Pooling = Literal["mean", "cls", "mean+cls"]


@dataclass(frozen=True)
class ProfileOptions(ChannelOptions, BackboneOptions):
    """Which vectors stand for the rows: of a dataset its embeddings, of a table its numeric columns."""

    pool: Annotated[Pooling, Doc("One vector an image: which.")] = "mean"
    layer: Annotated[int, Doc("Position among the stored layers; -1 is the last.")] = -1
    fact_columns: Annotated[
        tuple[str, ...], Doc("Numeric column of a table that describes a row and is no feature; repeatable.")
    ] = ()
    drop_missing: Annotated[bool, Doc("Leave out features of a table with missing or infinite values.")] = (
        False
    )
    seed: int = 0


@dataclass(frozen=True)
class Profiles:
    """One vector a row, and what is known of the row.

    Attributes
    ----------
    features
        ``(n, d)`` float32, finite.
    facts
        Column to n values; text, empty where nothing is known, several labels parted by ``;``.
    ids
        Length n, each once.
    name
        As given on the command line.
    backbone
        Honest name of what made the features; of a table its file name.
    layer, pooling
        Block index and kind of the embeddings; None and ``""`` for a table.
    digest
        SHA-256 of what decides features and facts.
    columns
        Names of the features, where they have any.
    steps
        What was done to the features since, such as a correction; JSON values.
    """

    features: NDArray[np.float32]
    facts: Mapping[str, tuple[str, ...]]
    ids: tuple[str, ...]
    name: str
    backbone: str
    layer: int | None
    pooling: str
    digest: str
    columns: tuple[str, ...] = ()
    steps: tuple[Mapping[str, Any], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def label(self) -> str:
        """The backbone with layer and pooling, where there are any."""
        return self.backbone if self.layer is None else f"{self.backbone}, block {self.layer}, {self.pooling}"

    def column(self, name: str) -> tuple[str, ...]:
        """Return a fact by name; case does not count where only one name fits.

        Raises
        ------
        UsageError
            There is no such column.
        """
        from emvfm.representations.pairing import find_column

        return self.facts[find_column(self.facts, name, self.name)]

    def to_json(self) -> dict[str, Any]:
        """Return what the profiles are, without their values, as strict JSON values."""
        return {
            "name": self.name,
            "backbone": self.label,
            "n": len(self),
            "dimensions": int(self.features.shape[1]),
            "steps": [dict(step) for step in self.steps],
        }

    def take(self, rows: Sequence[int] | NDArray[Any]) -> Profiles:
        """Return some rows in the order given."""
        import numpy as np

        from emvfm.provenance import digest

        own = np.asarray(rows)
        places = (np.flatnonzero(own) if own.dtype == bool else own).tolist()
        if places == list(range(len(self))):
            return self
        return replace(
            self,
            features=self.features[places],
            facts={name: tuple(values[i] for i in places) for name, values in self.facts.items()},
            ids=tuple(self.ids[i] for i in places),
            digest=digest([self.digest, places]),
        )


def _distinct(ids: Sequence[str]) -> tuple[str, ...]:
    """Return the ids, or numbers where an id is missing or there twice."""
    return tuple(ids) if all(ids) and len(set(ids)) == len(ids) else tuple(map(str, range(1, len(ids) + 1)))


def _from_table(path: Path, name: str, options: ProfileOptions) -> Profiles:
    from emvfm.provenance import digest, sha256_file
    from emvfm.studies.profile_tables import read_feature_table

    table = read_feature_table(path, described=options.fact_columns, drop_missing=options.drop_missing)
    ids = next(
        (values for key, values in table.facts.items() if key.lower() == "id"), ("",) * len(table.features)
    )
    identity = digest([sha256_file(path), sorted(options.fact_columns), options.drop_missing])
    return Profiles(
        table.features, table.facts, _distinct(ids), name, path.name, None, "", identity, table.columns
    )


def _facts_of(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    samples = dataset.samples
    own = {
        field: tuple(str(getattr(s, field)) for s in samples) for field in ("id", "split", "domain", "volume")
    }
    names = dict.fromkeys(name for sample in samples for name in sample.facts)
    return {**{name: tuple(s.facts.get(name, "") for s in samples) for name in names}, **own}


def _embed(
    workspace: Workspace, reference: str, options: ProfileOptions, console: Console | None
) -> Embeddings:
    from emvfm.backbones.loading import load_backbone
    from emvfm.datasets.catalog import open_dataset
    from emvfm.extraction.pipeline import embed_dataset

    dataset = open_dataset(workspace, reference)
    return embed_dataset(dataset, load_backbone(options, workspace), options, workspace, console=console)


def _from_embeddings(embeddings: Embeddings, name: str, layer: int, pool: Pooling) -> Profiles:
    from emvfm.provenance import digest

    n, facts = len(embeddings.layers), _facts_of(embeddings.dataset)
    if not -n <= layer < n:
        raise UsageError("no such layer position", where="--layer", got=layer, expected=f"below {n}")
    block = embeddings.layers[layer]
    ids = tuple(s.id for s in embeddings.samples)
    identity = digest([embeddings.key, embeddings.dataset.digest, ids, block, pool, facts])
    return Profiles(
        embeddings.image_embeddings(pool, layer), facts, ids, name, embeddings.label, block, pool, identity
    )


def open_profiles(
    workspace: Workspace, reference: str, options: ProfileOptions, console: Console | None = None
) -> Profiles:
    """Open a dataset (its image embeddings, computed where the store lacks them) or a table of features.

    Parameters
    ----------
    reference
        A dataset by name, ``name:split`` or folder; or a file ending in .csv, .tsv (both also .gz) or .npz, see
        :func:`~emvfm.studies.profile_tables.read_feature_table`.
    options
        Backbone, layer and pooling; of no matter to a table.

    Raises
    ------
    MissingError
        No such dataset, table or weights.
    UsageError, CorruptError, RefusedError
        What is wrong with it, in one line.
    """
    from emvfm.studies.profile_tables import is_table

    if is_table(reference):
        return _from_table(Path(reference).expanduser(), reference, options)
    return _from_embeddings(
        _embed(workspace, reference, options, console), reference, options.layer, options.pool
    )


def open_layers(
    workspace: Workspace,
    reference: str,
    options: ProfileOptions,
    poolings: Sequence[str] = ("mean",),
    console: Console | None = None,
) -> list[Profiles]:
    """Open a dataset at every stored layer and pooling, from one extraction; a table is the only one of its list."""
    from emvfm.studies.profile_tables import is_table

    if is_table(reference):
        return [open_profiles(workspace, reference, options, console)]
    for pool in poolings:
        if pool not in get_args(Pooling):
            raise UsageError("not a way of pooling", got=pool, expected=", ".join(get_args(Pooling)))
    embeddings = _embed(workspace, reference, options, console)
    return [
        _from_embeddings(embeddings, reference, layer, cast(Pooling, pool))
        for layer in range(len(embeddings.layers))
        for pool in poolings
    ]


def join_profiles(parts: Sequence[Profiles]) -> Profiles:
    """Return the rows of several profiles one after another, with a fact ``source`` that says which.

    Raises
    ------
    UsageError
        They were not made the same way, so their features do not stand for the same.
    """
    import numpy as np

    from emvfm.provenance import digest

    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    for part in parts[1:]:
        differ = sorted(set(first.columns) ^ set(part.columns))
        same_way = first.layer == part.layer and first.pooling == part.pooling
        if differ or first.features.shape[1] != part.features.shape[1] or not same_way:
            raise UsageError(
                "features that are not the same", where=f"{first.name} and {part.name}",
                got=f"only one has {differ[0]}" if differ else f"{first.features.shape[1]} and {part.features.shape[1]}",
            )  # fmt: skip
    order = {name: place for place, name in enumerate(first.columns)}
    blocks = [
        p.features if p.columns == first.columns else p.features[:, np.argsort([order[c] for c in p.columns])]
        for p in parts
    ]
    names = dict.fromkeys(name for part in parts for name in part.facts)
    facts = {name: tuple(v for p in parts for v in p.facts.get(name, ("",) * len(p))) for name in names}
    short = [Path(part.name).name if part.layer is None else part.name for part in parts]
    sources = short if len(set(short)) == len(short) else [part.name for part in parts]
    facts.setdefault(
        "source", tuple(s for s, part in zip(sources, parts, strict=True) for _ in range(len(part)))
    )
    ids = [i for part in parts for i in part.ids]
    if len(set(ids)) < len(ids):
        ids = [f"{source}/{i}" for source, part in zip(sources, parts, strict=True) for i in part.ids]
    return replace(
        first,
        features=np.concatenate(blocks),
        facts=facts,
        ids=_distinct(ids),
        name=" + ".join(part.name for part in parts),
        backbone=first.backbone
        if first.layer is not None
        else ", ".join(dict.fromkeys(p.backbone for p in parts)),
        digest=digest([part.digest for part in parts]),
    )


def open_all(
    workspace: Workspace, references: Sequence[str], options: ProfileOptions, console: Console | None = None
) -> Profiles:
    """Open and join several datasets or several tables, such as the plates of a screen."""
    if not references:
        raise UsageError("nothing to open", expected="a dataset or a table of features")
    return join_profiles([open_profiles(workspace, reference, options, console) for reference in references])
