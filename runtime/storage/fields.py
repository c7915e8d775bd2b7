"""Checks the fields of a settings dataclass against their annotations, and converts values that fit."""

from __future__ import annotations

import collections.abc
import dataclasses
import operator
import os
import reprlib
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import PlanError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60

_CALLED = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    Path: "a path",
    type(None): "None",
}


class _UnfitError(Exception):
    """A value that is not of a type, with what would be."""


def check_fields(instance: Any) -> None:
    """Checks every field of a frozen dataclass; to be called first in ``__post_init__``.

    A value that means the same in another type is converted: a path to a text or a text to a path, a list to a tuple, a
    number of numpy to one of Python, a whole number to a float.

    Args:
        instance: a dataclass whose fields are annotated with str, int, float, bool, Path, None, Literal, unions of
            these, tuples, mappings with text keys, or other dataclasses. Any other annotation takes any value.

    Raises:
        PlanError: a value does not fit its annotation.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Files:
    ...     kinds: tuple[str, ...]
    ...     def __post_init__(self) -> None:
    ...         check_fields(self)
    >>> Files(["onnx", "fp32"])
    Files(kinds=('onnx', 'fp32'))
    """
    cls: Any = type(instance)
    for name, kind in _hints(cls).items():
        value = getattr(instance, name)
        try:
            fitting = _fitting(kind, value)
        except _UnfitError as expected:
            what = f"{cls.__name__} does not take this for {name}"
            raise PlanError(what, expected=expected, got=_SHORT.repr(value)) from None
        if fitting is not value:
            object.__setattr__(instance, name, fitting)


def check_is(value: object, kind: type[Any]) -> None:
    """Checks that a value is of ``kind``, and not a dict in place of settings, for example.

    Raises:
        PlanError: it is of another type.
    """
    if not isinstance(value, kind):
        raise PlanError("Something else was given than settings", expected=kind.__name__, got=_SHORT.repr(value))


@cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _fitting(kind: Any, value: Any) -> Any:
    """Returns ``value`` as one of ``kind``.

    Raises:
        _UnfitError: it is none.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, value)
    if origin is typing.Literal:
        if any(value == own and type(value) is type(own) for own in arguments):
            return value
        raise _UnfitError(_listed([str(own) or "''" for own in arguments]))
    if origin is tuple:
        return _tuple(arguments, value)
    if origin in (dict, collections.abc.Mapping):
        if not isinstance(value, collections.abc.Mapping):
            raise _UnfitError(f"a dict from text to {_called(arguments[1])}")
        return {_fitting(arguments[0], key): _fitting(arguments[1], own) for key, own in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, kind):
            return value
        raise _UnfitError(f"a {kind.__name__}")
    return _plain(kind, value) if kind in _CALLED else value


def _one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    """Returns ``value`` as its own kind, else as the first kind that it can be converted to."""
    if type(value) in kinds and not isinstance(value, float):
        return value
    expected = []
    for kind in kinds:
        try:
            return _fitting(kind, value)
        except _UnfitError as error:
            expected.append(str(error))
    raise _UnfitError(_listed(expected))


def _tuple(kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    several = len(kinds) == 2 and kinds[1] is Ellipsis
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (tuple, list)):
        example = f", such as ({value!r},)" if several and isinstance(value, (str, int, float)) else ""
        raise _UnfitError(f"a tuple or list of {_called(kinds[0])}{example}")
    if several:
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        raise _UnfitError(f"{len(kinds)} values")
    fitting = tuple(_fitting(kind, own) for kind, own in zip(kinds, value, strict=True))
    if isinstance(value, tuple) and all(new is old for new, old in zip(fitting, value, strict=True)):
        return value
    return fitting


def _plain(kind: Any, value: Any) -> Any:
    wrong = _UnfitError(_CALLED[kind])
    if kind is type(None):
        if value is None:
            return value
    elif kind is bool:
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
    elif kind is str:
        if isinstance(value, str):
            return value
        if isinstance(value, os.PathLike) and isinstance(os.fspath(value), str):
            return os.fspath(value)
    elif kind is Path:
        if isinstance(value, (str, os.PathLike)):
            return value if isinstance(value, Path) else Path(value)
    elif isinstance(value, (bool, np.bool_)):
        raise wrong
    elif kind is int:
        if isinstance(value, (int, np.integer)):
            return operator.index(value)
    elif isinstance(value, (int, float, np.integer, np.floating)):
        return value if type(value) is float else float(value)
    raise wrong


def _called(kind: Any) -> str:
    """Returns a type in words."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return _listed([str(own) or "''" for own in arguments])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return _listed([_called(own) for own in arguments])
    if typing.get_origin(kind) is tuple:
        return f"a tuple of {_called(arguments[0])}"
    return _CALLED[kind] if kind in _CALLED else str(getattr(kind, "__name__", kind))


def _listed(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
