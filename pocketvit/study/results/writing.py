"""A study's table for other programs: CSV, and the JSON document."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from device_bench.metrics import METRICS
from runtime import encode

from .collect import StudyResult
from .spread import Spread

SCHEMA = "pocketvit.study"
VERSION = 1
_FIGURES = ("top1", "images", "params", "flops", "size_bytes", "gzip_bytes", "training_s")


def body(result: StudyResult) -> dict[str, Any]:
    """Returns a study as plain JSON values."""
    encoded: dict[str, Any] = encode(result)
    for row in encoded["rows"]:
        row["targets"] = [_flat(own) for own in row["targets"]]
    return encoded


def _flat(target: dict[str, Any]) -> dict[str, Any]:
    """Returns a target's figures next to its other fields."""
    more = {key: value for key, value in target.items() if key not in ("target", "emulated", "figures")}
    return {"target": target["target"], "emulated": target["emulated"], **target["figures"], **more}


def as_csv(result: StudyResult) -> str:
    """Returns the table with a line for each row and target, every figure with mean, standard deviation and number.

    Failed cells follow, each with its error.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    keys = [number.key for metric in METRICS.values() for number in metric.averaged]
    figures = [f"{name}_{part}" for name in (*_FIGURES, *keys) for part in ("mean", "sd", "n")]
    names = ("method", "model", "data", "budget", "file", "seeds", "target", "energy_tier")
    writer.writerow([*names, *figures, "error", "commands"])
    for row in result.rows:
        for own in row.targets or (None,):
            words = [
                *(row.method, row.model, row.data, row.budget, row.kind, " ".join(map(str, row.seeds))),
                *((own.target, own.energy_tier or "") if own else ("", "")),
            ]
            spreads: Sequence[Spread | None] = [
                *(getattr(row, name) for name in _FIGURES),
                *(own.figures[key] if own else None for key in keys),
            ]
            writer.writerow([*map(_text, words), *_numbers(spreads), "", "; ".join(row.commands)])
    for failed in result.failed:
        writer.writerow([failed.cell, *[""] * (len(names) - 1 + len(figures)), _text(failed.error), failed.command])
    return buffer.getvalue()


def _numbers(spreads: Sequence[Spread | None]) -> list[str]:
    found: list[str] = []
    for own in spreads:
        values = (own.mean, own.sd, own.n) if own else (None, None, None)
        found += ["" if value is None else repr(value) for value in values]
    return found


def _text(value: str) -> str:
    """Returns a text that a spreadsheet does not take for a formula."""
    return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
