"""The reference's domain classifier against its recipe written out, and the sentence that goes with it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from emvfm.domain.reference_probe import reference_probe
from emvfm.errors import UsageError


@pytest.mark.parametrize(("sizes", "components"), [((90, 30), 64), ((20, 10), 30), ((40, 30, 20), 64)])
def test_it_is_the_recipe_step_by_step(sizes: tuple[int, ...], components: int) -> None:
    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(n, 80)) + 0.1 * i for i, n in enumerate(sizes)]
    found = reference_probe([f"d{i}" for i in range(len(sizes))], sets, seed=3)
    x, y = np.concatenate(sets), np.repeat(np.arange(len(sizes)), sizes)
    x = PCA(components, svd_solver="full").fit_transform(x)
    a, b, ya, yb = train_test_split(x, y, test_size=0.2, stratify=y, random_state=3)
    model = LogisticRegression(max_iter=1000).fit(a, ya)
    probabilities = model.predict_proba(b)
    assert found.accuracy == pytest.approx(model.score(b, yb))
    expected = roc_auc_score(yb, probabilities[:, 1] if len(sizes) == 2 else probabilities, multi_class="ovr")
    assert found.auroc == pytest.approx(expected)
    assert found.majority_accuracy == pytest.approx((yb == 0).mean())
    assert (found.components, found.n, found.n_test) == (components, sizes, len(yb))
    assert f"{found.majority_accuracy:.3f}" in found.verdict
    assert "What is wrong with it" in found.verdict
    assert found.to_json()["verdict"] == found.verdict


def test_near_copies_deceive_it() -> None:
    rng = np.random.default_rng(1)
    copies = [np.repeat(rng.normal(size=(10, 40)), 8, axis=0) for _ in range(2)]
    assert reference_probe("ab", copies).accuracy == 1.0  # although both datasets are of one kind


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UsageError, match="stratified"):
        reference_probe("ab", [np.eye(2), np.eye(2)])
    with pytest.raises(UsageError, match="stratified"):
        reference_probe("ab", [np.eye(20), np.eye(20)[:2]])
