"""What a transformable architecture search learnt, over time: JSON lines, a header and then one line per record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime import storage_errors, write_bytes

from .candidates import DEPTH, EMBED, Candidates, Choice

SCHEMA = "pocketvit.tas"
VERSION = 1

_DIGITS = 6


class TasJournal:
    """Records odds as they change, and goes on after the lines that an unfinished search is known to have written.

    Args:
        path: the ``.jsonl`` file.
        settings: what the search was asked for, JSON values.
        candidates: candidates of every choice.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], candidates: Candidates) -> None:
        self._path = path
        told = {"schema": SCHEMA, "schema_version": VERSION, "settings": dict(settings)}
        self._header = {**told, "candidates": by_kind(candidates)}

    def holds(self, lines: int) -> bool:
        """Tells whether the file is of this search and has at least so many records."""
        try:
            header, *records = self._path.read_bytes().splitlines(keepends=True)
            whole = sum(record.endswith(b"\n") for record in records)
            return bool(json.loads(header) == json.loads(_line(self._header))) and whole >= lines
        except (OSError, ValueError):
            return False

    def start(self, lines: int) -> None:
        """Keeps the first ``lines`` records, and drops what was written after them; with 0 it starts anew.

        Raises:
            StorageError: the file cannot be written.
        """
        kept = self._path.read_bytes().splitlines(keepends=True)[1 : lines + 1] if lines else []
        write_bytes(self._path, _line(self._header) + b"".join(kept))

    def record(self, entry: Mapping[str, Any]) -> None:
        """Appends a line.

        Raises:
            StorageError: the file cannot be written.
        """
        with storage_errors(self._path), self._path.open("ab") as handle:
            handle.write(_line(entry))


def by_kind(values: Mapping[Choice, Any]) -> dict[str, Any]:
    """Returns values of every choice as JSON: ``embed`` and ``depth``, and ``heads`` and ``mlp`` block by block."""
    blocks = range(1 + max(choice.block for choice in values))
    lists = {kind: [list(values[Choice(kind, i)]) for i in blocks] for kind in ("heads", "mlp")}
    return {"embed": list(values[EMBED]), "depth": list(values[DEPTH]), **lists}


def rounded_odds(values: Any) -> list[float]:
    """Returns probabilities short enough to keep thousands of."""
    return [round(float(value), _DIGITS) for value in values]


def _line(entry: Mapping[str, Any]) -> bytes:
    return (json.dumps(entry, allow_nan=False) + "\n").encode()
