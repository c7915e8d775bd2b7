"""The callback by which long work reports its progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Receives the state of a long step; called often, so it must be cheap."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Reports ``done`` of ``total`` units of ``stage`` as finished; if ``total`` is 0, ``note`` is a message."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Ignores all progress."""


def message(progress: Progress, stage: str, text: str) -> None:
    """Reports a message to show once and keep, such as a warning."""
    progress(stage, 0, 0, text)


def if_long(progress: Progress, after_s: float = 2.0, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Returns a callback that reports only work that takes longer than ``after_s`` seconds.

    It is for frequent steps that are short in most runs.
    """
    began = clock()
    is_long = False

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal is_long
        is_long = is_long or (done < total and clock() - began > after_s)
        if is_long:
            progress(stage, done, total, note)

    return report
