"""The journal of a transformable architecture search as JSON lines: a header, then the odds over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime import ArtifactError, encode
from runtime.storage.journals import TAS_JOURNAL

from .candidates import DEPTH, EMBED, Candidates, Choice

_DIGITS = 6


class TasJournal:
    """Records the odds over time, and resumes after the lines of an unfinished search.

    Args:
        path: the ``.jsonl`` file.
        settings: what identifies the search, JSON values.
        candidates: candidates of every choice.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], candidates: Candidates) -> None:
        self._path = path
        self._header = {"settings": dict(settings), "candidates": by_kind(candidates)}

    def holds(self, lines: int) -> bool:
        """Returns whether the file belongs to this search and has at least ``lines`` records."""
        try:
            header, records = TAS_JOURNAL.read(self._path)
            return header == encode(self._header) and len(list(records)) >= lines
        except ArtifactError:
            return False

    def start(self, lines: int) -> None:
        """Keeps the first ``lines`` records and drops the others; with 0 the journal starts empty.

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
    """Returns the values of every choice as JSON: ``embed`` and ``depth``, and ``heads`` and ``mlp`` by block."""
    blocks = range(1 + max(choice.block for choice in values))
    lists = {kind: [list(values[Choice(kind, i)]) for i in blocks] for kind in ("heads", "mlp")}
    return {"embed": list(values[EMBED]), "depth": list(values[DEPTH]), **lists}


def rounded_odds(values: Any) -> list[float]:
    """Returns probabilities rounded to 6 digits, to keep the journal small."""
    return [round(float(value), _DIGITS) for value in values]
