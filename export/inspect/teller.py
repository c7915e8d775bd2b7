"""Messages from the sandbox's child process to its parent."""

from __future__ import annotations

import json
import signal
from typing import Any, TextIO


class Teller:
    """Tells the parent what happens, a JSON line each."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.id, self.silence_s = 0, 0.0

    def begin(self, number: int, silence_s: float) -> None:
        """Starts to tell of job ``number``."""
        self.id, self.silence_s = number, silence_s
        self._watch()

    def tell(self, **said: Any) -> None:
        """Tells the parent something."""
        self._stream.write(json.dumps({"id": self.id, **said}) + "\n")
        self._stream.flush()
        self._watch()

    def doing(self, who: str, what: str) -> None:
        """Says whose fault it will be if the process dies now."""
        self.tell(doing=[who, what])

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Is the progress callback."""
        self.tell(progress=[stage, done, total, note])

    def _watch(self) -> None:
        """Ends this process when the parent, which would end it for its silence, is no more."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, self.silence_s * 1.5 + 5)
