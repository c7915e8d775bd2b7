"""Frozen dataclasses to JSON and back, with every field checked on the way in."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

from .errors import ArtifactError, PocketVitError

T = TypeVar("T")


def encode(value: Any) -> Any:
    """Returns a dataclass (nested, with tuples and dicts) as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    return value


def decode(cls: type[T], value: Any, where: str) -> T:
    """Builds dataclass ``cls`` from JSON values, refusing what does not fit its annotations.

    Args:
        cls: a dataclass whose fields are annotated with str, int, float, bool, None, unions of these,
            tuples, string-keyed dicts, or other such dataclasses.
        value: what ``json.loads`` gave.
        where: the name of the document, for the error text.

    Raises:
        ArtifactError: a field is missing, unknown, of the wrong type, or not finite.
    """
    return typing.cast(T, _decode(cls, value, where))


def _decode(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is typing.Literal:
        if value in arguments and type(value) in {type(argument) for argument in arguments}:
            return value
        raise _wrong(where, f"one of {', '.join(map(repr, arguments))}", value)
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is Any:
        return value
    return _decode_scalar(kind, value, where)


def _decode_dataclass(cls: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise ArtifactError(f"{where} has unknown fields", got=", ".join(unknown))
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _decode(hints[name], value[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ArtifactError(f"{where} lacks the field '{name}'", fix="It was truncated or edited by hand")
    try:
        return cls(**arguments)
    except PocketVitError as error:
        raise ArtifactError(f"{where} is not valid: {error}") from error


def _decode_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    options = [argument for argument in arguments if argument is not type(None)]
    for option in options[:-1]:
        try:
            return _decode(option, value, where)
        except ArtifactError:
            continue
    return _decode(options[-1], value, where)


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise _wrong(where, f"{len(arguments)} items", value)
    return tuple(_decode(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(arguments, value, strict=True)))


def _decode_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise _wrong(where, "a finite number", value)
        return float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind in (str, bool) and isinstance(value, kind):
        return value
    raise _wrong(where, getattr(kind, "__name__", str(kind)), value)


def _wrong(where: str, expected: str, value: Any) -> ArtifactError:
    return ArtifactError(f"{where} has the wrong type or value", expected=expected, got=repr(value)[:80])
