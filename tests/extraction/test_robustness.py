"""Jobs that are killed, run at once, or meet damaged files: a short run of ``benchmarks.robustness``.

It runs in a process of its own, because it forks and this one has computed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

_RUN = """
import dataclasses, json, sys
from pathlib import Path
from benchmarks import damages, robustness
from benchmarks.jobs import Reference
folder = Path(sys.argv[1])
reference = Reference.make(folder, int(sys.argv[2]))
print(json.dumps({call}, default=dataclasses.asdict))
"""


def _run(call: str, folder: Path, images: int) -> Any:
    """Return what `call` of the benchmark gives, with `reference` and `folder` at hand."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN.replace("{call}", call), str(folder), str(images)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_random_moments_a_job_ends_with_the_same_store(tmp_path: Path) -> None:
    crashes = _run("robustness.crashes(folder, reference, 6)", tmp_path, 48)
    assert [crash["problems"] for crash in crashes] == [[]] * 6
    assert [crash["again"] for crash in crashes] == [0] * 6  # of shards that were finished
    assert any(crash["lost"] for crash in crashes), "some kills came in the middle"


def test_jobs_at_once_embed_each_image_once_and_lose_none(tmp_path: Path) -> None:
    found = _run("robustness.races(folder, reference, 4, 1)", tmp_path, 96)
    for name, (race,) in found.items():
        assert race["problems"] == [], name
        assert race["missing"] == 0, name
        if race["killed"]:
            assert race["twice"] <= race["victim"], name
        elif "overlap" not in name:
            assert race["twice"] == 0, name


def test_damage_is_found_and_only_its_shard_is_computed_again(tmp_path: Path) -> None:
    found = _run("damages.harms(folder, reference, 3, ('patches', 'cls', 'image'))", tmp_path, 40)
    assert len(found) == 9
    for damage in found:
        case = damage["what"], damage["harm"]
        assert damage["problems"] == [], case
        assert damage["again"] == damage["expected"] == 16, case
        for reading in damage["readings"]:
            assert damage["what"] in reading["verify"], case
            if damage["what"] == "image":  # only those who read with Zarr alone use it
                assert reading["emvfm"] == "same", case
                assert reading["plain"] not in {"same", "wrong values"}, case
            else:
                assert reading["emvfm"].startswith("CorruptError"), case
                assert reading["named"], case
