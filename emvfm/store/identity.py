"""What an embedding is: everything that decides its numbers except the image itself.

The digest of an identity names one store; a row in it is named by the SHA-256 of the image's bytes.
File names, folders and dates never enter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from emvfm.errors import UsageError
from emvfm.provenance import digest

__all__ = ["SCHEMA", "EmbeddingIdentity"]

#: Raised whenever the meaning of stored numbers changes, so that old stores are never misread.
SCHEMA = 2


@dataclass(frozen=True)
class EmbeddingIdentity:
    """All that decides the embedding of an image, as plain JSON values.

    Parameters
    ----------
    backbone
        The spec row of the model.
    weights
        SHA-256 of the weight file, or ``untrained:<scheme>:<seed>``.
    adapter
        Digest of the adapter, None without one.
    preprocess
        What turns an image into the model's input.
    layers
        0-based block indices, in the order they are stored.
    dtype
        ``float16`` or ``float32``: how values are stored.
    precision
        ``float32`` or ``bfloat16``: how they were computed.
    """

    backbone: Mapping[str, Any]
    weights: str
    adapter: str | None
    preprocess: Mapping[str, Any]
    layers: tuple[int, ...]
    dtype: str
    precision: str
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "float32"):
            raise UsageError("not a storage type", got=self.dtype, expected="float16 or float32")

    @property
    def key(self) -> str:
        """The name of the store: 32 hex digits."""
        return digest(asdict(self))[:32]

    def to_json(self) -> dict[str, Any]:
        """Return the identity as plain JSON values."""
        return {**asdict(self), "layers": list(self.layers)}
