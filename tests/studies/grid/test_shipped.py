"""Every study that ships runs from end to end on stand-ins: plan, data, runs, summary, figures, page."""

from __future__ import annotations

from pathlib import Path

import pytest

from emvfm.report.html import MAX_BYTES
from emvfm.studies.grid.options import StudyOptions
from emvfm.studies.grid.pictures import pictures_of
from emvfm.studies.grid.reports import study_report
from emvfm.studies.grid.results import gather
from emvfm.studies.grid.runner import run_study
from emvfm.studies.grid.summary import summary_of
from emvfm.workspace import Workspace

FOLDER = Path(__file__).parents[3] / "studies"
#: The part of each study that is run in a few seconds.
PARTS = {
    "balance": (),
    "label-efficiency": ("seed=0", "slices=2", "slices=8", "slices=32", "model=frozen", "model=U-Net"),
    "layers": ("seed=0",),
    "mispairing": ("seed=0", "pairing=correct", "pairing=scrambled 0.50", "pairing=text-sorted"),
    "paper": ("seed=0", "backbone=dinov2_vitg14_reg", "backbone=dinov3_vitl16", "backbone=openclip_vith14_laion2b",
              "train=both", "train=vnc", "adaptation=head only"),
    "quick": ("seed=0", "backbone=ViT-S/14", "train=both", "train=vnc"),
    "resolution": ("seed=0",),
}  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One for all, so that equal data and runs are shared as they are by a user."""
    return Workspace(tmp_path_factory.mktemp("shipped"))


def test_every_study_is_here() -> None:
    assert sorted(PARTS) == sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", PARTS)
def test_a_study_that_ships_runs_to_its_page(name: str, workspace) -> None:
    study = run_study(FOLDER / f"{name}.yaml", workspace, StudyOptions(stand_in=True, only=PARTS[name]))
    assert [study.folder.last(run).error for run in study.missing] == []
    rows = gather(study)
    assert len(rows) == len(study.plan.places) * len(study.spec.tests)
    summary = summary_of(study, rows)
    assert summary.compared
    if name == "mispairing":
        figure = next(each for each in pictures_of(study, rows, summary) if each.file == "trend.png")
        assert "by the audit" in figure.caption  # of Lucchi's pairs: VNC, in every mixture, is left out
        return
    page = study_report(study, FOLDER / f"{name}.yaml")
    assert len(page.encode()) < MAX_BYTES
    assert study.spec.question in page
    assert "These are stand-ins" in page
    for attribute in ("src", "href"):
        assert f'{attribute}="http' not in page


@pytest.mark.slow
def test_the_whole_matrix_of_the_paper_runs_on_stand_ins(tmp_path) -> None:
    study = run_study(FOLDER / "paper.yaml", Workspace(tmp_path), StudyOptions(stand_in=True))
    assert len(study.plan.runs) == 9 * 2 * 3 * 2
    assert not study.missing
    assert len(summary_of(study, gather(study)).compared) == 9 * 2 * 2
