"""Development sessions: ``nox`` runs lint, types, docs and tests in one shared environment.

torch and what it brings take gigabytes, so there is one environment for all sessions: the first one
fills it, the others find everything there; it is filled again only when ``pyproject.toml`` changes.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"  # nox.project.dependency_groups
nox.options.sessions = ["lint", "types", "docs", "tests"]  # the cheap ones first
nox.options.default_venv_backend = "none"  # the shared environment below stands in for one a session

ENVIRONMENT = Path(".nox/emvfm")
BINARIES = ENVIRONMENT / ("Scripts" if sys.platform == "win32" else "bin")


def prepare(session: nox.Session) -> None:
    """Install the package as users get it, with the development tools, in one resolution."""
    stamp = ENVIRONMENT / "installed"
    wanted = hashlib.sha256(Path("pyproject.toml").read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        tools = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "dev")
        session.run(sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT), external=True)
        run(session, "python", "-m", "pip", "install", "--quiet", "--editable", ".", *tools)
        stamp.write_text(wanted)


def run(session: nox.Session, program: str, *arguments: str, **env: str) -> None:
    """Run a program of the shared environment, with that environment first on the PATH."""
    path = os.pathsep.join([str(BINARIES.absolute()), os.environ.get("PATH", "")])
    session.run(str(BINARIES / program), *arguments, env={"PATH": path, **env}, external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; arguments go to pytest (``nox -s tests -- -k store``)."""
    prepare(session)
    arguments = session.posargs or ["-n", "2", "--dist", "loadfile"]
    env = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    run(session, "python", "-m", "pytest", "-m", "not gpu", *arguments, **env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    prepare(session)
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    prepare(session)
    run(session, "mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into ``site/``; broken links are errors."""
    prepare(session)
    run(session, "zensical", "build", "--clean", "--strict")


@nox.session(default=False)
def results(session: nox.Session) -> None:
    """Write docs/results.md from real data (``nox -s results -- --shared FOLDER``)."""
    prepare(session)
    run(session, "python", "-m", "benchmarks.results", *session.posargs)


@nox.session(default=False)
def performance(session: nox.Session) -> None:
    """Write docs/performance.md from benchmarks on this machine."""
    prepare(session)
    run(session, "python", "-m", "benchmarks.performance", *session.posargs)


@nox.session(default=False)
def robustness(session: nox.Session) -> None:
    """Write docs/robustness.md: kills, races and damage of stores; as root, of full disks too."""
    prepare(session)
    run(session, "python", "-m", "benchmarks.robustness", *session.posargs, OMP_NUM_THREADS="1")


@nox.session(default=False)
def domains(session: nox.Session) -> None:
    """Write docs/results-domains.md from real data (``nox -s domains -- --shared FOLDER``)."""
    prepare(session)
    run(session, "python", "-m", "benchmarks.domain_results", *session.posargs)


@nox.session(default=False)
def expression(session: nox.Session) -> None:
    """Write docs/results-expression.md from real data (``nox -s expression -- --shared FOLDER``)."""
    prepare(session)
    run(session, "python", "-m", "benchmarks.expression_results", *session.posargs)


@nox.session(default=False)
def localization(session: nox.Session) -> None:
    """Write docs/results-localization.md from real data (``nox -s localization -- --shared FOLDER``)."""
    prepare(session)
    run(session, "python", "-m", "benchmarks.localization_results", *session.posargs)


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Write docs/results-audit.md from real data (``nox -s audit -- --shared FOLDER``)."""
    prepare(session)
    run(session, "python", "-m", "benchmarks.audit_results", *session.posargs)


@nox.session(default=False)
def representations(session: nox.Session) -> None:
    """Write docs/results-representations.md from real data (``nox -s representations -- --shared FOLDER``)."""
    prepare(session)
    run(session, "python", "-m", "benchmarks.representation_results", *session.posargs)


@nox.session(default=False)
def domain_speed(session: nox.Session) -> None:
    """Write docs/performance-domains.md from benchmarks on this machine."""
    prepare(session)
    run(session, "python", "-m", "benchmarks.domain", *session.posargs)


@nox.session(default=False)
def retrieval_speed(session: nox.Session) -> None:
    """Write docs/performance-retrieval.md from benchmarks on this machine."""
    prepare(session)
    run(session, "python", "-m", "benchmarks.retrieval", *session.posargs)


@nox.session(default=False)
def localization_speed(session: nox.Session) -> None:
    """Write docs/performance-localization.md from benchmarks on this machine."""
    prepare(session)
    run(session, "python", "-m", "benchmarks.localization", *session.posargs)


@nox.session(default=False)
def segmentation_speed(session: nox.Session) -> None:
    """Write docs/performance-segmentation.md from benchmarks on this machine."""
    prepare(session)
    run(session, "python", "-m", "benchmarks.training", *session.posargs)
