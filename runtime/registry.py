"""Registries of named things, such as engines or targets, to which a plug-in file can add."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from .errors import PocketVitError, UnsupportedTargetError

T = TypeVar("T")

PLUGINS = "POCKETVIT_PLUGINS"
"""Environment variable with modules to import before a registry is read, separated by commas.

Processes that PocketViT starts inherit it, so that they know the registered things too.
"""

_loaded: set[str] = set()


class Registry(Mapping[str, T], Generic[T]):
    """Things of one kind by name, in the order in which they were added.

    Built-in things are named by module and attribute and imported when they are looked up, so that listing the
    names costs no import.

    Args:
        what: name of one such thing, such as ``"search method"``, for error texts.
        builtin: name to ``"module:attribute"``.
        error: raised for a name that is not there.
    """

    def __init__(
        self, what: str, builtin: Mapping[str, str], *, error: type[PocketVitError] = UnsupportedTargetError
    ) -> None:
        self.what = what
        self._error = error
        self._places: dict[str, str] = dict(builtin)
        self._things: dict[str, T] = {}

    def register(self, name: str, thing: T) -> T:
        """Adds ``thing`` under ``name`` and returns it.

        Raises:
            PocketVitError: the name is taken by another thing.
        """
        if name in self._places or self._things.get(name, thing) is not thing:
            raise self._error(f"There is already a {self.what} named {name!r}", fix="Register it under another name")
        self._things[name] = thing
        return thing

    def __getitem__(self, name: str) -> T:
        load_plugins()
        if name not in self._things:
            if name not in self._places:
                raise self._error(f"Unknown {self.what}", expected=f"one of {', '.join(self)}", got=repr(name))
            self._things[name] = imported(self._places[name])
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        load_plugins()
        return name in self._places or name in self._things

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(dict.fromkeys((*self._places, *self._things)))

    def __len__(self) -> int:
        return len(list(iter(self)))


def imported(place: str) -> Any:
    """Returns the thing that ``"module:attribute"`` names, importing its module."""
    module, attribute = place.split(":")
    return getattr(import_module(module), attribute)


def load_plugins() -> None:
    """Imports the modules that ``POCKETVIT_PLUGINS`` names, each once.

    Raises:
        UnsupportedTargetError: a module cannot be found.
    """
    for name in os.environ.get(PLUGINS, "").split(","):
        if name.strip() and name not in _loaded:
            _loaded.add(name)  # first, since the module itself looks at registries
            try:
                import_module(name.strip())
            except ModuleNotFoundError as error:
                raise UnsupportedTargetError(
                    f"{PLUGINS} names a module that cannot be imported",
                    expected="modules on the path, separated by commas",
                    got=f"{name.strip()!r} ({error})",
                ) from error
