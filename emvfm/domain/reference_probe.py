"""The reference system's domain classifier, for numbers that can be put beside published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from emvfm.domain.probe_results import listed
from emvfm.errors import UsageError

__all__ = ["ReferenceProbe", "reference_probe"]


@dataclass(frozen=True)
class ReferenceProbe:
    """Accuracy and ROC-AUC of one random 80/20 split, and what always naming the largest dataset gives.

    Attributes
    ----------
    accuracy, auroc
        On the 20 %; AUROC is one against the rest, averaged, for more than two datasets.
    majority_accuracy
        Of always naming the largest dataset, on the same 20 %.
    n, n_test, components
        Images of each dataset, images tested, and PCA components (64, or fewer where there are fewer images).
    """

    names: tuple[str, ...]
    accuracy: float
    auroc: float
    majority_accuracy: float
    n: tuple[int, ...]
    n_test: int
    components: int
    seed: int
    protocol: str = (
        "PCA fitted on all images, stratified 80/20 split, logistic regression (L2, C = 1, 1000 iterations, "
        "not scaled)"
    )

    @property
    def verdict(self) -> str:
        return (
            f"{listed(self.names)}: accuracy {self.accuracy:.3f}, AUROC {self.auroc:.3f} on {self.n_test} images; "
            f"always naming the largest dataset gives {self.majority_accuracy:.3f}. What is wrong with it: PCA "
            "has seen the test images, neighbours of nearly every tested slice were learnt from, and a single "
            "split has no interval and no null, so it can't tell a domain gap from near-copies"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the verdict as plain JSON values."""
        return {**asdict(self), "verdict": self.verdict}


def reference_probe(
    names: Sequence[str], vectors: Sequence[ArrayLike], *, components: int = 64, seed: int = 0
) -> ReferenceProbe:
    """Classify datasets by ``(n_k, D)`` embeddings the way the reference does.

    Raises
    ------
    UsageError
        Too few images for a stratified split.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, roc_auc_score
    from sklearn.model_selection import train_test_split

    counts = [len(np.asarray(v)) for v in vectors]
    x = np.concatenate([np.asarray(v, np.float64) for v in vectors])
    y = np.repeat(np.arange(len(counts)), counts)
    kept = min(components, *x.shape)
    reduced = PCA(kept, svd_solver="full").fit_transform(x)
    try:
        x_train, x_test, y_train, y_test = train_test_split(
            reduced, y, test_size=0.2, stratify=y, random_state=seed
        )
    except ValueError:
        x_test = y_test = np.empty(0)
    if len(np.unique(y_test)) < len(counts):
        raise UsageError(
            "too few images for a stratified 80/20 split",
            where=" and ".join(names),
            got=" + ".join(map(str, counts)),
            expected="about 5 of each or more",
        )
    model = LogisticRegression(C=1.0, max_iter=1000).fit(x_train, y_train)
    probabilities = model.predict_proba(x_test)
    if len(counts) == 2:
        auroc = roc_auc_score(y_test, probabilities[:, 1])
    else:
        auroc = roc_auc_score(y_test, probabilities, multi_class="ovr")
    largest = int(np.argmax(counts))
    return ReferenceProbe(
        names=tuple(names),
        accuracy=float(accuracy_score(y_test, model.predict(x_test))),
        auroc=float(auroc),
        majority_accuracy=float((y_test == largest).mean()),
        n=tuple(counts),
        n_test=len(y_test),
        components=int(kept),
        seed=seed,
    )
