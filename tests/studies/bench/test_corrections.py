"""Corrections where there are folds: what a test holds never decides how it is corrected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emvfm.errors import RefusedError, UsageError
from emvfm.representations.corrections import CORRECTIONS, correct
from emvfm.studies.bench.corrections import CorrectionPlan, plan_of
from emvfm.studies.bench.options import FoldCorrectionOptions

N = 48
FACTS = {
    "plate": tuple(f"p{i % 2}" for i in range(N)),
    "role": tuple("control" if i < 24 else "treated" for i in range(N)),
    "half": tuple("" if i == 0 else "known" for i in range(N)),
}
X = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32) + 3.0 * (np.arange(N) % 2)[:, None]
TESTED = np.arange(12, 36)


def plan(**options: object) -> CorrectionPlan:
    found = plan_of(FACTS, N, FoldCorrectionOptions(**options))  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("name", [name for name in CORRECTIONS if name != "none"])
@pytest.mark.parametrize("controls", ["all", "role=control"])
def test_tested_rows_decide_nothing_and_the_rest_is_what_the_core_says(name: str, controls: str) -> None:
    asked = plan(correct=name, controls=controls, correct_by=("plate",))
    found, record = asked.fit(X, TESTED)
    used = np.ones(N, bool) if controls == "all" else np.arange(N) < 24
    used[TESTED] = False
    np.testing.assert_allclose(found, correct(name, X, used, FACTS["plate"]), rtol=1e-4, atol=1e-5)
    assert record["n_controls"] == used.sum()
    spoilt = X.copy()
    spoilt[TESTED] *= -100
    others = np.setdiff1d(np.arange(N), TESTED)
    np.testing.assert_array_equal(asked.fit(spoilt, TESTED)[0][others], found[others])
    through = replace(asked, transductive=True)
    assert through.fit(X, TESTED)[1]["n_controls"] > record["n_controls"]
    assert "without labels" in through.protocol
    assert "not tested" in asked.protocol


def test_controls_without_a_part_in_the_task_are_used_and_what_is_left_out_is_not() -> None:
    asked = plan(correct="center", controls="role=control")
    rows = np.arange(24, N)  # the controls take no part
    prepare = asked.within(X, rows)
    tested = np.array([0, 1, 5])
    np.testing.assert_allclose(prepare(tested), X[rows] - X[:24].mean(axis=0), rtol=1e-5, atol=1e-5)
    fewer = asked.within(X, rows, without=np.arange(10))(tested)
    np.testing.assert_allclose(fewer, X[rows] - X[10:24].mean(axis=0), rtol=1e-5, atol=1e-5)


def test_what_can_not_be_corrected_is_refused_and_says_what_would_do() -> None:
    whole = np.flatnonzero(np.array(FACTS["plate"]) == "p0")
    asked = plan(correct="center", controls="all", correct_by=("plate",))
    with pytest.raises(RefusedError, match=r"all of whose controls are tested.*p0.*--transductive"):
        asked.fit(X, whole)
    assert replace(asked, transductive=True).fit(X, whole)[0].shape == X.shape
    with pytest.raises(RefusedError, match="every control is tested"):
        plan(correct="sphere", controls="role=control").fit(X, np.arange(30))
    with pytest.raises(UsageError, match="--correct-by: rows without a batch"):
        plan(correct="center", controls="all", correct_by=("half",)).fit(X, TESTED)
    with pytest.raises(RefusedError, match="do not vary"):
        plan(correct="sphere", controls="all").fit(np.ones((N, 3)), TESTED)
    for wrong, said in (
        ({"correct": "center"}, "--controls"),
        ({"controls": "all"}, "nothing is corrected"),
        ({"transductive": True}, "nothing is corrected"),
        ({"correct": "center", "controls": "role=none"}, "no row is a control"),
        ({"correct": "center", "controls": "all", "correct_by": ("colour",)}, "--correct-by"),
    ):
        with pytest.raises(UsageError, match=said):
            plan(**wrong)
    assert plan_of(FACTS, N, FoldCorrectionOptions()) is None
