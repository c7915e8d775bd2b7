"""What a transformable architecture search learnt, over time: JSON lines, a header and then one line per record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime import ArtifactError, encode
from runtime.journals import TAS_JOURNAL

from .candidates import DEPTH, EMBED, Candidates, Choice

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
        self._header = {"settings": dict(settings), "candidates": by_kind(candidates)}

    def holds(self, lines: int) -> bool:
        """Tells whether the file is of this search and has at least so many records."""
        try:
            header, records = TAS_JOURNAL.read(self._path)
            return header == encode(self._header) and len(list(records)) >= lines
        except ArtifactError:
            return False

    def start(self, lines: int) -> None:
        """Keeps the first ``lines`` records, and drops what was written after them; with 0 it starts anew.

        Raises:
            StorageError: the file cannot be written.
        """
        kept = [record for _, record in TAS_JOURNAL.read(self._path)[1]][:lines] if lines else []
        TAS_JOURNAL.write(self._path, self._header, kept)

    def record(self, entry: Mapping[str, Any]) -> None:
        """Appends a line.

        Raises:
            StorageError: the file cannot be written.
        """
        TAS_JOURNAL.append(self._path, entry)


def by_kind(values: Mapping[Choice, Any]) -> dict[str, Any]:
    """Returns values of every choice as JSON: ``embed`` and ``depth``, and ``heads`` and ``mlp`` block by block."""
    blocks = range(1 + max(choice.block for choice in values))
    lists = {kind: [list(values[Choice(kind, i)]) for i in blocks] for kind in ("heads", "mlp")}
    return {"embed": list(values[EMBED]), "depth": list(values[DEPTH]), **lists}


def rounded_odds(values: Any) -> list[float]:
    """Returns probabilities short enough to keep thousands of."""
    return [round(float(value), _DIGITS) for value in values]
