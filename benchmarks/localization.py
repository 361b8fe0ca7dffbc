"""docs/performance-localization.md: cross-validated heads beside a bare PyTorch loop and scikit-learn alone.

``nox -s localization_speed`` needs nothing but emvfm; ``-- --rows 10000`` is a small run. Embeddings are drawn
with labels of 17 classes that they partly show; the same rows, folds, epochs and solver for both of a pair.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.document import Document
from benchmarks.timing import Paired, paired
from emvfm.localization.crossvalidation import cross_validate
from emvfm.localization.epochs import build_head
from emvfm.localization.folds import Folds, make_folds
from emvfm.localization.options import HeadOptions, ProtocolOptions
from emvfm.localization.simulation import simulate_embeddings

__all__ = ["Material", "logreg_beside_scikit_learn", "make_material", "mlp_beside_a_bare_loop"]

COMMAND = "nox -s localization_speed"


@dataclass(frozen=True)
class Material:
    """Embeddings ``(N, D)`` float32, labels ``(N, L)`` bool, proteins ``(N,)``, and folds of whole proteins."""

    embeddings: NDArray[np.float32]
    labels: NDArray[np.bool_]
    groups: NDArray[np.intp]
    folds: Folds


def make_material(
    rows: int = 100_000, width: int = 768, classes: int = 17, folds: int = 5, *, seed: int = 0
) -> Material:
    """Draw 1310 proteins (as many as OpenCell has), with rare and common labels."""
    rng = np.random.default_rng(seed)
    groups = np.sort(np.arange(rows) % min(rows, 1310))
    shares = np.geomspace(0.01, 0.5, classes)
    labels = (rng.random((int(groups.max()) + 1, classes)) < shares)[groups]
    x = simulate_embeddings(labels, groups, width=width, signal=0.3, identity=1.0, noise=2.0, seed=seed)
    return Material(x, labels, groups, make_folds(labels, groups, k=folds, seed=seed))


def _bare_loop(material: Material, options: HeadOptions) -> NDArray[np.float32]:
    """Train the same head on every fold with nothing around it but a scaler; return the test probabilities."""
    found = np.empty(material.labels.shape, np.float32)
    for train, test in material.folds:
        scaler = StandardScaler().fit(material.embeddings[train])
        x = torch.from_numpy(scaler.transform(material.embeddings[train]))
        y = torch.from_numpy(material.labels[train].astype(np.float32))
        torch.manual_seed(0)
        model = build_head(x.shape[1], y.shape[1], options)
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        steps = options.epochs * -(-len(x) // options.batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(options.epochs):
            for rows in torch.randperm(len(x)).split(options.batch):
                loss = binary_cross_entropy_with_logits(model(x[rows]), y[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        model.eval()
        with torch.inference_mode():
            tested = torch.from_numpy(scaler.transform(material.embeddings[test]))
            found[test] = torch.sigmoid(model(tested)).numpy()
    return found


def mlp_beside_a_bare_loop(material: Material, *, epochs: int = 5, rounds: int = 3) -> Paired:
    """Time the whole protocol with early stopping, thresholds and all scores, and the bare loop, in turns.

    Stopping is watched and never happens, so that both train as many epochs; the protocol trains on 85 % of the rows
    that the bare loop has, and looks at the other 15 % after each epoch.
    """
    options = HeadOptions(epochs=epochs, patience=epochs)
    protocol = ProtocolOptions()

    def ours() -> object:
        return cross_validate(
            material.embeddings, material.labels, material.groups, options, protocol, folds=material.folds
        )

    return paired({"emvfm": ours, "bare loop": lambda: _bare_loop(material, options)}, rounds)


def _scikit_learn(material: Material, options: HeadOptions) -> NDArray[np.float64]:
    found = np.empty(material.labels.shape)
    for train, test in material.folds:
        scaler = StandardScaler().fit(material.embeddings[train])
        x, tested = (scaler.transform(material.embeddings[rows]) for rows in (train, test))
        for i, column in enumerate(material.labels.T):
            model = LogisticRegression(C=options.c, max_iter=options.iterations).fit(x, column[train])
            found[test, i] = model.predict_proba(tested)[:, 1]
    return found


def logreg_beside_scikit_learn(material: Material, *, rounds: int = 3) -> Paired:
    """Time the protocol with fixed thresholds and all scores, and scikit-learn's regressions alone, in turns."""
    options, protocol = HeadOptions(head="logreg"), ProtocolOptions(thresholds="fixed")

    def ours() -> object:
        return cross_validate(
            material.embeddings, material.labels, material.groups, options, protocol, folds=material.folds
        )

    return paired({"emvfm": ours, "scikit-learn": lambda: _scikit_learn(material, options)}, rounds)


def _section(page: Document, title: str, found: Paired, peer: str, bound: float, said: str) -> None:
    ratio, low, high = found.ratio("emvfm", peer)
    page.section(title, said)
    page.table(
        ["", "seconds, median", "rounds"],
        [
            [name, found.median(name), ", ".join(f"{s:.1f}" for s in found.seconds[name])]
            for name in found.seconds
        ],
    )
    verdict = "kept" if ratio <= bound else "NOT kept"
    page.text(
        f"emvfm / {peer}: **{ratio:.2f}** (rounds {low:.2f} to {high:.2f}); the bound of {bound} is {verdict}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="of torch; all cores without it")
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), help="folder of performance-localization.md"
    )
    given = parser.parse_args(arguments)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    material = make_material(given.rows, given.width)
    shape = f"{given.rows} × {given.width} embeddings, {material.labels.shape[1]} classes, {material.folds.k} folds"
    asked = " ".join(sys.argv[1:] if arguments is None else arguments)
    page = Document(
        "Performance: localisation",
        COMMAND + (f" -- {asked}" if asked else ""),
        f"Both of a pair take turns within one run, {given.rounds} rounds after one to warm up; {shape}, "
        f"{torch.get_num_threads()} threads.",
    )
    _section(
        page, "The mlp head", mlp_beside_a_bare_loop(material, epochs=given.epochs, rounds=given.rounds),
        "bare loop", 2.0,
        f"Folds, scaler, inner split, {given.epochs} epochs watched by the inner split, thresholds a class, and all "
        "scores, beside a loop of PyTorch with a scaler that trains as many epochs.",
    )  # fmt: skip
    _section(
        page, "Logistic regression", logreg_beside_scikit_learn(material, rounds=given.rounds),
        "scikit-learn", 1.2, "The same regressions by the same solver, with and without the protocol around them.",
    )  # fmt: skip
    page.write(given.out / "performance-localization.md")


if __name__ == "__main__":
    main()
