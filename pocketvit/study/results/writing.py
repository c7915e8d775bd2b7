"""A study's table for other programs: CSV, and the JSON document."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from runtime import encode

from .collect import Row, StudyResult
from .spread import Spread

SCHEMA = "pocketvit.study"
VERSION = 1
_FIGURES = ("top1", "images", "params", "flops", "size_bytes", "gzip_bytes", "training_s")
_ON_TARGET = ("latency_s", "images_per_s", "joules_per_image", "grams_co2_per_image", "instructions")


def body(result: StudyResult) -> dict[str, Any]:
    """Returns a study as plain JSON values."""
    encoded: dict[str, Any] = encode(result)
    return encoded


def as_csv(result: StudyResult) -> str:
    """Returns the table with a line for each row and target, every figure with mean, standard deviation and number.

    Failed cells follow, each with what went wrong.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    figures = [f"{name}_{part}" for name in (*_FIGURES, *_ON_TARGET) for part in ("mean", "sd", "n")]
    names = ("method", "model", "data", "budget", "file", "seeds", "target", "energy_tier")
    writer.writerow([*names, *figures, "error", "commands"])
    for row in result.rows:
        for own in row.targets or (None,):
            told = [
                *(row.method, row.model, row.data, row.budget, row.kind, " ".join(map(str, row.seeds))),
                *((own.target, own.energy_tier or "") if own else ("", "")),
            ]
            spreads: Sequence[Spread | None] = [
                *(getattr(row, name) for name in _FIGURES),
                *(getattr(own, name) if own else None for name in _ON_TARGET),
            ]
            writer.writerow([*map(_text, told), *_numbers(spreads), "", _commands(row)])
    for failed in result.failed:
        writer.writerow([failed.cell, *[""] * (len(names) - 1 + len(figures)), _text(failed.error), failed.command])
    return buffer.getvalue()


def _numbers(spreads: Sequence[Spread | None]) -> list[str]:
    found: list[str] = []
    for own in spreads:
        values = (own.mean, own.sd, own.n) if own else (None, None, None)
        found += ["" if value is None else repr(value) for value in values]
    return found


def _commands(row: Row) -> str:
    return "; ".join(row.commands)


def _text(value: str) -> str:
    """Returns a text that a spreadsheet does not take for a formula."""
    return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
