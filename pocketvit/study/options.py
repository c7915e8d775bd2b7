"""The options of a cell: which there are, whether a value fits, and the command line that says them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import typer
from typer.exceptions import TyperException

from runtime import PlanError

from .definition import Options, Value, unknown

Command = Literal["compress", "distill", "export", "profile"]
AXES = {"data": "data", "seed": "seeds", "threads": "threads"}
"""Options that the study itself sets, and the key of ``[study]`` that says them."""

_MEASURED = ("bench-seconds", "energy", "country")
_EXPORT = "Export"


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        key: its long name without dashes.
        name: of the parameter it fills in.
        panel: the group of options it stands in.
        flag: whether it takes no value.
        off: what says no, where there is such an option.
        repeated: whether it may stand several times.
    """

    key: str
    name: str
    panel: str
    flag: bool
    off: str | None
    repeated: bool


@cache
def options_of(command: Command) -> Mapping[str, Option]:
    """Returns the options that say what a command makes, by key; not those that say where."""
    found = {}
    for parameter in _command(command).params:
        panel = getattr(parameter, "rich_help_panel", None)
        if panel is None:
            continue
        off = parameter.secondary_opts[0] if parameter.secondary_opts else None
        key = next(text for text in parameter.opts if text.startswith("--")).removeprefix("--")
        found[key] = Option(key, parameter.name, panel, parameter.is_flag, off, parameter.multiple)
    return found


@cache
def export_options() -> Mapping[str, Option]:
    """Returns the options of ``export`` that say how a file is made, by key."""
    return {key: own for key, own in options_of("export").items() if own.panel == _EXPORT}


def check_options(where: str, given: Options, known: Mapping[str, Option]) -> None:
    """Checks that each option is known and takes a value of that kind.

    Args:
        where: the table and its file.
        given: by key.
        known: the options there are.

    Raises:
        PlanError: an option is unknown, is one that the study sets, or has a value of another kind.
    """
    for key, value in given.items():
        if key in AXES:
            raise PlanError(f"{where} sets {key}, which the study does", fix=f"Name it in [study] {AXES[key]}")
        if key in _MEASURED and key not in known:
            raise PlanError(f"{where} says how to measure", got=key, fix="Say that in [measure]")
        if key not in known:
            raise unknown(f"{where} has an unknown option", key, tuple(own for own in known if own not in AXES))
        expected = _misfit(value, known[key])
        if expected:
            raise PlanError(f"{key} in {where} cannot be", expected=expected, got=repr(value)[:80])


def _misfit(value: Value, option: Option) -> str | None:
    """Returns what is expected of the value where it is of another kind."""
    if option.flag:
        return None if isinstance(value, bool) else "true or false"
    if isinstance(value, bool):
        return "a text or a number"
    if isinstance(value, tuple):
        return None if option.repeated else "one text or number, not a list"
    return 'a list of texts, such as ["depth=6"]' if option.repeated else None


def arguments(given: Options, known: Mapping[str, Option]) -> tuple[str, ...]:
    """Returns a command line's options, in the order in which the command knows them."""
    words: list[str] = []
    for key, option in known.items():
        if key not in given:
            continue
        value = given[key]
        if option.flag:
            words += [f"--{key}"] if value else [option.off] if option.off else []
        else:
            for one in value if isinstance(value, tuple) else (value,):
                words += [f"--{key}", str(one)]
    return tuple(words)


def parsed(where: str, command: Command, words: tuple[str, ...]) -> dict[str, Any]:
    """Returns what the command itself makes of its options, by parameter.

    Raises:
        PlanError: a value cannot be read.
    """
    try:
        context = _command(command).make_context(command, list(words))
    except TyperException as error:
        said = error.format_message() if hasattr(error, "format_message") else str(error)
        raise PlanError(f"An option of {where} cannot be read", got=said) from error
    names = {option.name for option in options_of(command).values()}
    return {name: value for name, value in context.params.items() if name in names}


def _command(name: str) -> Any:
    from pocketvit.cli import app

    return typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
