"""Retrieval on three plates of the JUMP pilot (CC0), against the way of copairs; skipped where the plates are not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from emvfm.representations.pairing import Pairing
from emvfm.representations.ranking import rank_queries
from emvfm.representations.retrieval import mean_average_precision

sys.path.insert(0, str(Path(__file__).parent))
import peers

FOLDER = Path(os.environ.get("EMVFM_TEST_DATA", Path(__file__).parents[3] / "shared/data")) / "jump-cp-pilot"
PLATES = sorted(FOLDER.glob("BR*.csv.gz"))
CONTROLS = (
    "AMG900",
    "NVS-PAK1-1",
    "dexamethasone",
    "LY2109761",
    "FK-866",
    "quinidine",
    "TC-S-7004",
    "aloxistatin",
)

pytestmark = pytest.mark.skipif(len(PLATES) != 3, reason="no plates of the JUMP pilot; set EMVFM_TEST_DATA")


@pytest.fixture(scope="module")
def plates() -> tuple[np.ndarray, dict[str, list[str]]]:
    pandas = pytest.importorskip("pandas")
    table = pandas.concat([pandas.read_csv(path, dtype={"Metadata_Plate": str}) for path in PLATES])
    features = table.drop(columns=[name for name in table if name.startswith("Metadata_")]).to_numpy(float)
    metadata = {
        "compound": table.Metadata_pert_iname.fillna("DMSO").tolist(),
        "control": table.Metadata_control_type.fillna("").tolist(),
        "plate": table.Metadata_Plate.tolist(),
    }
    metadata["compound"] = [
        "DMSO" if control == "negcon" else name
        for name, control in zip(metadata["compound"], metadata["control"], strict=True)
    ]
    return features, metadata


def test_eight_positive_controls_against_dmso_as_copairs(
    plates: tuple[np.ndarray, dict[str, list[str]]],
) -> None:
    features, metadata = plates
    compound = np.array(metadata["compound"])
    pairing = Pairing(metadata, positives="same:compound & isnt:compound=DMSO", negatives="is:control=negcon")
    queries = np.flatnonzero(compound != "DMSO")
    result = mean_average_precision(
        rank_queries(features, pairing, queries=queries), metadata["compound"], draws=999
    )
    same = peers.pairs_same(compound)
    positive = same[compound[same[:, 0]] != "DMSO"]
    controls = np.flatnonzero(compound == "DMSO")
    negative = np.stack([queries.repeat(len(controls)), np.tile(controls, len(queries))], axis=1).astype(
        np.int32
    )
    twin = peers.average_precision(features, positive, negative)
    assert len(result.groups) == len(set(metadata["compound"])) - 1
    for group in result.groups:
        expected = twin[compound == group.group].mean()
        assert group.precision.value == pytest.approx(expected, abs=1e-9), group.group
    found = {group.group: group for group in result.groups if group.group in CONTROLS}
    assert set(found) == set(CONTROLS)
    for name in CONTROLS:
        group = found[name]
        print(
            f"{name:14s} n={group.precision.n} mAP {group.precision.value:.3f} "
            f"[{group.precision.low:.3f}, {group.precision.high:.3f}] expected {group.expected:.3f} "
            f"p {group.p_value:.4f} q {group.q_value:.4f}"
        )
    overall = result.overall
    print(
        f"{len(result.groups)} compounds {overall.value:.3f} [{overall.low:.3f}, {overall.high:.3f}]"
        f" expected {result.expected:.3f}, q<.05: {sum(g.q_value < 0.05 for g in result.groups)}"
    )
    assert all(group.precision.value > group.expected for group in found.values())


def test_collapsed_embeddings_of_the_plates_score_chance(
    plates: tuple[np.ndarray, dict[str, list[str]]],
) -> None:
    features, metadata = plates
    pairing = Pairing(metadata, positives="same:compound & isnt:compound=DMSO", negatives="is:control=negcon")
    constant = np.broadcast_to(features[:1], features.shape)
    ranking = rank_queries(constant, pairing)
    known = ranking.n_positives > 0
    np.testing.assert_allclose(ranking.average_precision[known], ranking.expected[known], atol=1e-9)
