from __future__ import annotations

import hashlib
import io
import re
import stat
import threading
import zipfile
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emvfm.datasets.fetch import (
    ArchiveLimits,
    check_archive,
    download,
    downloaded_folder,
    fetch,
    tree_digest,
    unpack,
)
from emvfm.datasets.layouts import detect_layout
from emvfm.datasets.sources import SOURCES, Source, find_source
from emvfm.errors import CorruptError, EmvfmError, MissingError
from emvfm.workspace import Workspace


@dataclass
class Site:
    """What a local server offers, how it misbehaves, and what it was asked for."""

    content: bytes = b""
    url: str = ""
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes sent before the connection ends, one a request
    fail_with: list[int] = field(default_factory=list)  # status codes, one a request
    lie_about_range: bool = False
    asked: list[str | None] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        site = self.site
        site.asked.append(self.headers.get("Range"))
        self.close_connection = True
        if site.fail_with:
            self.send_error(site.fail_with.pop(0))
            return
        start, size = 0, len(site.content)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and site.ranges:
            start = int(asked[1])
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            claimed = start + 1 if site.lie_about_range else start
            self.send_header("Content-Range", f"bytes {claimed}-{size - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        body = site.content[start:]
        if site.cut_after:
            body = body[: site.cut_after.pop(0)]
        self.wfile.write(body)


@pytest.fixture
def site():
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/data.zip"
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _png(n: int, *, mask: bool) -> bytes:
    values = np.random.default_rng(n).integers(0, 256, (16, 16), dtype=np.uint8)
    if mask:
        values = np.where(np.arange(16) < 3 + n % 9, 255, 0).astype(np.uint8) * np.ones((16, 1), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format="PNG")
    return stream.getvalue()


def _zip(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _dataset_files(wrap: str = "Lucchi++/") -> dict[str, bytes]:
    files = {}
    for part in ("Train", "Test"):
        for n in range(12):
            files[f"{wrap}{part}_In/mask{n:04d}.png"] = _png(n, mask=False)
            files[f"{wrap}{part}_Out/{n}.png"] = _png(n, mask=True)
    files["__MACOSX/Lucchi++/Train_In/._mask0000.png"] = b"resource fork"
    files[f"{wrap}readme.txt"] = b"not needed"
    return files


@pytest.fixture
def source(site) -> Source:
    site.content = _zip(_dataset_files())
    return replace(SOURCES[0], url=site.url, sha256=_sha(site.content))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "ws")


# --- download -----------------------------------------------------------------------------------


def test_a_download_is_verified_and_complete(site, tmp_path):
    site.content = bytes(range(256)) * 999
    seen = []
    target = download(
        site.url, tmp_path / "x.zip", sha256=_sha(site.content), progress=lambda *p: seen.append(p)
    )
    assert target.read_bytes() == site.content
    assert seen[-1] == (len(site.content), len(site.content))
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]


def test_a_cut_connection_resumes_where_it_ended(site, tmp_path):
    site.content = bytes(range(256)) * 999
    site.cut_after = [1000, 5000]
    download(site.url, tmp_path / "x.zip", sha256=_sha(site.content), wait=0)
    assert site.asked == [None, "bytes=1000-", "bytes=6000-"]
    assert (tmp_path / "x.zip").read_bytes() == site.content


def test_the_next_call_goes_on_from_the_part(site, tmp_path):
    site.content = bytes(range(256)) * 999
    site.cut_after = [4096]
    with pytest.raises(EmvfmError, match="4096 of 255744 bytes"):
        download(site.url, tmp_path / "x.zip", sha256=_sha(site.content), attempts=1)
    assert (tmp_path / "x.zip.part").stat().st_size == 4096
    assert not (tmp_path / "x.zip").exists()
    download(site.url, tmp_path / "x.zip", sha256=_sha(site.content), attempts=1)
    assert site.asked[-1] == "bytes=4096-"
    assert (tmp_path / "x.zip").read_bytes() == site.content


def test_a_complete_part_needs_no_more_bytes(site, tmp_path):
    site.content = b"abc" * 100
    (tmp_path / "x.zip.part").write_bytes(site.content)
    download(site.url, tmp_path / "x.zip", sha256=_sha(site.content), wait=0)
    assert (tmp_path / "x.zip").read_bytes() == site.content


@pytest.mark.parametrize("how", ["no ranges", "longer", "lies"])
def test_a_useless_part_is_started_again(site, tmp_path, how):
    site.content = b"abcd" * 1000
    (tmp_path / "x.zip.part").write_bytes(b"z" * (5000 if how == "longer" else 100))
    site.ranges = how != "no ranges"
    site.lie_about_range = how == "lies"
    download(site.url, tmp_path / "x.zip", sha256=_sha(site.content), wait=0)
    assert (tmp_path / "x.zip").read_bytes() == site.content


def test_a_wrong_digest_gives_no_file_and_no_part(site, tmp_path):
    site.content = b"something else"
    with pytest.raises(CorruptError, match="not the file it should be"):
        download(site.url, tmp_path / "x.zip", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_busy_server_is_asked_again_and_a_missing_page_is_not(site, tmp_path):
    site.content = b"abc"
    site.fail_with = [503, 500]
    download(site.url, tmp_path / "x.zip", sha256=_sha(b"abc"), wait=0)
    assert len(site.asked) == 3
    site.fail_with = [404]
    with pytest.raises(EmvfmError, match="404"):
        download(site.url, tmp_path / "y.zip", sha256=None, wait=0)
    assert len(site.asked) == 4


def test_only_the_web_is_downloaded_from(tmp_path):
    with pytest.raises(EmvfmError, match="not a web address"):
        download("file:///etc/passwd", tmp_path / "x", sha256=None)


# --- archives -----------------------------------------------------------------------------------


def _hostile(name: str, mode: int | None = None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("fine.png", b"x")
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        if mode is not None:
            info.external_attr = mode << 16
        archive.writestr(info, b"/etc/passwd")
    return stream.getvalue()


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/abs.png", "a\\..\\evil.png", "C:evil.png", "..", "./../x"]
)
def test_paths_that_leave_the_folder_are_refused_before_unpacking(tmp_path, name):
    (tmp_path / "a.zip").write_bytes(_hostile(name))
    (tmp_path / "out").mkdir()
    with pytest.raises(CorruptError, match=r"a\.zip"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "out"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, kind):
    (tmp_path / "a.zip").write_bytes(_hostile("link.png", kind | 0o777))
    (tmp_path / "out").mkdir()
    with pytest.raises(CorruptError, match="no file"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ArchiveLimits(total=50_000), "too large"),
        (ArchiveLimits(ratio=20, ratio_from=1000), "bomb"),
        (ArchiveLimits(files=1), "too many"),
    ],
)
def test_bombs_are_refused_before_unpacking(tmp_path, limits, reason):
    (tmp_path / "a.zip").write_bytes(_zip({"a": bytes(100_000), "b": b"x"}))
    (tmp_path / "out").mkdir()
    with pytest.raises(CorruptError, match=reason):
        unpack(tmp_path / "a.zip", tmp_path / "out", limits=limits)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_real_bomb_meets_the_default_limits(tmp_path):
    (tmp_path / "a.zip").write_bytes(_zip({"a": bytes(80 << 20)}))
    with pytest.raises(CorruptError, match="bomb"):
        unpack(tmp_path / "a.zip", tmp_path)


def test_names_that_differ_only_in_case_are_refused():
    members = [zipfile.ZipInfo("A.png"), zipfile.ZipInfo("a.png")]
    with pytest.raises(CorruptError, match="one name"):
        check_archive(members, 100, "a.zip")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.98])
def test_cut_off_archives(tmp_path, keep):
    data = _zip(_dataset_files())
    (tmp_path / "a.zip").write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(CorruptError, match="damaged archive"):
        unpack(tmp_path / "a.zip", tmp_path)


def test_flipped_bytes_fail_the_checksum(tmp_path):
    data = bytearray(_zip({"a.png": bytes(range(256)) * 40}))
    data[60] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(bytes(data))
    (tmp_path / "out").mkdir()
    with pytest.raises(CorruptError, match="damaged archive"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_only_the_folders_asked_for_are_unpacked(tmp_path):
    (tmp_path / "a.zip").write_bytes(
        _zip({"w/stack1/raw/0.tif": b"x", "w/stack2/raw/0.tif": b"y", "w/raw.txt": b"z"})
    )
    assert unpack(tmp_path / "a.zip", tmp_path / "out", ["stack1/raw"]) == 1
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [tmp_path / "out/w/stack1/raw/0.tif"]


# --- sources ------------------------------------------------------------------------------------


def test_fetch_gives_a_folder_that_composes(source, workspace, site):
    folder = fetch(source, workspace)
    assert folder == downloaded_folder(workspace, "lucchi++")
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert len(files) == 48
    layout = detect_layout(folder)
    assert (layout.domain, [len(p.images) for p in layout.parts]) == ("lucchi", [12, 12])
    site.fail_with = [500] * 9
    assert fetch(source, workspace, wait=0) == folder  # nothing is asked for twice
    assert len(site.asked) == 1


def test_an_archive_put_there_by_hand_is_used(source, workspace, site):
    workspace.downloads.mkdir(parents=True)
    (workspace.downloads / "lucchi_pp.zip").write_bytes(site.content)
    fetch(source, workspace)
    assert site.asked == []


def test_a_wrong_archive_put_there_by_hand_is_refused_and_kept(source, workspace, site):
    workspace.downloads.mkdir(parents=True)
    (workspace.downloads / "lucchi_pp.zip").write_bytes(b"another")
    with pytest.raises(CorruptError, match=r"lucchi_pp\.zip: not the published archive"):
        fetch(source, workspace)
    assert (workspace.downloads / "lucchi_pp.zip").read_bytes() == b"another"
    assert site.asked == []


def test_unreachable_says_where_to_put_the_file(source, workspace, site):
    site.fail_with = [503] * 9
    with pytest.raises(EmvfmError) as caught:
        fetch(source, workspace, attempts=2, wait=0)
    assert site.url in str(caught.value)
    assert str(workspace.downloads / "lucchi_pp.zip") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_extracted_files_are_checked_where_the_archive_may_be_repacked(source, workspace, site, tmp_path):
    for name, data in _dataset_files("x/").items():
        path = tmp_path / "plain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    right = tree_digest(tmp_path / "plain", source.folders)
    pinned = replace(source, sha256=None, files_sha256=right)
    folder = fetch(pinned, workspace)  # other wrapping folder, other archive: the same files
    assert tree_digest(folder, source.folders) == right
    with pytest.raises(CorruptError, match="not the published ones"):
        fetch(replace(pinned, name="other", files_sha256="0" * 64), workspace)
    assert not (workspace.downloads / "other").exists()


def test_an_archive_without_the_folders_is_refused(source, workspace, site):
    site.content = _zip({"Lucchi++/Train_In/a.png": b"x"})
    with pytest.raises(CorruptError, match="folders are missing"):
        fetch(replace(source, sha256=_sha(site.content)), workspace)
    assert not (workspace.downloads / "lucchi++").exists()


def test_the_table_of_sources():
    assert [s.name for s in SOURCES] == ["lucchi++", "vnc", "kasthuri++"]
    for source in SOURCES:
        pinned = source.sha256 or source.files_sha256
        assert re.fullmatch(r"[0-9a-f]{64}", pinned)
        assert source.url.startswith(("https://", "http://"))
        assert source.licence
        assert source.citation
        assert source.pixel_size_nm > 0
    assert "4a5f051466d24d8dc1e855ab55658bb1b1dcd6bf" in find_source("VNC").url
    with pytest.raises(MissingError, match=r"lucchi\+\+, vnc, kasthuri\+\+"):
        find_source("epfl")
    assert find_source("lucchi++") is SOURCES[0]


def test_real_vnc_files_have_the_published_digest(shared_data: Path):
    source = find_source("vnc")
    assert tree_digest(shared_data / "vnc", source.folders) == source.files_sha256
