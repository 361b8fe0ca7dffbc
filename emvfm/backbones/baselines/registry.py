"""The names of baselines: ``pixel:PRESET[/CELL]``, ``random:PRESET``, ``structure:PRESET[=TABLE]``."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emvfm.backbones.baselines import chance, pixel
from emvfm.backbones.baselines.preprocess import CELL, BaselinePreprocess, columns_in
from emvfm.backbones.registry import BackboneSpec
from emvfm.errors import MissingError, UsageError

if TYPE_CHECKING:
    from emvfm.backbones.options import BackboneOptions
    from emvfm.backbones.views import View

__all__ = ["FAMILIES", "WHOLE", "BaselineSpec", "find_baseline", "is_baseline", "presets_of"]

#: The side of a cell that holds any image whole.
WHOLE = 2**24

FAMILIES = ("pixel", "random", "structure")
#: Raised when the numbers of a family change.
_VERSIONS = {"pixel": 1, "random": 1, "structure": 1}


def presets_of(family: str) -> tuple[str, ...]:
    """Return the presets of a family, in the order in which they are listed."""
    if family == "pixel":
        return tuple(pixel.PRESETS)
    if family == "random":
        return (*chance.PRESETS, "onehot")
    from emvfm.backbones.baselines.structure.presets import PRESETS

    return tuple(PRESETS)


@dataclass(frozen=True)
class BaselineSpec(BackboneSpec):
    """The row of a baseline, with all that decides its numbers beside the image.

    Attributes
    ----------
    kind, preset
        ``pixel``, ``random`` or ``structure``, and what it computes.
    argument
        Columns of facts of ``random:onehot``, the table of cells of ``structure``; else empty.
    argument_digest
        SHA-256 of the table of cells.
    channels
        Of the images; 1 until it has seen a dataset.
    vocabulary
        Columns and their values that ``random:onehot`` codes, from the dataset's whole manifest; of
        ``structure``, the types of cells.
    seed
        Of ``random``.
    unit
        Of lengths in ``structure``: ``nm`` where the size of all pixels is known, else ``px``.
    """

    kind: str = "pixel"
    preset: str = "intensity"
    argument: str = ""
    argument_digest: str = ""
    channels: int = 1
    vocabulary: tuple[tuple[str, tuple[str, ...]], ...] = ()
    seed: int = 0
    unit: str = "px"

    @property
    def title(self) -> str:
        """What it is, in words: never the name of a model."""
        return f"{self.kind} baseline ({self.described})"

    @property
    def described(self) -> str:
        """What it computes, with what it was given."""
        parts = [self.preset + (f" of {Path(self.argument).name}" if self.argument else "")]
        if self.kind == "random" and self.preset in ("noise", "projection"):
            parts.append(f"seed {self.seed}")
        if self.kind == "structure" and not self.argument:
            parts.append("of masks")
        return ", ".join(parts)

    @property
    def whole(self) -> bool:
        """Whether it describes images alone, not cells of them."""
        return self.patch == WHOLE

    def feature_names(self) -> list[str]:
        """Return the name of each of the D numbers, with units where they have any."""
        if self.kind == "pixel":
            return pixel.feature_names(self.preset, self.channels)
        if self.kind == "structure":
            from emvfm.backbones.baselines.structure.presets import feature_names

            return feature_names(self.preset, dict(self.vocabulary).get("type", ()), self.unit)
        if self.preset == "onehot":
            return chance.one_hot_names(dict(self.vocabulary))
        return [f"{self.preset}{i}" for i in range(chance.WIDTH)]

    def bound(self, **known: Any) -> BaselineSpec:
        """Return the row with what is known of a dataset: channels, vocabulary, unit, digest of a table."""
        spec = replace(self, **known)
        return replace(spec, width=max(1, len(spec.feature_names())))

    def identity(self) -> dict[str, Any]:
        """Return what decides the numbers, as plain JSON values."""
        table = {"table": self.argument_digest} if self.argument_digest else {}
        return {
            "library": "emvfm",
            "model": self.name.partition("=")[0],  # an argument is told by what it says, not by its name
            "version": _VERSIONS[self.kind],
            "patch": self.patch,
            "channels": self.channels,
            "vocabulary": [[column, list(values)] for column, values in self.vocabulary],
            **table,
            **({"unit": self.unit} if self.kind == "structure" else {}),
        }

    def preprocess(self, options: BackboneOptions, view: View) -> BaselinePreprocess:
        """Return how images become input: at their own intensities."""
        return BaselinePreprocess.of(self, options, view)


def is_baseline(name: str) -> bool:
    """Return whether `name` is meant as a baseline's."""
    return name in FAMILIES or name.partition(":")[0] in FAMILIES


def _refuse(name: str, family: str) -> MissingError:
    presets = presets_of(family)
    close = difflib.get_close_matches(name.partition(":")[2], presets, n=1)
    return MissingError(
        "no such baseline",
        where=name,
        expected=", ".join(f"{family}:{preset}" for preset in presets),
        todo=f"did you mean {family}:{close[0]}?" if close else "see docs/baselines.md",
    )


def find_baseline(name: str) -> BaselineSpec:
    """Return the row of the baseline called `name`.

    Raises
    ------
    MissingError
        No such baseline; the message lists those of the family.
    UsageError
        A cell of an impossible size, columns missing, or an argument that the preset does not take.
    """
    family, _, rest = name.partition(":")
    head, equals, argument = rest.partition("=")
    match = re.fullmatch(r"([a-z]+)(?:/([0-9]{1,4}))?", head)
    if match is None or match[1] not in presets_of(family):
        raise _refuse(name, family)
    preset, cell = match[1], int(match[2] or CELL)
    takes = family == "structure" or preset == "onehot"
    if takes and match[2]:
        raise UsageError("it describes images, not cells of them", where=name, todo=f"leave out /{match[2]}")
    if bool(equals) != bool(argument) or (argument and not takes):
        raise UsageError("an argument it does not take", where=name, got=argument or "nothing after =")
    if preset == "onehot" and not all(columns_in(argument)):
        raise UsageError("which facts?", where=name, expected="columns, such as random:onehot=plate+well")
    if preset == "composition" and not argument:
        raise UsageError(
            "masks say no types of cells", where=name, expected=f"{name}=TABLE, with a column type"
        )
    if preset == "shape" and argument:
        raise UsageError("a table of cells says no shapes", where=name, todo="leave the table out")
    if not 4 <= cell <= 256:
        raise UsageError("not a size of cells", where=name, got=f"{cell} px", expected="4 to 256 px")
    spec = BaselineSpec(
        name=name, family="baseline", variant=preset, library="emvfm", model=name, tag="",
        patch=WHOLE if takes else cell, width=1, depth=1, heads=1, has_cls=True, registers=0,
        native=cell * max(1, 224 // cell), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0", hub="", files=(), parameters=0,
        lora_attention=(), lora_mlp=(), kind=family, preset=preset, argument=argument,
    )  # fmt: skip
    return spec.bound()
