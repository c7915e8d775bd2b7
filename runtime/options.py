"""How a field of a settings dataclass is set from outside: by an option of the command line or a key of a study."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any, get_type_hints

from .errors import PlanError
from .registry import imported


@dataclass(frozen=True)
class Option:
    """Describes the option that sets a field, in the field's ``Annotated`` type.

    Attributes:
        help: one sentence for ``--help``; ``{choices}`` stands for the names that the option takes.
        name: of the option, such as ``--for``; empty makes it from the field's name.
        panel: heading in ``--help``; empty takes the heading of the group that the field stands in.
        negative: whether a true-or-false option has a ``--no-NAME``.
        choices: the registry whose names the option takes, as ``"module:attribute"``; empty for any value, or for
            those of a ``Literal``.
        forms: a function that returns the forms of the value for ``{choices}``, as ``"module:function"``; they are not
            checked.
        several: whether commands take it several times, each time for work of its own.

    >>> from typing import Annotated
    >>> epochs: Annotated[int, Option("Most passes over the training images.", panel="Training")] = 20
    """

    help: str
    name: str = ""
    panel: str = ""
    negative: bool = True
    choices: str = ""
    forms: str = ""
    several: bool = False

    def names(self) -> tuple[str, ...]:
        """Returns the names in the registry of ``choices``; empty where there is none."""
        return tuple(imported(self.choices)) if self.choices else ()

    def described(self, names: tuple[str, ...]) -> str:
        """Returns the help with ``names``, or the forms of the value, for ``{choices}``."""
        listed = imported(self.forms)() if self.forms else names
        return self.help.replace("{choices}", in_words(listed))


@dataclass(frozen=True)
class Renamed:
    """Gives the fields of a nested settings dataclass other options than they have by themselves.

    Attributes:
        options: by the field's name; None takes the option away.
    """

    options: dict[str, Option | None]


def check_choices(instance: Any) -> None:
    """Checks that the fields of a dataclass whose ``Option`` names a registry hold names of it.

    Raises:
        PlanError: a name is not in the registry.
    """
    cls: Any = type(instance)
    for name, option in _chosen(cls).items():
        value, known = getattr(instance, name), option.names()
        default = getattr(cls, name, None)
        for own in value if isinstance(value, tuple) else (value,):
            if own not in known and not own == default == "":
                what = f"{cls.__name__} does not take this for {name}"
                raise PlanError(what, expected=in_words(known), got=repr(own))


def in_words(names: tuple[str, ...]) -> str:
    """Returns names as a list in a sentence.

    >>> in_words(("one", "two", "three"))
    'one, two or three'
    """
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


@cache
def _chosen(cls: Any) -> dict[str, Option]:
    """Returns the options of a dataclass that take names of a registry, by field."""
    hints = get_type_hints(cls, include_extras=True)
    return {
        own.name: option
        for own in fields(cls)
        for option in getattr(hints[own.name], "__metadata__", ())
        if isinstance(option, Option) and option.choices
    }
