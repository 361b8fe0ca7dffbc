"""Losses, representation and heads: naive twins, scikit-learn alone, seeds, early stop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torchvision.ops import sigmoid_focal_loss

from emvfm.config import resolve, to_dict
from emvfm.errors import EmvfmError, RefusedError, UsageError
from emvfm.localization.epochs import balanced_rows, build_head
from emvfm.localization.heads import fit_head
from emvfm.localization.losses import asymmetric_loss, bce_loss, focal_loss, loss_of
from emvfm.localization.options import PRESETS, HeadOptions, preset
from emvfm.localization.representation import fit_representation

SMALL = HeadOptions(hidden=(16,), epochs=12, batch=32, patience=0)


def _data(seed: int = 0, n: int = 160, width: int = 10, classes: int = 3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)).astype(np.float32) * 3 + 1
    labels = x @ rng.normal(size=(width, classes)) + rng.normal(size=(n, classes)) > 2
    return x, labels


def _logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 4, generator=generator, dtype=torch.float64) * 4
    logits[0] = torch.tensor([60.0, -60.0, 0.0, -3.5])
    return logits, (torch.rand(20, 4, generator=generator) < 0.3).double()


def _asymmetric_twin(
    logits: np.ndarray, labels: np.ndarray, negative: float, positive: float, clip: float
) -> float:
    """Equations 1, 4 and 7 of arXiv 2009.14119, one entry at a time."""
    total = 0.0
    for z, label in zip(logits.ravel(), labels.ravel(), strict=True):
        p = expit(z)
        if label:
            total -= expit(-z) ** positive * -np.logaddexp(0, -z)
        elif clip == 0:
            total -= p**negative * -np.logaddexp(0, z)
        else:
            q = max(p - clip, 0.0)
            total -= q**negative * math.log(1 - q)
    return total / logits.size


def test_losses_are_those_of_loops() -> None:
    logits, labels = _logits()
    z, y = logits.numpy(), labels.numpy()
    plain = np.mean([np.logaddexp(0, -a if b else a) for a, b in zip(z.ravel(), y.ravel(), strict=True)])
    assert float(bce_loss(logits, labels)) == pytest.approx(plain, rel=1e-12)
    for gamma, alpha in ((2.0, 0.25), (0.5, 0.6)):
        expected = float(sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma, reduction="mean"))
        assert float(focal_loss(logits, labels, gamma=gamma, alpha=alpha)) == pytest.approx(
            expected, rel=1e-9
        )
    for negative, positive, clip in ((4.0, 1.0, 0.05), (2.0, 0.0, 0.2), (3.0, 1.0, 0.0)):
        found = asymmetric_loss(logits, labels, gamma_negative=negative, gamma_positive=positive, clip=clip)
        assert float(found) == pytest.approx(_asymmetric_twin(z, y, negative, positive, clip), rel=1e-9)


def test_losses_meet_where_they_should_and_have_finite_gradients() -> None:
    logits, labels = _logits()
    same = asymmetric_loss(logits, labels, gamma_negative=0, gamma_positive=0, clip=0)
    assert float(same) == pytest.approx(float(bce_loss(logits, labels)), rel=1e-12)
    assert float(focal_loss(logits, labels, gamma=0, alpha=0.5)) == pytest.approx(float(same) / 2, rel=1e-12)
    for name in ("bce", "focal", "asymmetric"):
        single = logits.float().clone().requires_grad_()
        loss_of(single, labels.float(), HeadOptions(loss=name)).backward()  # type: ignore[arg-type]
        assert torch.isfinite(single.grad).all()


def test_scaler_and_components_are_scikit_learns_on_the_fitted_rows() -> None:
    x, _ = _data()
    x[:, 3] = 7.0
    found = fit_representation(x[:100], pca=4)
    scaler = StandardScaler().fit(x[:100].astype(np.float64))
    expected = PCA(4, svd_solver="full").fit(scaler.transform(x[:100])).transform(scaler.transform(x))
    np.testing.assert_allclose(np.abs(found.apply(x)), np.abs(expected), atol=1e-4)
    assert (found.fitted_on, found.width) == (100, 4)
    np.testing.assert_array_equal(fit_representation(x, standardise=False).apply(x), x)
    with pytest.raises(UsageError, match="too many components"):
        fit_representation(x, pca=11)
    x[5, 5] = np.nan
    with pytest.raises(RefusedError, match="1 rows"):
        fit_representation(x)


def test_logistic_regression_and_neighbours_are_scikit_learns() -> None:
    x, labels = _data()
    labels[:, 2] = False
    scaled = StandardScaler().fit_transform(x)
    head = fit_head(x, labels, HeadOptions(head="logreg"))
    expected = LogisticRegression(max_iter=1000).fit(scaled, labels[:, 0]).predict_proba(scaled)[:, 1]
    np.testing.assert_allclose(head.scores(x)[:, 0], expected, atol=1e-4)
    assert not head.scores(x)[:, 2].any()
    near = fit_head(x, labels, HeadOptions(head="knn", neighbours=5, distance="euclidean")).scores(x[:9])
    found = NearestNeighbors(n_neighbors=5).fit(scaled).kneighbors(scaled[:9], return_distance=False)
    np.testing.assert_allclose(near, labels[found].mean(axis=1), atol=1e-12)


def test_an_mlp_learns_and_the_same_seed_gives_the_same_numbers() -> None:
    x, labels = _data()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (fit_head(x, labels, SMALL, seed=seed).scores(x) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    losses = fit_head(x, labels, SMALL).training.losses
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    assert ((first > 0) & (first < 1)).all()
    linear = fit_head(
        x, labels, HeadOptions(head="linear", epochs=150, batch=32, patience=0, learning_rate=0.01)
    )
    assert ((linear.scores(x) > 0.5) == labels).mean() > 0.85


def test_the_architecture_is_that_of_dino4cells() -> None:
    shapes = [tuple(p.shape) for p in build_head(768, 17, HeadOptions()).parameters()]
    assert shapes == [(512, 768), (512,), (256, 512), (256,), (17, 256), (17,)]
    assert [tuple(p.shape) for p in build_head(8, 3, HeadOptions(head="linear")).parameters()] == [
        (3, 8),
        (3,),
    ]


def test_training_stops_on_the_inner_split_and_keeps_its_best_epoch() -> None:
    x, labels = _data(n=120)
    rng = np.random.default_rng(1)
    held = rng.normal(size=(60, 10)).astype(np.float32), rng.random((60, 3)) < 0.4  # nothing to learn there
    options = HeadOptions(hidden=(32,), epochs=60, batch=16, patience=5, schedule="plateau")
    head = fit_head(x, labels, options, validation=held)
    run = head.training
    assert len(run.losses) == run.kept_epoch + 5 < 60
    assert run.validation[run.kept_epoch - 1] == max(run.validation)
    assert (run.n, run.n_validation) == (120, 60)
    # The kept weights are those of that epoch: a run of that length without stopping ends in them.
    short = HeadOptions(hidden=(32,), epochs=run.kept_epoch, batch=16, patience=0, schedule="plateau")
    np.testing.assert_array_equal(head.scores(x), fit_head(x, labels, short, validation=held).scores(x))
    with pytest.raises(UsageError, match="no inner split"):
        fit_head(x, labels, options)


def test_validation_rows_do_not_touch_the_representation() -> None:
    x, labels = _data()
    held = x + 100, labels
    options = HeadOptions(hidden=(8,), epochs=2, patience=3)
    own = fit_head(x, labels, options, validation=held).representation
    np.testing.assert_array_equal(own.mean, fit_representation(x).mean)


def test_balanced_sampling_draws_classes_alike() -> None:
    labels = np.zeros((1000, 3), bool)
    labels[:900, 0] = True
    labels[900:910, 1] = True
    labels[5, 1] = True
    rows = balanced_rows(labels, 40_000, np.random.default_rng(0))
    counts = np.bincount(rows, minlength=1000)
    assert not counts[910:].any()
    assert counts[900:910].sum() / 40_000 == pytest.approx(0.5 * 10 / 11, abs=0.01)
    assert counts[5] / 40_000 == pytest.approx(0.5 / 11 + 0.5 / 900, abs=0.01)
    with pytest.raises(UsageError, match="no positive row"):
        balanced_rows(labels[910:], 3, np.random.default_rng(0))
    x, truth = _data()
    fit_head(x, truth, HeadOptions(hidden=(4,), epochs=1, patience=0, sampling="balanced"))
    with pytest.raises(UsageError, match="for mlp and linear"):
        fit_head(x, truth, HeadOptions(head="knn", sampling="balanced"))


def test_presets_are_valid_options() -> None:
    for head, protocol in PRESETS.values():
        for options in (head, protocol):
            assert resolve(type(options), flags=to_dict(options)) == options
    assert preset("subcell")[0].loss == "focal"
    with pytest.raises(UsageError, match="no such preset"):
        preset("dino")


def test_what_cannot_be_fitted_is_refused() -> None:
    x, labels = _data()
    with pytest.raises(UsageError, match="row of labels"):
        fit_head(x, labels[:5])
    with pytest.raises(UsageError, match="more neighbours"):
        fit_head(x[:4], labels[:4], HeadOptions(head="knn"))
    with pytest.raises(EmvfmError, match="diverged"):
        fit_head(x * 1e30, labels, HeadOptions(standardise=False, learning_rate=1e30, patience=0, batch=16))
    with pytest.raises(UsageError, match="other embeddings"):
        fit_head(x, labels, HeadOptions(head="knn")).scores(x[:, :3])
