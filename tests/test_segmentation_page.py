"""The page on segmentation against the program: its commands run, one after another, as they stand there."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.datasets.compose import compose
from emvfm.datasets.images import read_image
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.workspace import Workspace
from tests.test_documentation import ROOT, _calls, _shell_lines

PAGE = (ROOT / "docs" / "segmentation.md").read_text(encoding="utf-8")
#: All but the paper's recipe: images of 1022 px are the whole of it, and tests of recipes have it at less.
CALLS = [call for line in _shell_lines(PAGE) for call in _calls(line) if "--protocol" not in call]
#: What makes each training a matter of a second, and changes nothing that the page is about.
SMALL = [
    "--steps",
    "3",
    "--head-steps",
    "3",
    "--crop",
    "48",
    "--views",
    "2",
    "--device",
    "cpu",
    "--batch",
    "1",
]
SMALL += ["--evaluate-every", "3", "--width", "8", "--unet-width", "4", "--unet-depth", "2"]
VIT = ["--backbone", "timm:test_vit", "--untrained", "--precision", "float32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the inputs that the page names, and a workspace with its datasets."""
    root = tmp_path_factory.mktemp("page")
    for name, domain in (("lucchi", "a"), ("vnc", "b")):
        write_phantom(root / name, domain, 12, 64, seed=3)
        options = ComposeOptions(domain=(name,), link="copy", pixel_size=5.0)
        compose(name, [root / name], Workspace(root), options)
    images = sorted((root / "lucchi" / "images").iterdir())[:2]
    stack = np.stack([read_image(path) for path in images])
    tifffile.imwrite(root / "stack.tif", stack, photometric="minisblack")
    (root / "folder").mkdir()
    tifffile.imwrite(root / "folder" / "one.tif", stack[0])
    zarr.save_array(root / "volume.zarr", stack)
    return root


def _small(call: list[str], runs: list[str]) -> list[str]:
    """Return a call of the page with the names of runs, and less to do."""
    names = {"RUN": runs[0], "RUN2": runs[-1]} if runs else {}
    words = [names.get(word, word.replace("RUN", names.get("RUN", ""))) for word in call]
    if words[0] != "train" or "--config" in words:
        return words
    vit = [] if ("--backbone", "unet") in pairwise(words) else [*VIT, "--layers", "1"]
    return [*words, *vit, *SMALL]


def test_every_command_of_the_page_does_what_it_says(place, monkeypatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("EMVFM_ROOT", str(place))
    runs: list[str] = []
    for call in CALLS:
        words = _small(call, runs)
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"{' '.join(call)}: {result.output}"
        if words[0] == "train":
            runs.append(result.stdout.splitlines()[0])
    assert len(set(runs)) == sum(call[0] == "train" for call in CALLS)
    written = ("masks.ome.zarr", "organelles.tif", "masks/instances/one.tif", "matrix.json", "slices.csv")
    assert [name for name in written if not (place / name).exists()] == []
