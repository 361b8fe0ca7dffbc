"""Groups of commands that load their modules when one of them is asked for, so that the program starts at once."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

__all__ = ["add_group"]


def add_group(app: typer.Typer, name: str, summary: str, package: str, modules: Sequence[str]) -> None:
    """Add a group to `app` whose commands are registered by the ``register`` of some modules.

    Parameters
    ----------
    summary
        What the help page says of it.
    package
        Where the modules are.
    modules
        Their names, in the order of the help page.
    """

    class Group(TyperGroup):
        """Looks like any group, to click and to whoever asks for its commands."""

        _known: MutableMapping[str, Any] | None = None

        @property
        def commands(self) -> MutableMapping[str, Any]:
            if self._known is None:
                loaded = typer.Typer()
                for module in modules:
                    import_module(f"{package}.{module}").register(loaded)
                self._known = get_group(loaded).commands
            return self._known

        @commands.setter
        def commands(self, value: MutableMapping[str, Any]) -> None:
            """Take no notice of the none that typer finds before they are loaded."""

    app.add_typer(typer.Typer(cls=Group, help=summary, no_args_is_help=True), name=name)
