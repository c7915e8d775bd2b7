"""How long work tells its caller where it is, without knowing who listens."""

from __future__ import annotations

import time
from collections.abc import Callable
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


def if_long(progress: Progress, after_s: float = 2.0, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Returns a callback that passes on what it is told only of work that takes longer than ``after_s`` seconds.

    For steps that come again and again and are over at once in most runs.
    """
    began = clock()
    speaks = False

    def told(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal speaks
        speaks = speaks or (done < total and clock() - began > after_s)
        if speaks:
            progress(stage, done, total, note)

    return told
