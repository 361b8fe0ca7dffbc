"""``emvfm bench similarity``: how alike are backbones, their layers, or what runs predict from them?"""

from __future__ import annotations

from typing import Annotated

import typer

from emvfm.cli.bench.run import finish
from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.errors import UsageError
from emvfm.studies.bench.options import PANELS, SimilarityOptions

__all__ = ["register", "similarity"]


def similarity(
    call: Call,
    config: SimilarityOptions,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="A dataset, or tables of features (.csv, .tsv, .npz) of the same rows; none with --run.",
            autocompletion=complete_dataset,
        ),
    ] = None,
) -> None:
    """CKA, Procrustes, SVCCA, RSA and mutual neighbours of representations; or correlation of predictions."""
    from emvfm.studies.bench.similarity import study_predictions, study_similarity

    if config.run:
        from emvfm.studies.bench.predictions import read_predictions

        if sources:
            raise UsageError("runs are compared without datasets", where="--run", got=", ".join(sources))
        read = [one for name in config.run for one in read_predictions(call.workspace.find_run(name), name)]
        found, digests = study_predictions(read, config), {one.name: one.digest for one in read}
        detail = f"{found.source['rows']} rows in common"
    else:
        from emvfm.studies.bench.representations import open_representations

        opened = open_representations(call.workspace, sources or [], config, call.console)
        found, digests = study_similarity(opened, config), opened.digests
        detail = f"{opened.n} of {opened.total} rows"
    finish(call, "similarity", config, digests, found.to_json(), found.files(), *found.lines(), detail=detail)


def register(bench: typer.Typer) -> None:
    command(bench, "similarity", SimilarityOptions, panels=PANELS)(similarity)
