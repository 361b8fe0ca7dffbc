"""What every command shares: common options, options made from a configuration class, errors, output.

``@command(app, "train", TrainConfig)`` registers ``def train(call, config, ...)``. Parameters that the
function names itself (after `call` and `config`) are ordinary Typer parameters; the fields of the
configuration class become options; ``--root --seed --config --set --json --debug`` are added to all.
"""

from __future__ import annotations

import dataclasses
import errno
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from emvfm.config import Doc, resolve
from emvfm.errors import EmvfmError
from emvfm.workspace import Workspace

__all__ = ["Call", "command"]

_PANEL = "Common options"
_COMMON = {
    "root": Annotated[
        Path | None,
        typer.Option(
            envvar="EMVFM_ROOT",
            help="Workspace folder, else ./emvfm-workspace.",
            rich_help_panel=_PANEL,
            file_okay=False,
        ),
    ],
    "seed": Annotated[int, typer.Option(min=0, help="Seed of everything random.", rich_help_panel=_PANEL)],
    "config": Annotated[
        Path | None, typer.Option(help="YAML file with options of this command.", rich_help_panel=_PANEL)
    ],
    "sets": Annotated[
        list[str] | None,
        typer.Option("--set", help="One option as key=value; repeatable.", rich_help_panel=_PANEL),
    ],
    "json": Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object on stdout, nothing else.", rich_help_panel=_PANEL),
    ],
    "debug": Annotated[bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=_PANEL)],
}
_COMMON_DEFAULTS = {"root": None, "seed": 0, "config": None, "sets": None, "json": False, "debug": False}


@dataclass(frozen=True)
class Call:
    """One call of a command: its workspace, seed and way of speaking.

    Results go to stdout (text, or one JSON object with ``--json``); progress and remarks to stderr.
    """

    workspace: Workspace
    seed: int
    json: bool

    @property
    def console(self) -> Any:
        """A Rich console on stderr for progress and remarks (silent with ``--json``)."""
        from rich.console import Console

        return Console(stderr=True, quiet=self.json, highlight=False)

    def result(self, value: dict[str, Any], *lines: Any) -> None:
        """Print the result: `value` as JSON with ``--json``, else the Rich renderables or text in `lines`."""
        if self.json:
            sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str) + "\n")
            return
        from rich.console import Console

        # A pipe or a file has no width of its own: never fold a table there to 80 columns.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
        for line in lines:
            console.print(line)


def _option_type(hint: Any) -> Any:
    """Return the type Typer shows for a field: tuples become repeatable lists, the rest as it is."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        inner = [a for a in get_args(hint) if a is not NoneType]
        if len(inner) == 1:
            return _option_type(inner[0]) | None
        return str | None if NoneType in get_args(hint) else str
    if origin is tuple:
        return list[_option_type(get_args(hint)[0])]  # type: ignore[misc]
    return hint


def _keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _config_parameters(kind: type, panels: Mapping[str, Sequence[str]]) -> list[inspect.Parameter]:
    """Return one keyword parameter a field of the configuration class, with its help and default."""
    panel_of = {name: panel for panel, names in panels.items() for name in names}
    hints = get_type_hints(kind, include_extras=True)
    parameters = []
    for field in dataclasses.fields(kind):
        hint, *extras = (
            get_args(hints[field.name])
            if get_origin(hints[field.name]) is Annotated
            else (hints[field.name],)
        )
        if field.name in _COMMON_DEFAULTS:  # `seed` is common to all commands
            continue
        text = next((extra.text for extra in extras if isinstance(extra, Doc)), None)
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = field.default
        panel = panel_of.get(field.name)
        option = typer.Option(help=text, show_default=default not in (None, (), ""), rich_help_panel=panel)
        if isinstance(default, tuple):
            default = list(default)
        annotation = Annotated[_option_type(hint), option]  # type: ignore[valid-type]
        if default is dataclasses.MISSING:  # required: may still come from --config, so not required here
            annotation, default = Annotated[_option_type(hint) | None, option], None  # type: ignore[valid-type]
        parameters.append(
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
        )
    order = {name: place for place, name in enumerate(panel_of)}
    return sorted(parameters, key=lambda parameter: order.get(parameter.name, -1))


def _given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _speak(error: BaseException, debug: bool) -> int:
    """Print one line on stderr for an error and return the exit code."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, EmvfmError):
        line, code = str(error), error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        line, code = "interrupted: what was finished is kept; the same command goes on from there", 130
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        line = (
            f"{error.filename or 'disk'}: no space left (what was finished is kept); free some and run again"
        )
        code = 1
    elif isinstance(error, OSError):
        line, code = f"{error.filename or 'file system'}: {error.strerror or error}", 1
    elif isinstance(error, MemoryError):
        line, code = "out of memory; lower --batch-size or use smaller images", 1
    else:
        line = f"internal error: {type(error).__name__}: {error}; run again with --debug and report it"
        code = 1
    sys.stderr.write("emvfm: " + " ".join(line.split()) + "\n")
    return code


def command(
    app: typer.Typer,
    name: str,
    kind: type | None = None,
    *,
    panels: Mapping[str, Sequence[str]] | None = None,
    **options: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a command; see the module's docstring.

    The function is called as ``function(call, config, **own)``, without `config` where `kind` is None.
    If the configuration class has a field ``seed``, the common option fills it. `panels` groups fields in the
    help, in its order: title of a panel to names of fields.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function, eval_str=True)
        skipped = 1 if kind is None else 2
        own = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in list(signature.parameters.values())[skipped:]
        ]
        fields = [] if kind is None else _config_parameters(kind, panels or {})
        common = [
            inspect.Parameter(
                key, inspect.Parameter.KEYWORD_ONLY, default=_COMMON_DEFAULTS[key], annotation=hint
            )
            for key, hint in _COMMON.items()
            if kind is not None or key not in ("config", "sets")
        ]
        context = _keyword("ctx", typer.Context)

        def invoke(ctx: typer.Context, **values: Any) -> None:
            try:
                call = Call(Workspace.find(values["root"]), values["seed"], values["json"])
                arguments = {p.name: values[p.name] for p in own}
                if kind is None:
                    function(call, **arguments)
                else:
                    flags = {p.name: _plain(values[p.name]) for p in fields if _given(ctx, p.name)}
                    if "seed" in {f.name for f in dataclasses.fields(kind)} and _given(ctx, "seed"):
                        flags["seed"] = values["seed"]
                    config: Any = resolve(kind, file=values["config"], sets=values["sets"] or (), flags=flags)
                    function(call, config, **arguments)
            except (typer.Exit, typer.Abort, SystemExit):
                raise
            except BaseException as error:  # the one place where errors become a line and an exit code
                raise SystemExit(_speak(error, values["debug"])) from None

        invoke.__signature__ = inspect.Signature([context, *own, *fields, *common])  # type: ignore[attr-defined]
        invoke.__annotations__ = {p.name: p.annotation for p in [context, *own, *fields, *common]}
        invoke.__doc__ = function.__doc__
        invoke.__name__ = function.__name__
        app.command(name, **options)(invoke)
        return function

    return register


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
