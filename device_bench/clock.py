"""The clock that measuring code reads."""

from __future__ import annotations

from collections.abc import Callable

Clock = Callable[[], int]
"""Returns a monotonic time in nanoseconds."""
