"""What ``emvfm study`` can be told, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from emvfm.config import FORBID_EXTRA, Doc

__all__ = ["StudyOptions"]


@dataclass(frozen=True)
class StudyOptions:
    """How a study is carried out; none of it changes a result, but for `stand_in`, which has its own."""

    __pydantic_config__ = FORBID_EXTRA

    data_from: Annotated[
        Path | None, Doc("Folder with the sources that the study composes from; else downloaded ones.")
    ] = None
    weights_from: Annotated[
        Path | None, Doc("Folder with the weight files that the study names; else the workspace's weights/.")
    ] = None
    only: Annotated[
        tuple[str, ...], Doc("Runs of this part alone: axis=label or seed=N; repeatable, all must hold.")
    ] = ()
    jobs: Annotated[int, Ge(1), Doc("Processes that share the study, and the cores.")] = 1
    stand_in: Annotated[
        bool,
        Doc("Tiny untrained networks and phantoms in place of all: proves the plumbing, not the answer."),
    ] = False
