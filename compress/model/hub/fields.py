"""Reads JSON files that strangers wrote: every value is checked for its type and range before it is used."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime import ModelError

_LARGEST_JSON = 32 * 2**20
"""Bytes; a config with 21,000 class names takes 2 MB."""


@dataclass(frozen=True)
class Fields:
    """The fields of a JSON object.

    Attributes:
        where: name of the object, for the error text.
        values: its values by name.
        defaults: values of fields that are absent or null.
    """

    where: str
    values: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def get(self, name: str) -> Any:
        """Returns a value as it is; its default where it is absent or null, and None where there is none."""
        found = self.values.get(name)
        return self.defaults.get(name) if found is None else found

    def whole(self, name: str, low: int, high: int) -> int:
        """Returns a whole number from ``low`` to ``high``.

        Raises:
            ModelError: it is absent, of another type, or out of range.
        """
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low} to {high}", value)
        return value

    def number(self, name: str, low: float, high: float) -> float:
        """Returns a number from ``low`` to ``high``.

        Raises:
            ModelError: it is absent, of another type, or out of range.
        """
        value = self.get(name)
        if not _is_number(value) or not low <= value <= high:
            raise self.wrong(name, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def flag(self, name: str) -> bool:
        """Returns true or false; false where the field is absent.

        Raises:
            ModelError: it is of another type.
        """
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "true or false", value)
        return bool(value)

    def text(self, name: str, choices: Collection[str] = ()) -> str:
        """Returns a text, one of ``choices`` where these are given; an empty text where the field is absent.

        Raises:
            ModelError: it is of another type, or none of the choices.
        """
        value = self.get(name)
        value = "" if value is None else value
        if not isinstance(value, str) or (choices and value not in choices):
            raise self.wrong(name, ", ".join(choices) if choices else "a text", value)
        return value

    def sides(self, name: str, high: int) -> tuple[int, int]:
        """Returns a height and a width from 1 to ``high``; one number stands for both.

        Raises:
            ModelError: it is absent, of another type, or out of range.
        """
        value = self.get(name)
        pair = value if isinstance(value, list) else [value, value]
        whole = all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= high for side in pair)
        if len(pair) != 2 or not whole:
            raise self.wrong(name, f"one or two whole numbers from 1 to {high}", value)
        return pair[0], pair[1]

    def numbers(self, name: str, low: float, high: float) -> tuple[float, ...]:
        """Returns a list of numbers from ``low`` to ``high``; a single one becomes a list of one.

        Raises:
            ModelError: it is absent, of another type, empty, or out of range.
        """
        value = self.get(name)
        items = value if isinstance(value, list) else [value]
        if not items or not all(_is_number(item) and low <= item <= high for item in items):
            raise self.wrong(name, f"numbers from {low:g} to {high:g}", value)
        return tuple(map(float, items))

    def inner(self, name: str, defaults: Mapping[str, Any] | None = None) -> Fields:
        """Returns the fields of an object inside this one; none where it is absent.

        Raises:
            ModelError: it is no object.
        """
        value = self.get(name)
        value = {} if value is None else value
        if not isinstance(value, dict):
            raise self.wrong(name, "an object", value)
        return Fields(f"{self.where}: {name}", value, defaults or {})

    def wrong(self, name: str, expected: str, value: object) -> ModelError:
        """Returns an error on a value."""
        text = repr(value)
        got = text if len(text) <= 80 else f"{text[:80]}…"
        return ModelError(f"{self.where} has a field '{name}' that cannot be used", expected=expected, got=got)


def read_fields(path: Path, defaults: Mapping[str, Any] | None = None) -> Fields:
    """Reads a JSON file that holds one object.

    Raises:
        ModelError: the file is missing, too large, damaged, or holds something else.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ModelError(f"{path} is too large", expected=f"at most {_LARGEST_JSON} bytes", got=path.stat().st_size)
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        got = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read", expected="a JSON object", got=got) from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds something else", expected="a JSON object", got=type(found).__name__)
    return Fields(str(path), found, defaults or {})


def _is_number(value: object) -> bool:
    """Returns whether a value is a number; the comparison with a range then refuses NaN, infinity and huge integers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
