"""Corrections against their formulas and peers, at full and at lacking rank."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from emvfm.errors import RefusedError, UsageError
from emvfm.representations.corrections import CORRECTIONS, CorrectionOptions, correct, fit_correction

NAMES = sorted(CORRECTIONS)


def plates(n: int = 60, d: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Two plates, the second shifted and stretched; every other row is a control."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2 * n, d)) @ rng.normal(size=(d, d)) + 3
    features[n:] = features[n:] * rng.uniform(0.5, 2, d) + rng.normal(size=d)
    return features, np.tile([True, False], n), ["p1"] * n + ["p2"] * n


def as_efaar(x: np.ndarray, controls: np.ndarray, batches: list[str]) -> np.ndarray:
    """Written from `tvn_on_controls` of recursionpharma/EFAAR_benchmarking."""
    x = StandardScaler().fit(x[controls]).transform(x)
    x = PCA().fit(x[controls]).transform(x)
    x = StandardScaler().fit(x[controls]).transform(x)
    labels = np.array(batches)
    for batch in np.unique(labels):
        own = labels == batch
        covariance = np.cov(x[own & controls], rowvar=False) + 0.5 * np.eye(x.shape[1])
        x[own] = x[own] @ fractional_matrix_power(covariance, -0.5)
    return x


def as_combat(x: np.ndarray, controls: np.ndarray, batches: list[str]) -> np.ndarray:
    """Johnson et al. 2007, equations 3.1 and onwards, by loops over the standardised data."""
    labels, out = np.array(batches), x.copy()
    fit = x[controls]
    names = np.unique(labels)
    alpha = sum((labels[controls] == b).mean() * fit[labels[controls] == b].mean(0) for b in names)
    residual = np.concatenate(
        [fit[labels[controls] == b] - fit[labels[controls] == b].mean(0) for b in names]
    )
    sigma = np.sqrt((residual**2).mean(0))
    for b in names:
        z = (fit[labels[controls] == b] - alpha) / sigma
        gamma_hat, delta_hat = z.mean(0), z.var(0, ddof=1)
        bar, tau2 = gamma_hat.mean(), gamma_hat.var(ddof=1)
        v, s2 = delta_hat.mean(), delta_hat.var(ddof=1)
        lam, theta = (v**2 + 2 * s2) / s2, (v**3 + v * s2) / s2
        for g in range(x.shape[1]):
            gamma, delta = gamma_hat[g], delta_hat[g]
            for _ in range(500):
                gamma = (len(z) * tau2 * gamma_hat[g] + delta * bar) / (len(z) * tau2 + delta)
                delta = (theta + 0.5 * ((z[:, g] - gamma) ** 2).sum()) / (len(z) / 2 + lam - 1)
            own = labels == b
            standard = (x[own, g] - alpha[g]) / sigma[g]
            out[own, g] = sigma[g] / np.sqrt(delta) * (standard - gamma) + alpha[g]
    return out


def test_tvn_is_that_of_efaar_at_full_rank() -> None:
    features, controls, batches = plates()
    ours, theirs = correct("tvn", features, controls, batches), as_efaar(features, controls, batches)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-9)  # axes may point the other way


def test_combat_is_the_paper_s() -> None:
    features, controls, batches = plates()
    np.testing.assert_allclose(
        correct("combat", features, controls, batches), as_combat(features, controls, batches), atol=1e-8
    )


def test_sphering_gives_controls_a_covariance_of_one_and_keeps_directions() -> None:
    features, controls, _ = plates(seed=3)
    out = correct("sphere", features, controls)
    np.testing.assert_allclose(np.cov(out[controls], rowvar=False), np.eye(5), atol=1e-9)
    np.testing.assert_allclose(out[controls].mean(0), 0, atol=1e-9)
    shrunk = correct("sphere", features, controls, options=CorrectionOptions(shrinkage=1.0))
    centred = correct("center", features, controls)
    ratio = shrunk[np.abs(centred) > 1e-3] / centred[np.abs(centred) > 1e-3]
    np.testing.assert_allclose(ratio, ratio.flat[0])  # fully shrunk, it only scales


def test_coral_gives_every_batch_the_covariance_and_mean_of_all() -> None:
    features, controls, batches = plates(400)
    out = correct("coral", features, controls, batches, options=CorrectionOptions(ridge=1e-9))
    labels = np.array(batches)
    first, second = (out[controls & (labels == name)] for name in ("p1", "p2"))
    np.testing.assert_allclose(
        np.cov(first, rowvar=False), np.cov(second, rowvar=False), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(first.mean(0), features[controls].mean(0), atol=1e-9)


def test_coral_of_few_controls_stretches_no_direction_much() -> None:
    features, controls, batches = plates(12, 40, seed=1)
    scale = np.diag(np.logspace(0, 3, 40))
    fitted = fit_correction("coral", features @ scale, controls, batches)
    for mapped in fitted.maps.values():
        assert np.linalg.svd(mapped.matrix, compute_uv=False)[0] <= np.sqrt(1 + 1 / 0.5) + 1e-6


def test_pca_cs_scales_the_axes_on_each_batch() -> None:
    features, controls, batches = plates()
    out = correct("pca-cs", features, controls, batches, options=CorrectionOptions(components=3))
    for name in ("p1", "p2"):
        own = out[controls & (np.array(batches) == name)]
        np.testing.assert_allclose(own.mean(0), 0, atol=1e-9)
        np.testing.assert_allclose(own.std(0), 1, atol=1e-9)
    assert out.shape[1] == 3


def test_center_takes_off_the_mean_of_each_batch_and_none_nothing() -> None:
    features, controls, batches = plates()
    out = correct("center", features, controls, batches)
    for name in ("p1", "p2"):
        np.testing.assert_allclose(out[controls & (np.array(batches) == name)].mean(0), 0, atol=1e-12)
    np.testing.assert_array_equal(correct("none", features, controls, batches), features)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "flaw", ["fewer controls than dimensions", "duplicated columns", "a constant column"]
)
def test_controls_of_lacking_rank_keep_every_value_small(name: str, flaw: str) -> None:
    features, controls, batches = plates(12, 40 if flaw.startswith("fewer") else 6, seed=1)
    if flaw == "duplicated columns":
        features = np.concatenate([features, features], axis=1)
    if flaw == "a constant column":
        features[:, 2] = 7.0
    fitted = fit_correction(name, features, controls, batches)
    out = fitted.apply(features, batches)
    assert np.isfinite(out).all()
    assert np.abs(out).max() < 1e3
    assert len(out) == len(features)
    json.dumps(fitted.to_json(), allow_nan=False)


def test_the_peer_blows_up_where_ours_does_not() -> None:
    features, controls, batches = plates(12, 40, seed=1)
    assert np.abs(np.real(as_efaar(features, controls, batches))).max() > 1e6


def test_rank_and_condition_are_told() -> None:
    features, controls, _ = plates(12, 40)
    fitted = fit_correction("sphere", features, controls)
    assert (fitted.n_controls, fitted.dimensions, fitted.rank) == (12, 40, 11)
    assert fitted.condition > 1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_corrections_are_fitted_on_controls_alone(name: str) -> None:
    features, controls, batches = plates()
    other = features.copy()
    other[~controls] += 100
    np.testing.assert_allclose(
        correct(name, features, controls, batches)[controls],
        correct(name, other, controls, batches)[controls],
    )


@pytest.mark.parametrize("name", ["center", "coral", "combat"])
def test_a_shift_of_a_whole_plate_is_taken_out(name: str) -> None:
    features, controls, batches = plates()
    shifted = features + 5.0 * (np.array(batches) == "p2")[:, None]
    gap = [
        np.linalg.norm(np.diff([out[np.array(batches) == p].mean(0) for p in ("p1", "p2")], axis=0))
        for out in (shifted, correct(name, shifted, controls, batches))
    ]
    assert gap[1] < gap[0] / 4


def test_what_cannot_be_fitted_is_refused_in_one_line() -> None:
    features, controls, batches = plates()
    with pytest.raises(UsageError, match="no such correction"):
        correct("whiten", features, controls)
    with pytest.raises(UsageError, match="bring together"):
        correct("combat", features, controls)
    with pytest.raises(RefusedError, match=r"batch p2.*too few controls"):
        correct("tvn", features, controls & (np.array(batches) == "p1"), batches)
    for name in ("sphere", "tvn", "pca-cs"):
        with pytest.raises(RefusedError, match="do not vary"):
            correct(name, np.ones((10, 3)), np.ones(10, bool))
    with pytest.raises(UsageError, match="one flag per row"):
        correct("center", features, controls[:-1])
    with pytest.raises(UsageError, match="not finite"):
        correct("center", features * np.nan, controls)
    with pytest.raises(UsageError, match="ridge"):
        CorrectionOptions(ridge=0)
    fitted = fit_correction("center", features, controls, batches)
    with pytest.raises(UsageError, match="p3"):
        fitted.apply(features[:1], ["p3"])
    with pytest.raises(UsageError, match="one batch per row"):
        fitted.apply(features, ["p1"])
