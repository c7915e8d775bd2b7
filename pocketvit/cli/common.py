"""Parameters that several commands have, and the options of settings as parameters of a command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from pocketvit.options import CommandOption, Raw

RUNS = Path("runs")


def flag(help_text: str, name: str | None = None) -> Parameter:
    """Returns the parameter of an option that takes no value and has no ``--no-`` form."""
    return Parameter(name=name, negative="", help=help_text, show_default=False)


Json = Annotated[bool, flag("Print one JSON document instead of text.", "--json")]
Name = Annotated[str | None, Parameter(help="Name of the run; by default made from data and model.")]
Runs = Annotated[Path, Parameter(help="Folder of all runs.")]
Resume = Annotated[bool, flag("Continue a run that was stopped.")]
Force = Annotated[bool, flag("Replace an existing run.")]
Threads = Annotated[int, Parameter(help="Threads of the engine.")]
Seconds = Annotated[float, Parameter(help="Measuring time for each file, seconds.")]
Country = Annotated[str | None, Parameter(help="Country whose grid CO2 is estimated for, ISO 3166 alpha-3, as DEU.")]
InventoryOption = Annotated[
    Path | None,
    Parameter(help="File of your targets; by default ./targets.toml or ~/.config/pocketvit/targets.toml."),
]


def with_options(
    known: Callable[[], Mapping[str, CommandOption]], first: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives ``command(given, ...)`` the options of ``known`` in place of its first parameter.

    Args:
        known: the options, by key; called when the command is looked at.
        first: whether they stand before the command's own options in ``--help``.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        options = {f"option_{key.replace('-', '_')}": option for key, option in known().items()}

        @functools.wraps(command)
        def wrapper(*arguments: Any, **values: Any) -> None:
            given = {options[name].key: _raw(values.pop(name)) for name in list(values) if name in options}
            command(given, *arguments, **values)

        added = [_parameter(name, option, number) for number, (name, option) in enumerate(options.items())]
        positional = [one for one in own if one.kind is inspect.Parameter.POSITIONAL_ONLY]
        named = [one for one in own if one.kind is not inspect.Parameter.POSITIONAL_ONLY]
        parameters = [*positional, *added, *named] if first else [*positional, *named, *added]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {one.name: one.annotation for one in parameters}
        return wrapper

    return decorate


def _raw(value: Any) -> Raw:
    return tuple(value) if isinstance(value, list) else value


def _parameter(name: str, option: CommandOption, number: int) -> inspect.Parameter:
    kind: Any = bool | None if option.flag else list[str] | None if option.repeated else str | None
    default = _default_text(option)
    described = Parameter(
        name=f"--{option.key}",
        help=option.help,
        group=_group(option.option.panel),
        negative=option.off or "",
        metavar=None if option.flag else option.metavar,
        show_default=(lambda _: default) if default else False,
    )
    annotation = Annotated[kind, described]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=annotation)


@functools.cache
def _group(panel: str) -> Group:
    return Group.create_ordered(panel)


def _default_text(option: CommandOption) -> str:
    """Returns the default as it would be given; empty where there is none worth showing."""
    default = option.default
    if default is None or default is False or default in ("", (), {}):
        return ""
    if default is True:
        return "on"
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
