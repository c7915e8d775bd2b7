"""Frozen dataclasses to JSON and back, with every field checked on the way in."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from typing import Any, TypeVar

from runtime.errors import ArtifactError, PocketVitError

T = TypeVar("T")

_INT64 = 2**63
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def encode(value: Any) -> Any:
    """Returns a dataclass (nested, with tuples and dicts) as plain JSON values.

    A field whose metadata hold ``omit_default`` is left out where it has its default value, so that a field which is
    new changes no file that does not use it.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: encode(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (field.metadata.get("omit_default") and getattr(value, field.name) == field.default)
        }
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
        ArtifactError: a field is missing, unknown, of the wrong type or not finite, an integer does not fit
            64 bits, or a text has lone surrogates.
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
        return {_text(key, where): _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is Any:
        return value
    return _decode_scalar(kind, value, where)


def _decode_dataclass(cls: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(map(str, set(value) - set(fields)))
    if unknown:
        raise ArtifactError(f"{where} has unknown fields", got=_shown(unknown))
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
        if (isinstance(value, int) and abs(value) >= _INT64) or not math.isfinite(value):
            raise _wrong(where, "a finite number", value)
        return float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= _INT64:
            raise _wrong(where, "an integer of 64 bits", value)
        return value
    if kind is str and isinstance(value, str):
        return _text(value, where)
    if kind is bool and isinstance(value, bool):
        return value
    raise _wrong(where, getattr(kind, "__name__", str(kind)), value)


def _text(value: Any, where: str) -> str:
    """Refuses lone surrogates: JSON can spell them, but no file or terminal can hold them."""
    if not isinstance(value, str):
        raise _wrong(where, "a text", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(where, "a text without lone surrogates", value) from None
    return value


def _wrong(where: str, expected: str, value: Any) -> ArtifactError:
    return ArtifactError(f"{where} has the wrong type or value", expected=expected, got=_shown(value))


def _shown(value: Any) -> str:
    """Returns a short form of ``value``, however deep, long or unprintable it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python refuses to print an integer of thousands of digits
        return "a number too long to print"
