"""``emvfm doctor``: what works on this machine, what is missing, how to mend it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import typer

from emvfm.cli.command import Call, command
from emvfm.workspace import Workspace

__all__ = ["Check", "diagnose", "register"]

State = Literal["ok", "remark", "broken"]
_MARKS = {"ok": "[green]ok[/]", "remark": "[yellow]remark[/]", "broken": "[red]broken[/]"}
_NEEDED_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Check:
    """One thing looked at: its state, what was found, and how to mend it."""

    subject: str
    state: State
    found: str
    mend: str = ""


def _python() -> Check:
    return Check("python", "ok", sys.version.split()[0])


def _packages() -> Check:
    missing = []
    names = ("torch", "torchvision", "timm", "open_clip_torch", "peft", "zarr", "scikit-learn", "umap-learn")
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("packages", "broken", "missing " + ", ".join(missing), "reinstall emvfm with pip")
    return Check("packages", "ok", "all dependencies are installed")


def _torch_pair() -> Check:
    """torchvision built for another torch fails at import, and peft then blames something else."""
    mend = "install both in one call: pip install --upgrade --force-reinstall torch torchvision"
    try:
        torch = importlib.import_module("torch")
        torchvision = importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        return Check("torch and torchvision", "broken", found, mend)
    return Check("torch and torchvision", "ok", f"{torch.__version__} with {torchvision.__version__}")


def _device() -> Check:
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Check("device", "ok", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    found = f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return Check("device", "remark", found, "fine for ViT-S; larger backbones want a GPU")


def _bfloat16() -> Check:
    from emvfm.backbones.precision import choose_device, choose_precision

    if choose_precision("auto", choose_device("auto")) == "bfloat16":
        return Check("bfloat16", "ok", "this chip computes in bfloat16; --precision auto uses it")
    return Check("bfloat16", "remark", "not fast on this chip", "--precision auto stays in float32")


def _workspace(workspace: Workspace) -> Check:
    folder = workspace.root
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("workspace", "broken", f"{folder}: {error.strerror}", "choose another with --root")
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        mend = "free some, or choose another disk with --root"
        return Check("workspace", "remark", f"{workspace.root}, {free / 1e9:.1f} GB free", mend)
    return Check("workspace", "ok", f"{workspace.root}, {free / 1e9:.0f} GB free")


def _weights(workspace: Workspace) -> Check:
    local = sorted(p.name for p in workspace.weights.glob("*") if p.suffix in (".safetensors", ".pt", ".pth"))
    hub = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    cached = sorted(p.name.removeprefix("models--").replace("--", "/") for p in hub.glob("models--*"))
    if local or cached:
        return Check("weights", "ok", ", ".join([*local, *cached][:6]))
    mend = f"`emvfm backbones show dinov2` says what to put into {workspace.weights}; the hub fills its own cache"
    return Check("weights", "remark", "none on this machine", mend)


def diagnose(workspace: Workspace) -> Iterator[Check]:
    """Yield one `Check` a subject; a check that itself fails is reported as broken."""
    checks: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("python", _python),
        ("packages", _packages),
        ("torch and torchvision", _torch_pair),
        ("device", _device),
        ("bfloat16", _bfloat16),
        ("workspace", lambda: _workspace(workspace)),
        ("weights", lambda: _weights(workspace)),
    )
    for subject, check in checks:
        try:
            yield check()
        except (ImportError, RuntimeError, OSError) as error:
            yield Check(subject, "broken", f"{type(error).__name__}: {error}", "see the lines above")


def register(app: typer.Typer) -> None:
    @command(app, "doctor")
    def doctor(call: Call) -> None:
        """Say what works on this machine, what is missing, and how to mend it."""
        from rich.markup import escape
        from rich.table import Table

        checks = list(diagnose(call.workspace))
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("", "found", "how to mend it"):
            table.add_column(column, overflow="fold")
        for check in checks:
            table.add_row(f"{_MARKS[check.state]} {check.subject}", escape(check.found), escape(check.mend))
        broken = sum(check.state == "broken" for check in checks)
        closing = f"{broken} broken" if broken else "everything needed is here"
        call.result({"checks": [asdict(check) for check in checks], "broken": broken}, table, closing)
        if broken:
            raise typer.Exit(1)
