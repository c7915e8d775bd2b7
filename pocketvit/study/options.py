"""The options that the tables of a study may set, and whether a value fits one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pocketvit.options import CommandOption, Raw, distill_options, export_options, run_options
from runtime import PlanError

from .definition import CellOptions, unknown_key

AXES = {"data": "data", "seed": "seeds", "threads": "threads"}
"""Options that the study sets itself, and the key of ``[study]`` that holds their values."""

_MEASURED = ("bench-seconds", "energy", "country")


def cell_options(command: Literal["run", "distill"]) -> Mapping[str, CommandOption]:
    """Returns the options that a method with this command may set, by key."""
    return run_options() if command == "run" else {**distill_options(), **export_options()}


def check_options(where: str, given: CellOptions, known: Mapping[str, CommandOption]) -> None:
    """Checks that each option is known and has a value of its kind.

    Args:
        where: the table and its file.
        given: values by key.
        known: the options that the table may set.

    Raises:
        PlanError: an option is unknown, is set by the study itself, or has a value of another kind.
    """
    for key, value in given.items():
        if key in AXES:
            raise PlanError(f"{where} sets {key}, which the study does", fix=f"Name it in [study] {AXES[key]}")
        if key in _MEASURED and key not in known:
            raise PlanError(f"{where} says how to measure", got=key, fix="Say that in [measure]")
        if key not in known:
            raise unknown_key(f"{where} has an unknown option", key, tuple(own for own in known if own not in AXES))
        expected = _misfit(value, known[key])
        if expected:
            raise PlanError(f"{key} in {where} cannot be", expected=expected, got=repr(value)[:80])


def _misfit(value: Raw, option: CommandOption) -> str | None:
    """Returns what is expected of the value, or None if the value fits."""
    if option.flag:
        return None if isinstance(value, bool) else "true or false"
    if isinstance(value, bool):
        return "a text or a number"
    if isinstance(value, tuple):
        return None if option.takes_pairs else "one text or number, not a list"
    return 'a list of texts, such as ["depth=6"]' if option.takes_pairs else None
