"""The arrows of docs/architecture.md, checked against every import in the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "emvfm"
CORE = {"errors", "workspace", "provenance", "config", "__init__"}
MAY_IMPORT = {
    "datasets": set(),
    "backbones": set(),
    "store": {"datasets"},  # the sample table is the dataset's rows
    "extraction": {"datasets", "backbones", "store"},
    "segmentation": {"datasets", "backbones", "store", "extraction"},
    "domain": set(),
    "localization": {"segmentation"},  # Holm's correction
    "report": set(),
    "representations": {"domain"},
    "expression": {"representations"},  # a number with its interval
    "studies": {
        "datasets",
        "backbones",
        "store",
        "extraction",
        "segmentation",
        "domain",
        "localization",
        "report",
        "representations",
        "expression",
    },
}
FORBIDDEN = {
    "domain": {"torch", "zarr"},
    "representations": {"torch", "zarr"},
    "expression": {"torch", "zarr"},
    "store": {"torch"},
    "benchmarks": {"zarr"},
}


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_folders_import_only_what_the_arrows_allow(folder: str) -> None:
    allowed = CORE | MAY_IMPORT[folder] | {folder}
    for path in (PACKAGE / folder).rglob("*.py"):
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "emvfm" and len(parts) > 1 and (PACKAGE / parts[1]).exists():
                assert parts[1] in allowed, f"{path.relative_to(PACKAGE)} imports {name}"
            assert parts[0] not in FORBIDDEN.get(folder, set()), f"{path.relative_to(PACKAGE)} imports {name}"


def test_the_core_modules_import_nothing_of_the_house() -> None:
    for name in ("errors", "workspace", "provenance", "config"):
        for imported in _imports(PACKAGE / f"{name}.py"):
            if imported.startswith("emvfm."):
                assert imported.split(".")[1] in CORE, f"{name}.py imports {imported}"
