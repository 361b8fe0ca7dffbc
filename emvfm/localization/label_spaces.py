"""Labels of one project in the words of another: tables that ``--label-map`` knows by name.

Only what is stated by a source or is the same word is here. A label without a row is dropped and counted by
:func:`~emvfm.localization.labels.map_labels`, which says more than a guess would hide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["KAGGLE_NAMES", "LABEL_SPACES", "OPENCELL_LABELS", "LabelSpace", "Row", "folded"]

#: The 17 labels of OpenCell's annotation table (Cho et al. 2022, doi:10.1126/science.abi6983).
OPENCELL_LABELS = (
    "big_aggregates", "cell_contact", "centrosome", "chromatin", "cytoplasmic", "cytoskeleton", "er", "focal_adhesions",
    "golgi", "membrane", "mitochondria", "nuclear_membrane", "nuclear_punctae", "nucleolus_fc_dfc", "nucleolus_gc",
    "nucleoplasm", "vesicles",
)  # fmt: skip

#: Targets 0 to 27 of the competition "Human Protein Atlas Image Classification" (Ouyang et al. 2019).
KAGGLE_NAMES = (
    "nucleoplasm", "nuclear membrane", "nucleoli", "nucleoli fibrillar center", "nuclear speckles", "nuclear bodies",
    "endoplasmic reticulum", "golgi apparatus", "peroxisomes", "endosomes", "lysosomes", "intermediate filaments",
    "actin filaments", "focal adhesion sites", "microtubules", "microtubule ends", "cytokinetic bridge",
    "mitotic spindle", "microtubule organizing center", "centrosome", "lipid droplets", "plasma membrane",
    "cell junctions", "mitochondria", "aggresome", "cytosol", "cytoplasmic bodies", "rods & rings",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One label, what it becomes, and on what that rests.

    ``stated`` by the source; ``vesicle-like``, which the source says of classes that it does not list here; or the
    ``same name``.
    """

    label: str
    target: str
    basis: str


@dataclass(frozen=True)
class LabelSpace:
    """A translation of labels, with where it comes from."""

    name: str
    source: str
    rows: tuple[Row, ...]

    def mapping(self, labels: Iterable[str]) -> dict[str, str]:
        """Return the targets of those labels that have one, whatever their case and whether words are parted by _.

        >>> LABEL_SPACES["hpa-to-opencell"].mapping(["Cytosol", "Golgi_apparatus", "Rods & Rings"])
        {'Cytosol': 'cytoplasmic', 'Golgi_apparatus': 'golgi'}
        """
        known = {folded(row.label): row.target for row in self.rows}
        return {label: known[folded(label)] for label in labels if folded(label) in known}


def folded(label: str) -> str:
    """Return a label as it is compared: lower case, words parted by one space."""
    return " ".join(label.lower().replace("_", " ").replace("-", " ").split())


_STATED, _VESICLE, _SAME = "stated", "vesicle-like", "same name"

_HPA_TO_OPENCELL = LabelSpace(
    "hpa-to-opencell",
    "SubCell's table of locations, column 'Grouping OpenCell', as far as it is known here; else the same name",
    (
        Row("cytosol", "cytoplasmic", _STATED),
        Row("nuclear bodies", "nuclear_punctae", _STATED),
        Row("nuclear speckles", "chromatin", _STATED),
        Row("vesicles", "vesicles", _SAME),
        Row("endosomes", "vesicles", _VESICLE),
        Row("lysosomes", "vesicles", _VESICLE),
        Row("peroxisomes", "vesicles", _VESICLE),
        Row("actin filaments", "cytoskeleton", _STATED),
        Row("intermediate filaments", "cytoskeleton", _STATED),
        Row("microtubules", "cytoskeleton", _STATED),
        Row("nucleoplasm", "nucleoplasm", _SAME),
        Row("nuclear membrane", "nuclear_membrane", _SAME),
        Row("endoplasmic reticulum", "er", _SAME),
        Row("golgi apparatus", "golgi", _SAME),
        Row("centrosome", "centrosome", _SAME),
        Row("mitochondria", "mitochondria", _SAME),
        Row("focal adhesion sites", "focal_adhesions", _SAME),
        Row("nucleoli fibrillar center", "nucleolus_fc_dfc", _SAME),
    ),
)

_KAGGLE = LabelSpace(
    "kaggle-hpa",
    "targets 0 to 27 of the competition 'Human Protein Atlas Image Classification' (Ouyang et al. 2019)",
    tuple(Row(str(number), name, _STATED) for number, name in enumerate(KAGGLE_NAMES)),
)

#: Known by name, before a file of that name is looked for.
LABEL_SPACES = {space.name: space for space in (_HPA_TO_OPENCELL, _KAGGLE)}
