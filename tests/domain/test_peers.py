"""The same arrays through the definitions of dgm-eval and pytorch-ood, written out here from their sources.

Neither package is needed: dgm-eval (layer6ai-labs/dgm-eval, ``dgm_eval/metrics/{fd,mmd,prdc,sw}.py``) calls functions
that SciPy removed, pytorch-ood (kkirchheim/pytorch-ood, ``src/pytorch_ood/{detector,utils/metrics}.py``) is built on
torch. Where ours deviates on purpose, a test says by how much.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import spearmanr
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LinearRegression
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve
from sklearn.metrics.pairwise import euclidean_distances, polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from emvfm.domain import kernel
from emvfm.domain.coverage import Coverage, neighbour_coverage
from emvfm.domain.detection import Detection, measure_detection
from emvfm.domain.frechet import FrechetAtInfinity, frechet_distance, gram
from emvfm.domain.outliers import fit_detector
from emvfm.domain.transport import SlicedWasserstein

Array = np.ndarray


def sets(n: int, m: int, d: int, shift: float = 0.3, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    return rng.normal(size=(n, d)) @ mix, 1.3 * rng.normal(size=(m, d)) @ mix + shift


def rows(n: int, m: int) -> tuple[Array, Array]:
    return np.arange(n), n + np.arange(m)


# dgm-eval -----------------------------------------------------------------------------------------------------------


def dgm_fd(x: Array, y: Array) -> float:
    """``fd.compute_FD_with_reps``: covariances of ddof 1 and the matrix root of their product."""
    (mu, s), (nu, t) = ((z.mean(0), np.cov(z, rowvar=False)) for z in (x, y))
    return float((mu - nu) @ (mu - nu) + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t)).real)


@pytest.mark.parametrize(("n", "m", "d"), [(60, 45, 8), (200, 300, 40)])
def test_frechet_distance_is_that_of_dgm_eval(n: int, m: int, d: int) -> None:
    x, y = sets(n, m, d)
    assert frechet_distance(x, y) == pytest.approx(dgm_fd(x, y), rel=1e-8)


def test_where_covariances_are_singular_the_efficient_form_of_dgm_eval_agrees_to_its_own_rounding() -> None:
    # ``fd.compute_efficient_FD_with_reps``: roots of the eigenvalues of a product that is not symmetric, where each of
    # the many zeros comes out as about ±1e-16 of the largest and its root as 1e-8 of that.
    x, y = sets(20, 15, 60)
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(s @ t).astype(complex)).real.sum()
    efficient = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * roots
    assert frechet_distance(x, y) == pytest.approx(efficient, rel=1e-6)


def dgm_sizes(n: int, points: int) -> Array:
    """How many rows of the second set ``fd.compute_FD_infinity`` draws."""
    return np.linspace(min(5000, max(n // 10, 2)), n, points).astype(int)


def test_the_line_to_infinite_n_is_the_regression_of_dgm_eval_through_our_points() -> None:
    x, y = sets(60, 60, 6)
    found = FrechetAtInfinity(gram(x, y), range(120), points=15, seed=1).fit(*rows(60, 60))
    assert found is not None
    line = LinearRegression().fit(np.reshape(found.inverse_n, (-1, 1)), found.distances)
    assert found.value == pytest.approx(line.intercept_, rel=1e-8)
    assert found.distances[-1] == pytest.approx(dgm_fd(x, y), rel=1e-8)


def test_ours_also_takes_off_the_bias_of_the_first_set_which_dgm_eval_keeps() -> None:
    # dgm-eval draws from the second set alone, unseeded; with 50 000 images in the first that is no matter, with 60 it
    # is. Under one law the distance at infinite n is nought.
    ours, theirs = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(60, 6)), rng.normal(size=(60, 6))
        sizes = dgm_sizes(60, 15)
        drawn = [dgm_fd(x, y[rng.permutation(60)[:size]]) for size in sizes if size > 2]
        usable = sizes[sizes > 2]
        theirs.append(LinearRegression().fit(1 / usable.reshape(-1, 1), drawn).intercept_)
        ours.append(FrechetAtInfinity(gram(x, y), range(120), seed=seed)(*rows(60, 60)))
    error = np.std(ours) / np.sqrt(len(ours))
    assert abs(np.mean(ours)) < 4 * error
    assert np.mean(theirs) > 3 * abs(np.mean(ours))


def dgm_mmd(x: Array, y: Array) -> float:
    """``mmd.compute_polynomial_mmd``: unbiased, cubic, gamma 1/D, for sets of one size."""
    m = len(x)
    own = sum(k.sum() - np.trace(k) for k in (polynomial_kernel(z, degree=3, coef0=1) for z in (x, y)))
    return float(own / (m * (m - 1)) - 2 * polynomial_kernel(x, y, degree=3, coef0=1).mean())


def test_kernel_distance_is_that_of_dgm_eval() -> None:
    x, y = sets(40, 40, 12)
    found = kernel.mmd2(kernel.polynomial_kernel(x, y), *rows(40, 40))
    assert found == pytest.approx(dgm_mmd(x, y), rel=1e-9)


def test_the_block_estimator_is_that_of_dgm_eval_on_the_same_subsets() -> None:
    # ``mmd.compute_mmd``: mean and deviation over subsets drawn without repetition, cut to the smaller set.
    x, y = sets(50, 30, 12)
    found = kernel.mmd2_of_subsets(kernel.polynomial_kernel(x, y), *rows(50, 30), size=20, subsets=12, seed=3)
    rng = np.random.default_rng(3)
    values = []
    for _ in range(12):
        first, second = rng.permutation(50)[:20], rng.permutation(30)[:20]
        values.append(dgm_mmd(x[first], y[second]))
    assert (found.mean, found.deviation) == pytest.approx((np.mean(values), np.std(values)), rel=1e-9)
    whole = kernel.mmd2_of_subsets(kernel.polynomial_kernel(x, y), *rows(50, 30))
    assert whole.size == 30  # of the thousand it would take


def dgm_prdc(real: Array, fake: Array, k: int) -> Coverage:
    """``prdc.compute_prdc``: the radius is the largest of the k + 1 smallest distances, of which one is to itself."""
    radius, own = (np.sort(euclidean_distances(z), axis=1)[:, k] for z in (real, fake))
    across = euclidean_distances(real, fake)
    return Coverage(
        precision=(across < radius[:, None]).any(axis=0).mean(),
        recall=(across < own[None]).any(axis=1).mean(),
        density=(across < radius[:, None]).sum(axis=0).mean() / k,
        coverage=(across.min(axis=1) < radius).mean(),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 0.3, 1.5])
def test_precision_recall_density_and_coverage_are_those_of_dgm_eval(k: int, shift: float) -> None:
    x, y = sets(40, 25, 5, shift)
    found = neighbour_coverage(kernel.squared_distances(x, y), *rows(40, 25), k=k)
    assert tuple(found) == pytest.approx(tuple(dgm_prdc(x, y, k)), abs=1e-12)


def test_our_balls_hold_their_surface_as_published_and_those_of_dgm_eval_do_not() -> None:
    # Of two equal sets the k-th neighbour lies on the ball: the papers count it (arXiv:1904.06991, eq. 1, "at most"),
    # dgm-eval's "<" does not. Density then differs by 1 / k.
    x, _ = sets(30, 1, 4)
    k = 3
    found = neighbour_coverage(kernel.squared_distances(x, x), *rows(30, 30), k=k)
    theirs = dgm_prdc(np.round(x, 6), np.round(x, 6), k)
    assert found.density - theirs.density == pytest.approx(1 / k, abs=0.02)
    assert (found.precision, theirs.precision) == (1, 1)


def test_sliced_wasserstein_is_near_the_gaussian_approximation_of_dgm_eval_in_many_dimensions() -> None:
    # ``sw.sw_approx`` (arXiv:2106.15427) replaces directions by what they give on average; ours draws them.
    rng = np.random.default_rng(5)
    d = 300
    x, y = rng.normal(size=(400, d)), 1.5 * rng.normal(size=(400, d)) + 0.4
    spread = [np.sqrt(((z - z.mean(0)) ** 2).sum(1).mean() / d) for z in (x, y)]
    approximation = np.sqrt(((x.mean(0) - y.mean(0)) ** 2).sum() / d + (spread[0] - spread[1]) ** 2)
    found = SlicedWasserstein(x, y, projections=2000, seed=0)(*rows(400, 400))
    assert found == pytest.approx(approximation, rel=0.05)


# pytorch-ood --------------------------------------------------------------------------------------------------------


def scatter(x: Array, labels: Array) -> Array:
    """Sums of products of centred rows, over classes; pytorch-ood divides by no n, and adds 1e-6 to the diagonal."""
    centred = np.concatenate([x[labels == c] - x[labels == c].mean(0) for c in np.unique(labels)])
    return centred.T @ centred + 1e-6 * np.eye(x.shape[1])


def quadratic(y: Array, mean: Array, matrix: Array) -> Array:
    return np.einsum("ij,jk,ik->i", y - mean, np.linalg.pinv(matrix), y - mean)


def ood_mahalanobis(x: Array, y: Array) -> Array:
    """``detector.Mahalanobis`` of one class: half of the squared distance."""
    return quadratic(y, x.mean(0), scatter(x, np.zeros(len(x)))) / 2


def test_mahalanobis_is_that_of_pytorch_ood_but_for_shrinkage() -> None:
    x, y = sets(400, 30, 6)
    n, d = x.shape
    found = fit_detector("mahalanobis", x).score(y)
    # Shrinking the covariance in it by Ledoit and Wolf's share gives ours, to the last digits.
    share = ledoit_wolf(x)[1]
    covariance = (scatter(x, np.zeros(n)) - 1e-6 * np.eye(d)) / n
    shrunk = (1 - share) * covariance + share * np.trace(covariance) / d * np.eye(d)
    np.testing.assert_allclose(found**2, quadratic(y, x.mean(0), shrunk), rtol=1e-9)
    # Without it, scores differ by a constant (n, the half) and by the share, and hardly in their order.
    theirs = 2 * n * ood_mahalanobis(x, y)
    least = np.linalg.eigvalsh(covariance)[0]
    most = share * np.trace(covariance) / d / least + 1e-6
    assert (theirs / found**2 <= 1 + most).all()
    assert spearmanr(theirs, found).statistic > 0.95


def test_with_fewer_images_than_dimensions_that_of_pytorch_ood_is_decided_by_its_constant() -> None:
    # What is new lies outside of the span of the fitted images, where 1e-6 is all there is: the reason to shrink.
    x, y = sets(20, 10, 40, shift=0.0)
    n = len(x)
    outside = 2 * ood_mahalanobis(x, y)
    basis = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][: n - 1]
    left = y - x.mean(0) - (y - x.mean(0)) @ basis.T @ basis
    assert ((left**2).sum(1) / 1e-6 / outside).min() > 0.99
    assert fit_detector("mahalanobis", x).score(y).max() < 1e3


def test_relative_mahalanobis_is_that_of_pytorch_ood_but_for_shrinkage() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(3), 200)
    means, mix = 4 * rng.normal(size=(3, 5)), rng.normal(size=(5, 5))
    x, y = means[labels] + rng.normal(size=(600, 5)) @ mix, 3 * rng.normal(size=(40, 5))

    def relative(within: Array, background: Array) -> Array:
        """``detector.RMD``: to the nearest class by what is within classes, less that to all by all."""
        own = np.min([quadratic(y, x[labels == c].mean(0), within) for c in range(3)], axis=0)
        return own - quadratic(y, x.mean(0), background)

    def shrunk(centred: Array) -> Array:
        share, covariance = ledoit_wolf(centred)[1], centred.T @ centred / 600
        return (1 - share) * covariance + share * np.trace(covariance) / 5 * np.eye(5)

    found = fit_detector("relative", x, groups=[str(c) for c in labels]).score(y)
    centred = x - np.stack([x[labels == c].mean(0) for c in range(3)])[labels]
    np.testing.assert_allclose(found, relative(shrunk(centred), shrunk(x - x.mean(0))), rtol=1e-8)
    theirs = 600 * relative(scatter(x, labels), scatter(x, np.zeros(600)))  # sums, that is n times ours
    # Shrinkage matters where directions differ in spread.
    assert 0.9 < spearmanr(found, theirs).statistic < 0.99


def test_of_a_single_class_that_of_pytorch_ood_is_nought_for_every_image_and_ours_is_not() -> None:
    x, y = sets(100, 20, 6)
    matrix = scatter(x, np.zeros(100))
    theirs = quadratic(y, x.mean(0), matrix) - quadratic(y, x.mean(0), matrix)
    assert not theirs.any()
    assert (fit_detector("relative", x).score(y) > 0).all()


@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_are_those_of_pytorch_ood(k: int) -> None:
    x, y = sets(60, 20, 7)
    # ``detector.KNN``: distance to the k-th neighbour, with ``norm_features`` of rows of length one.
    plain = NearestNeighbors().fit(x).kneighbors(y, k)[0][:, -1]
    np.testing.assert_allclose(fit_detector("knn", x, k=k).score(y), plain, rtol=1e-9)
    unit = NearestNeighbors().fit(normalize(x)).kneighbors(normalize(y), k)[0][:, -1]
    # Ours is one minus the cosine, which is half of the square of that distance: the same order and measures.
    np.testing.assert_allclose(
        fit_detector("knn-cosine", x, k=k).score(y), unit**2 / 2, rtol=1e-7, atol=1e-12
    )


def detection(inside: Array, outside: Array) -> Detection:
    return measure_detection(inside, outside, range(len(inside)), range(len(outside)), bootstrap=3)


def ood_metrics(inside: Array, outside: Array) -> dict[str, float]:
    """``utils.OODMetrics``: outliers are positive; the areas below precision and recall by straight lines."""
    labels = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    scores = np.r_[inside, outside]
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    precision, recall, _ = precision_recall_curve(labels, scores)
    turned = precision_recall_curve(1 - labels, -scores)
    return {
        "auroc": roc_auc_score(labels, scores),
        "fpr95_out": fpr[np.searchsorted(tpr, 0.95 - 1e-12)],
        "aupr_out": auc(recall, precision),
        "aupr_in": auc(turned[1], turned[0]),
    }


@pytest.mark.parametrize("sizes", [(40, 25), (300, 60), (1000, 2000)])
@pytest.mark.parametrize("decimals", [1, 8], ids=["ties", "no ties"])
def test_measures_of_detection_are_those_of_pytorch_ood(sizes: tuple[int, int], decimals: int) -> None:
    rng = np.random.default_rng(sizes[0])
    inside, outside = rng.normal(size=sizes[0]).round(decimals), rng.normal(1.2, 1, sizes[1]).round(decimals)
    found, theirs = detection(inside, outside), ood_metrics(inside, outside)
    for name in ("auroc", "fpr95_out"):
        assert getattr(found, name).value == pytest.approx(theirs[name], abs=1e-12)
    # Ours is average precision, which joins no points: straight lines in this plane can't be reached by any threshold
    # (Davis & Goadrich 2006, doi:10.1145/1143844.1143874). The gap closes with n where there are no ties.
    gap = 0.03 if decimals == 1 else 3 / min(sizes)
    for name in ("aupr_out", "aupr_in"):
        assert getattr(found, name).value == pytest.approx(theirs[name], abs=gap)
