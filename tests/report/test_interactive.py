"""The interactive map: whole, escaped, bounded, from nowhere else, and alive in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emvfm.errors import EmvfmError, UsageError
from emvfm.report import interactive
from emvfm.report.interactive import MAX_BYTES, MapImage, map_page, thumbnails

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>&\u2028'\"`${1}"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _images(n: int) -> list[MapImage]:
    pictures = thumbnails((np.random.default_rng(i).random((40, 60)) for i in range(n)), n, 20_000)
    return [
        MapImage(f"{HOSTILE}{i}", f"{HOSTILE}{i % 2}", "v", "train", i, pictures[i], (0.2, 0.1))
        for i in range(n)
    ]


def _points(n: int, k: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, k))


def _page(n: int = 6, **more: object) -> str:
    return map_page(
        HOSTILE, _images(n), _points(n), range(n), axes=["PC1", "PC2", "PC3"],
        subtitle=HOSTILE, remark=HOSTILE, foreground=[0.5] * (n - 1) + [np.nan], **more,
    )  # fmt: skip


class _Reader(HTMLParser):
    VOID = ("meta", "link", "input", "br", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]
        assert not [k for k, _ in attrs if k.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def test_the_page_parses_and_takes_nothing_from_elsewhere() -> None:
    page = _page()
    reader = _read(page)
    assert reader.tags.count("script") == 2
    assert "img" not in reader.tags
    assert reader.links == ["data:,"]
    assert not re.search(r"https?://|@import|url\(", page)
    assert "default-src 'none'" in page


def test_every_point_and_name_is_in_it() -> None:
    data = json.loads(_read(_page()).scripts[0])
    np.testing.assert_allclose(np.array(data["coordinates"]).T, _points(6), rtol=1e-3, atol=1e-4)
    assert data["image"] == list(range(6))
    assert [m["id"] for m in data["images"]] == [f"{HOSTILE}{i}" for i in range(6)]
    assert data["foreground"] == [0.5] * 5 + [None]
    for m in data["images"]:
        with Image.open(io.BytesIO(base64.b64decode(m["picture"]))) as picture:
            assert picture.format == "JPEG"
            assert picture.size[0] > picture.size[1]


@pytest.mark.parametrize(("n", "side"), [(1, 900), (40, 200), (3000, 50)])
def test_pictures_share_a_number_of_bytes(n: int, side: int) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (side, side)).astype(np.uint16)
    found = thumbnails((noise for _ in range(n)), n, 400_000)
    assert len(found) == n
    assert sum(len(p) for p in found if p) <= 400_000
    assert sum(p is not None for p in found) >= min(n, 200)
    assert found[0] is not None


def test_flat_and_tiny_images_have_pictures() -> None:
    assert all(thumbnails(iter([np.zeros((1, 1)), np.ones((3, 500, 3)), np.zeros((9, 9), bool)]), 3))


def test_a_large_page_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(_page(200).encode()) < MAX_BYTES
    monkeypatch.setattr(interactive, "MAX_BYTES", 10_000)
    with pytest.raises(EmvfmError, match="too large"):
        _page()


def test_many_points_fit() -> None:
    n = 20_000
    cells = np.random.default_rng(0).integers(0, 40, (n, 2))
    page = map_page(
        "many", _images(50), _points(n, 6), np.arange(n) % 50, axes=[f"PC{k}" for k in range(6)],
        foreground=np.linspace(0, 1, n), centres=(cells + 0.5) / 40, cells=cells,
    )  # fmt: skip
    assert len(page.encode()) < 4_000_000
    assert len(json.loads(_read(page).scripts[0])["image"]) == n


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"coordinates": _points(5)}, "coordinates"),
        ({"coordinates": np.full((6, 3), np.nan)}, "not finite"),
        ({"image": [6] * 6}, "no image"),
        ({"foreground": [0.1]}, "foreground"),
        ({"centres": np.zeros((6, 2))}, "cells"),
    ],
)
def test_what_is_no_map(change: dict, part: str) -> None:
    given = {"coordinates": _points(6), "image": range(6), "axes": ["a", "b", "c"], **change}
    with pytest.raises(UsageError, match=part):
        map_page("t", _images(6), given.pop("coordinates"), given.pop("image"), **given)


#: Points at the first dot that answers, as a reader would, then turns the other controls.
_READER = """<script>setTimeout(function(){
var c=document.getElementById('plot'),r=c.getBoundingClientRect(),facts=document.getElementById('facts');
function point(type,x,y){c.dispatchEvent(new PointerEvent(type,{clientX:x,clientY:y,pointerId:1,bubbles:true}))}
for(var x=r.left;x<r.right&&!facts.textContent;x+=5)for(var y=r.top;y<r.bottom;y+=5){
  point('pointermove',x,y);if(facts.textContent)break}
document.body.dataset.facts=facts.textContent;
['z','foreground'].forEach(function(name){var s=document.getElementById('colour');
  Array.from(s.options).forEach(function(o,k){if(o.textContent===name){s.value=k;s.dispatchEvent(new Event('change'))}});
  document.body.dataset[name]=document.getElementById('legend').textContent});
c.dispatchEvent(new WheelEvent('wheel',{deltaY:-300,clientX:r.left+50,clientY:r.top+50,cancelable:true}));
point('pointerdown',200,300);point('pointermove',260,340);point('pointerup',260,340);
c.dispatchEvent(new KeyboardEvent('keydown',{key:'ArrowRight'}));
c.dispatchEvent(new MouseEvent('dblclick'));
document.body.dataset.done='yes'},50);
window.onerror=function(m){document.body.dataset.error=m}</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
@pytest.mark.parametrize("patches", [False, True])
def test_a_browser_shows_what_is_under_the_pointer(patches: bool, tmp_path: Path) -> None:
    more = {}
    if patches:
        cells = np.array([[i % 5, i % 3] for i in range(6)])
        more = {"centres": (cells + 0.5) / 5, "cells": cells}
    page = _page(**more)
    end = page.rindex("</body>")
    file = tmp_path / "map.html"
    file.write_text(page[:end] + _READER + page[end + 7 :], encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    body = re.search(r"<body[^>]*>", shown)
    assert body is not None
    assert 'data-done="yes"' in body.group()
    assert "data-error" not in body.group()
    assert "samples" not in body.group()
    assert 'data-facts="sample' in body.group()
    assert ("patchrow" in body.group()) == patches
    assert 'data-z="z 0  5"' in body.group()
    assert "1 without" in body.group()
    assert "<title>taken" not in shown
