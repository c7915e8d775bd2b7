"""Parses the output of the counting plugin: the instructions executed up to each mark, by class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from device_bench.documents.instructions import CLASSES
from runtime import MeasurementError


@dataclass(frozen=True)
class InstructionMark:
    """A point that a counted program reached.

    Attributes:
        number: number given by the program.
        counts: instructions executed up to it, in the order of ``CLASSES``.
    """

    number: int
    counts: tuple[int, ...]


def read_marks(text: str) -> tuple[InstructionMark, ...]:
    """Returns the marks in the plugin's output, one JSON object per line.

    Raises:
        MeasurementError: there is none, a line has another form, or a count decreases.
    """
    marks = tuple(_mark(line) for line in text.splitlines())
    if not marks:
        raise MeasurementError("A counted program made no mark", fix="It must run to its end, under the plugin")
    for before, after in pairwise(marks):
        if any(more < fewer for fewer, more in zip(before.counts, after.counts, strict=True)):
            raise MeasurementError(f"Counted instructions fell between marks {before.number} and {after.number}")
    return marks


def between(marks: Sequence[InstructionMark]) -> tuple[tuple[int, ...], ...]:
    """Returns the instructions between consecutive marks, in the order of ``CLASSES``."""
    return tuple(
        tuple(more - fewer for fewer, more in zip(before.counts, after.counts, strict=True))
        for before, after in pairwise(marks)
    )


def _mark(line: str) -> InstructionMark:
    try:
        value: Any = json.loads(line)
        numbers = [value[name] for name in ("mark", *CLASSES)]
    except (ValueError, TypeError, KeyError):
        numbers = []
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        raise MeasurementError("The counting plugin wrote something else than counts", got=repr(line[:80]))
    return InstructionMark(numbers[0], tuple(numbers[1:]))
