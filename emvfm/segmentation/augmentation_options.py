"""How strongly training crops are varied, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from emvfm.config import FORBID_EXTRA, Doc

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Strengths of `augmentation.augment`, each off at 0; defaults suit sections whose up and down mean nothing.

    The fields have names of their own, so that a training configuration can inherit them.
    """

    __pydantic_config__ = FORBID_EXTRA

    flips: Annotated[bool, Doc("Flip and turn crops by quarters, all eight ways alike often.")] = True
    warp: Annotated[float, Ge(0), Le(1), Doc("Chance of rotation, zoom and elastic change together.")] = 0.5
    rotation: Annotated[float, Ge(0), Le(180), Doc("Largest rotation either way in degrees.")] = 20.0
    zoom: Annotated[float, Ge(0), Le(3), Doc("Largest enlargement is one plus this, or its inverse.")] = 0.2
    elastic: Annotated[float, Ge(0), Le(16), Doc("Largest elastic displacement in pixels.")] = 6.0
    brightness: Annotated[float, Ge(0), Le(1), Doc("Largest shift of the grey level.")] = 0.1
    contrast: Annotated[float, Ge(0), Le(1), Doc("Largest relative change of contrast.")] = 0.2
    gamma: Annotated[float, Ge(0), Le(10), Doc("Largest gamma is one plus this, or its inverse.")] = 0.2
    noise: Annotated[float, Ge(0), Le(1), Doc("Largest deviation of noise.")] = 0.02
    blur: Annotated[float, Ge(0), Le(1), Doc("Chance of a blur.")] = 0.2
