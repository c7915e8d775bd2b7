"""Limits how often one address may ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MOST_CLIENTS = 4096


class RateLimit:
    """Lets each client ask ``burst`` times at once and ``per_s`` times a second.

    Args:
        per_s: requests a second.
        burst: requests at once.
        clock: a monotonic clock, s.
    """

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}

    def allows(self, client: str) -> bool:
        """Returns whether the client may ask now, and counts it if so."""
        with self._lock:
            now = self._clock()
            if len(self._left) >= MOST_CLIENTS and client not in self._left:
                self._left.clear()  # forgets all rather than grow without end
            left, then = self._left.get(client, (self._burst, now))
            left = min(self._burst, left + (now - then) * self._per_s)
            allowed = left >= 1
            self._left[client] = (left - 1 if allowed else left, now)
            return allowed
