"""The public EM datasets that can be named: where they are, their digests, licences and pixel sizes.

Digests and addresses are those torch_em 0.10.9 records, except for VNC: an archive of a branch can be
repacked at any time, so a commit is pinned and the digest is that of the extracted files.
"""

from __future__ import annotations

from dataclasses import dataclass

from emvfm.errors import MissingError

__all__ = ["SOURCES", "Source", "find_source"]


@dataclass(frozen=True)
class Source:
    """One public dataset.

    Parameters
    ----------
    name
        What ``data fetch`` and ``data compose --from`` call it.
    title
        One line for people.
    url, archive
        Where the archive is and the file name it gets under ``downloads/``.
    sha256
        Digest of the archive, None where the server may repack it.
    files_sha256
        Digest of the extracted files that are used (`fetch.tree_digest`), None if `sha256` is set.
    folders
        The folders the layout is made of, below the one the archive has them in.
    domain
        The domain its samples get.
    pixel_size_nm
        In-plane pixel size in nm.
    licence, citation
        As stated by the authors.
    """

    name: str
    title: str
    url: str
    archive: str
    sha256: str | None
    files_sha256: str | None
    folders: tuple[str, ...]
    domain: str
    pixel_size_nm: float
    licence: str
    citation: str


_PLUS_PLUS = ("Train_In", "Train_Out", "Test_In", "Test_Out")

SOURCES: tuple[Source, ...] = (
    Source(
        name="lucchi++",
        title="mouse hippocampus CA1, FIB-SEM, 5 nm isotropic, 165 + 165 slices, mitochondria",
        url="http://www.casser.io/files/lucchi_pp.zip",
        archive="lucchi_pp.zip",
        sha256="770ce9e98fc6f29c1b1a250c637e6c5125f2b5f1260e5a7687b55a79e2e8844d",
        files_sha256=None,
        folders=_PLUS_PLUS,
        domain="lucchi",
        pixel_size_nm=5.0,
        licence="none stated; for research",
        citation="Casser et al. 2018, arXiv:1812.06024; Lucchi et al. 2012, doi:10.1109/TMI.2011.2171705",
    ),
    Source(
        name="vnc",
        title="Drosophila larva ventral nerve cord, ssTEM, 4.6 nm/px, 20 sections, mitochondria",
        url=(
            "https://codeload.github.com/unidesigner/groundtruth-drosophila-vnc/zip/"
            "4a5f051466d24d8dc1e855ab55658bb1b1dcd6bf"
        ),
        archive="groundtruth-drosophila-vnc-4a5f0514.zip",
        sha256=None,
        files_sha256="4ef2b13b828ac0b98237f714360e13e0c66b02b66f824f8feb460fa978c86746",
        folders=("stack1/raw", "stack1/mitochondria"),
        domain="vnc",
        pixel_size_nm=4.6,
        licence="CC BY-NC-SA 3.0",
        citation="Gerhard et al., figshare 2013, doi:10.6084/m9.figshare.856713",
    ),
    Source(
        name="kasthuri++",
        title="mouse neocortex, ATUM-SEM, 3 nm/px and 30 nm sections, 85 + 75 slices, mitochondria",
        url="http://www.casser.io/files/kasthuri_pp.zip",
        archive="kasthuri_pp.zip",
        sha256="bbb78fd205ec9b57feb8f93ebbdf1666261cbc3e0305e7f11583ab5157a3d792",
        files_sha256=None,
        folders=_PLUS_PLUS,
        domain="kasthuri",
        pixel_size_nm=3.0,
        licence="none stated; for research",
        citation="Casser et al. 2018, arXiv:1812.06024; Kasthuri et al. 2015, doi:10.1016/j.cell.2015.06.054",
    ),
)


def find_source(name: str) -> Source:
    """Return the public source called `name`, or raise MissingError listing the known ones."""
    for source in SOURCES:
        if source.name == name.lower():
            return source
    raise MissingError(
        "no public source of this name", where=name, expected=", ".join(source.name for source in SOURCES)
    )
