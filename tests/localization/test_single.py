"""Rows with one label: classes compete, in losses, heads and decisions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import StandardScaler

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.crossvalidation import cross_validate
from emvfm.localization.heads import fit_head
from emvfm.localization.losses import loss_of, softmax_loss
from emvfm.localization.options import HeadOptions, ProtocolOptions
from emvfm.localization.thresholds import likeliest

MLP = HeadOptions(single=True, hidden=(16,), epochs=15, batch=32, patience=0, learning_rate=0.01)
HEADS = [
    MLP,
    replace(MLP, head="linear", loss="focal"),
    HeadOptions(head="logreg", single=True),
    HeadOptions(head="knn", single=True, neighbours=5),
]


def _data(n: int = 180, classes: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    number = rng.integers(0, classes, n)
    x = rng.normal(size=(n, 6)).astype(np.float32) + 1.5 * np.eye(classes, 6, dtype=np.float32)[number]
    return x, np.arange(classes) == number[:, None], np.repeat([f"p{i:02d}" for i in range(n // 3)], 3)


def test_the_loss_is_torchs_cross_entropy_and_its_focal_form_that_of_a_loop() -> None:
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
    logits[0] = torch.tensor([80.0, 0, 0, 0])
    number = torch.arange(20) % 4
    labels = torch.nn.functional.one_hot(number, 4).double()
    expected = torch.nn.functional.cross_entropy(logits, number)
    assert float(softmax_loss(logits, labels)) == pytest.approx(float(expected), rel=1e-12)
    p = logits.softmax(dim=1).numpy()[np.arange(20), number]
    assert float(softmax_loss(logits, labels, gamma=2)) == pytest.approx(
        float(np.mean(-((1 - p) ** 2) * np.log(p))), rel=1e-9
    )
    single = logits.float().requires_grad_()
    loss_of(single, labels.float(), HeadOptions(single=True, loss="focal")).backward()
    assert torch.isfinite(single.grad).all()
    with pytest.raises(UsageError, match="several labels"):
        loss_of(logits, labels, HeadOptions(single=True, loss="asymmetric"))


@pytest.mark.parametrize("head", HEADS, ids=lambda head: f"{head.head}-{head.loss}")
def test_probabilities_of_a_row_add_up_to_one_and_the_classes_are_learnt(head) -> None:
    x, labels, _ = _data()
    scores = fit_head(x[:120], labels[:120], head).scores(x[120:])
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert (scores.argmax(axis=1) == labels[120:].argmax(axis=1)).mean() > 0.6


def test_the_regression_is_scikit_learns_of_all_classes_and_a_class_without_rows_gets_nothing() -> None:
    x, labels, _ = _data()
    wider = np.concatenate([labels, np.zeros((len(labels), 1), bool)], axis=1)
    scores = fit_head(x, wider, HeadOptions(head="logreg", single=True)).scores(x)
    scaled = StandardScaler().fit_transform(x)
    expected = LogisticRegression(max_iter=1000).fit(scaled, labels.argmax(axis=1)).predict_proba(scaled)
    np.testing.assert_allclose(scores[:, :3], expected, atol=1e-4)
    assert not scores[:, 3].any()


@pytest.mark.parametrize("head", HEADS, ids=lambda head: f"{head.head}-{head.loss}")
def test_exactly_one_class_is_predicted_and_the_scores_are_scikit_learns(head) -> None:
    x, labels, groups = _data()
    found = cross_validate(x, labels, groups, head, ProtocolOptions(folds=3))
    assert (found.predictions.decided.sum(axis=1) == 1).all()
    assert {run.thresholds.rule for run in found.runs} == {"likeliest"}
    truth, said = (a.argmax(axis=1) for a in (found.predictions.labels, found.predictions.decided))
    assert found.pooled.exact_match == pytest.approx(accuracy_score(truth, said), abs=1e-12)
    assert found.pooled.macro_f1_present == pytest.approx(f1_score(truth, said, average="macro"), abs=1e-12)
    assert "likeliest" in found.pooled.protocol


def test_the_likeliest_class_is_the_first_of_equal_ones() -> None:
    decided = likeliest().decide([[0.2, 0.5, 0.5], [0.9, 0.1, 0.0]])
    np.testing.assert_array_equal(decided, [[0, 1, 0], [1, 0, 0]])


def test_rows_with_several_labels_are_refused_and_so_is_a_protein_with_two_classes_at_its_own_level() -> None:
    x, labels, groups = _data()
    both = labels.copy()
    both[3] = True
    with pytest.raises(UsageError, match="1 rows without or with several"):
        fit_head(x, both, HEADS[2])
    with pytest.raises(RefusedError, match="different labels"):
        cross_validate(x, labels, groups, HEADS[2], ProtocolOptions(folds=3, level="group"))
