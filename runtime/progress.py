"""How long work tells its caller where it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the state of a long step; called often, so it must be cheap."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Says that ``done`` of ``total`` units of ``stage`` are finished; of 0 units, ``note`` is a line to keep."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Ignores all progress."""


def message(progress: Progress, stage: str, text: str) -> None:
    """Tells a listener something to show once and keep, such as a warning."""
    progress(stage, 0, 0, text)
