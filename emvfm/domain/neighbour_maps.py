"""Two-dimensional maps that keep neighbours together: UMAP, t-SNE and PaCMAP, seeded and on one core.

Such maps are for looking. Distances between groups, their sizes and their density follow from the method
and its parameters, so nothing is concluded from them here (Chari & Pachter 2023,
doi:10.1371/journal.pcbi.1011288). Equal numbers on another machine are not promised by any of the
libraries, which is why coordinates, parameters and versions are stored.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import MissingError, UsageError

__all__ = ["REMARK", "Method", "NeighbourMap", "neighbour_map", "require_package"]

Method = Literal["umap", "tsne", "pacmap"]
Floats = NDArray[np.float64]

#: Said wherever such a map is shown.
REMARK = "Distances between groups, their sizes and their density in such a map are not evidence."
#: The package of each method, and how it is installed.
_PACKAGES = {
    "umap": ("umap", "umap-learn", "pip install umap-learn"),
    "tsne": ("openTSNE", "openTSNE", "pip install 'emvfm[projections]'"),
    "pacmap": ("pacmap", "pacmap", "pip install 'emvfm[projections]'"),
}


@dataclass(frozen=True)
class NeighbourMap:
    """A map and all that made it.

    Attributes
    ----------
    coordinates
        ``(n, 2)`` float64.
    parameters
        As given to the library.
    library
        Its name and version.
    """

    coordinates: Floats
    method: str
    parameters: dict[str, Any]
    library: str
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return how the map was made, without its coordinates, as plain JSON values."""
        return {
            "method": self.method,
            "n": len(self.coordinates),
            "parameters": self.parameters,
            "library": self.library,
            "seed": self.seed,
            "remark": REMARK,
        }


def _absent(method: Method) -> MissingError:
    _, distribution, command = _PACKAGES[method]
    return MissingError(
        "a package is missing", where=f"--method {method}", expected=distribution, todo=command
    )


def require_package(method: Method) -> None:
    """See whether the package of a method is there, without the seconds it takes to import it.

    Raises
    ------
    MissingError
        It is not.
    """
    from importlib.util import find_spec

    try:
        found = find_spec(_PACKAGES[method][0])
    except ValueError:  # a module that was taken out by hand
        found = None
    if found is None:
        raise _absent(method)


def _package(method: Method) -> Any:
    from importlib import import_module

    try:
        return import_module(_PACKAGES[method][0])
    except ImportError:
        raise _absent(method) from None


def _threads_kept() -> AbstractContextManager[Any]:
    """Return what puts the number of OpenMP's threads back: numba, below UMAP, sets that of the whole process."""
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[Any] = threadpool_limits()  # limits nothing, and restores what it found
    return limits


def _umap(rows: Floats, neighbours: int, min_dist: float, seed: int) -> tuple[Floats, dict[str, Any]]:
    library = _package("umap")
    parameters = {
        "n_neighbors": min(neighbours, len(rows) - 1),
        "min_dist": min_dist,
        "metric": "euclidean",
        "n_components": 2,
        # The spectral start needs more rows than it asks eigenvectors for.
        "init": "spectral" if len(rows) > 10 else "random",
        "random_state": seed,
        "n_jobs": 1,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # isolated rows and a failed spectral start are its everyday talk
        found = library.UMAP(**parameters).fit_transform(rows)
    return found, parameters


def _tsne(rows: Floats, perplexity: float, seed: int) -> tuple[Floats, dict[str, Any]]:
    library = _package("tsne")
    parameters = {
        "perplexity": min(perplexity, max(1.0, (len(rows) - 1) / 3)),
        "metric": "euclidean",
        "n_components": 2,
        "initialization": "pca",
        "neighbors": "exact" if len(rows) <= 2000 else "auto",
        "negative_gradient_method": "bh",
        "random_state": seed,
        "n_jobs": 1,
    }
    return np.asarray(library.TSNE(**parameters).fit(rows)), parameters


def _pacmap(rows: Floats, neighbours: int, seed: int) -> tuple[Floats, dict[str, Any]]:
    library = _package("pacmap")
    parameters = {
        "n_components": 2,
        "n_neighbors": min(neighbours, max(1, len(rows) // 3)),
        "MN_ratio": 0.5,
        "FP_ratio": 2.0,
        "distance": "euclidean",
        "apply_pca": False,
        "random_state": seed,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every seed
        found = library.PaCMAP(**parameters).fit_transform(rows.astype(np.float32), init="pca")
    return found, parameters


def neighbour_map(
    rows: ArrayLike,
    method: Method = "umap",
    *,
    neighbours: int = 15,
    min_dist: float = 0.1,
    perplexity: float = 30.0,
    seed: int = 0,
) -> NeighbourMap:
    """Return a map of ``(n, k)`` rows, such as their first 50 principal components.

    Parameters
    ----------
    neighbours
        Of UMAP (arXiv 1802.03426) and PaCMAP (arXiv 2012.04456).
    min_dist
        Of UMAP.
    perplexity
        Of t-SNE (openTSNE, doi:10.18637/jss.v109.i03), lowered where there are few rows.

    Raises
    ------
    UsageError
        Fewer than 4 rows, values that are not finite, or no such method.
    MissingError
        The method's package is not installed.
    """
    values = np.asarray(rows, np.float64)
    if method not in _PACKAGES:
        raise UsageError("no such method", got=method, expected=", ".join(_PACKAGES))
    if values.ndim != 2 or len(values) < 4:
        raise UsageError("too few embeddings for a map", got=values.shape, expected="(n, k) with n >= 4")
    if not np.isfinite(values).all():
        raise UsageError("embeddings are not finite")
    with _threads_kept():
        if method == "umap":
            found, parameters = _umap(values, neighbours, min_dist, seed)
        elif method == "tsne":
            found, parameters = _tsne(values, perplexity, seed)
        else:
            found, parameters = _pacmap(values, neighbours, seed)
    name = _PACKAGES[method][1]
    return NeighbourMap(np.asarray(found, np.float64), method, parameters, f"{name} {version(name)}", seed)
