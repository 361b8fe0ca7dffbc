"""Images from their files to the input of a backbone, each the very file that the manifest names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emvfm.backbones.preprocess import Prepared, Preprocess
from emvfm.datasets.images import read_channels, read_image
from emvfm.datasets.manifest import Sample
from emvfm.errors import CorruptError, EmvfmError
from emvfm.provenance import sha256_file

__all__ = ["named", "pixels_of", "read_prepared", "require_manifests"]


def require_manifests(path: Path, what: str, sha256: str | None) -> None:
    """Go on only where a file is the very one that the manifest names.

    Raises
    ------
    CorruptError
        It is another one, or not there.
    """
    if not path.is_file() or sha256_file(path) != sha256:
        raise CorruptError(
            f"the {what} is not the one the manifest names", where=path, todo="compose the dataset again"
        )


def named(error: EmvfmError, path: Path) -> EmvfmError:
    """Return the error with the file's name: preprocessing sees only pixels."""
    return error if str(path) in str(error) else type(error)(str(error), where=path)


def read_prepared(path: Path, sample: Sample, preprocess: Preprocess) -> Prepared:
    """Return an image as the input of a backbone; errors name the file."""
    require_manifests(path, "image", sample.image_sha256)
    try:
        return preprocess.prepare(pixels_of(path, preprocess))
    except EmvfmError as error:
        raise named(error, path) from None


def pixels_of(path: Path, preprocess: Preprocess) -> np.ndarray:
    """Return an image as ``(H, W)`` or ``(H, W, C)``; channels with a plan never collapse where they are equal."""
    if preprocess.channels is None:
        return read_image(path)
    planes = read_channels(path)
    if preprocess.channels.count == 1 and (planes[:1] == planes).all():  # grey stored as colour
        planes = planes[:1]
    return np.moveaxis(planes, 0, -1)
