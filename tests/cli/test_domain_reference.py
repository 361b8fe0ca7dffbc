"""``--preset reference`` from the images in the store to the numbers, against its recipes written out here."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from typer.testing import CliRunner

from emvfm.backbones.loading import load_backbone
from emvfm.backbones.options import BackboneOptions
from emvfm.cli.app import app
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.phantom import write_phantom
from emvfm.extraction.pipeline import embed_dataset
from emvfm.workspace import Workspace

OPTIONS = BackboneOptions(backbone="timm:test_vit", untrained=True, device="cpu", precision="float32")
COMMAND = ("--backbone", "timm:test_vit", "--untrained", "--device", "cpu", "--precision", "float32")
SETS = {"a": 45, "b": 25}
SIZE = 96  # px: whole patches


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("reference")
    workspace = Workspace(folder / "ws")
    for name, n in SETS.items():
        write_phantom(folder / name, name, n, SIZE, seed=3)
        compose(name, [folder / name], workspace)
    return workspace


@pytest.fixture(scope="module")
def vectors(workspace: Workspace) -> list[np.ndarray]:
    """Means of all patches, straight from the store; images are whole patches, so none is padding."""
    backbone = load_backbone(OPTIONS, workspace)
    found = []
    for name, n in SETS.items():
        embeddings = embed_dataset(open_dataset(workspace, name), backbone, OPTIONS, workspace)
        found.append(np.stack([embeddings.patches(i)[-1].astype(np.float64).mean((0, 1)) for i in range(n)]))
    return found


def _said(workspace: Workspace, command: str, *options: str) -> dict:
    done = CliRunner().invoke(
        app,
        [
            "domain",
            command,
            *SETS,
            *COMMAND,
            "--preset",
            "reference",
            "--root",
            str(workspace.root),
            *options,
            "--json",
        ],
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def _stored(workspace: Workspace, vectors: list[np.ndarray]) -> list[np.ndarray]:
    """The embeddings of images as the store keeps them, which round the means of patches."""
    backbone = load_backbone(OPTIONS, workspace)
    stored = []
    for name, own in zip(SETS, vectors, strict=True):
        embeddings = embed_dataset(open_dataset(workspace, name), backbone, OPTIONS, workspace)
        kept = embeddings.image_embeddings("mean", -1).astype(np.float64)
        np.testing.assert_allclose(kept, own, rtol=2e-2, atol=2e-3)
        stored.append(kept)
    return stored


def test_frechet_distance_is_of_raw_embeddings_with_ddof_1(
    workspace: Workspace, vectors: list[np.ndarray]
) -> None:
    x, y = _stored(workspace, vectors)
    (found,) = _said(workspace, "fd", "--permutations", "99")["results"]
    mean = x.mean(0) - y.mean(0)
    s, t = np.cov(x, rowvar=False, ddof=1), np.cov(y, rowvar=False, ddof=1)
    # The reference takes the matrix root of a singular product: it comes out complex and close.
    expected = mean @ mean + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t)).real
    assert found["value"] == pytest.approx(expected, rel=1e-3)
    values, turned = np.linalg.eigh(s)
    root = turned * np.sqrt(np.clip(values, 0, None)) @ turned.T
    exact = np.sqrt(np.clip(np.linalg.eigvalsh(root @ t @ root), 0, None)).sum()
    assert found["value"] == pytest.approx(mean @ mean + np.trace(s) + np.trace(t) - 2 * exact, rel=1e-6)
    assert found["ddof"] == 1


def test_the_probe_is_pca_64_of_both_and_one_split_of_80_to_20(
    workspace: Workspace, vectors: list[np.ndarray]
) -> None:
    x, y = _stored(workspace, vectors)
    (found,) = _said(workspace, "probe", "--seed", "3")["reference"]
    joint, labels = np.concatenate([x, y]), np.repeat([0, 1], [len(x), len(y)])
    components = min(64, *joint.shape)
    reduced = PCA(components).fit_transform(joint)
    learn, tested, own, true = train_test_split(
        reduced, labels, test_size=0.2, stratify=labels, random_state=3
    )
    model = LogisticRegression(C=1.0, max_iter=1000).fit(learn, own)
    assert found["components"] == components
    assert found["accuracy"] == pytest.approx((model.predict(tested) == true).mean())
    assert found["auroc"] == pytest.approx(roc_auc_score(true, model.predict_proba(tested)[:, 1]))


def test_outliers_are_by_ledoit_wolf_and_the_quantile_of_the_fitted_images(
    workspace: Workspace, vectors: list[np.ndarray]
) -> None:
    x, y = _stored(workspace, vectors)
    said = _said(workspace, "ood", "--quantile", "0.9")
    (found,) = said["results"]
    precision = LedoitWolf().fit(x).precision_
    own, target = ([mahalanobis(row, x.mean(0), precision) for row in z] for z in (x, y))
    threshold = float(np.quantile(own, 0.9))
    assert found["threshold"] == {"method": "id_quantile", "quantile": 0.9, "value": pytest.approx(threshold)}
    assert found["target_outlier_rate"] == pytest.approx(np.mean(np.array(target) > threshold))
    assert found["target_stats"]["median"] == pytest.approx(np.median(target))
    with (Path(said["folder"]) / "distances.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["distance"]) for row in rows] == pytest.approx(sorted(own + target, reverse=True))
    for row in rows[:: len(rows) // 10]:
        percentile = np.mean(np.array(own) <= float(row["distance"]) * (1 + 1e-12))
        assert float(row["tail_prob"]) == pytest.approx(1 - percentile, abs=1e-9)
        assert float(row["ood_score"]) == pytest.approx(-math.log10(max(1 - percentile, 1e-12)), abs=1e-6)
