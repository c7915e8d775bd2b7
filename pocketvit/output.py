"""Writes the results of commands to stdout, and their log and errors to stderr."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn

from runtime import PocketVitWarning, tool_version


def fail(text: str, code: int) -> NoReturn:
    """Writes an error to stderr and ends the program with exit code ``code``."""
    try:
        from rich.text import Text

        from .console import stderr_console

        stderr_console().print(Text.assemble(("error:", "bold red"), " ", text))
    except (MemoryError, ImportError):  # without memory, rich cannot be loaded either
        sys.stderr.write(f"error: {text}\n")
    sys.exit(code)


def say(text: str) -> None:
    """Writes a line to stderr."""
    from .console import stderr_console

    stderr_console().print(text)


@contextmanager
def show_warnings() -> Iterator[None]:
    """Writes every ``PocketVitWarning`` of the block to stderr once, as a note, on the first of several ranks."""
    shown: set[str] = set()
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, PocketVitWarning):
                others(message, category, *where, **more)
            elif str(message) not in shown and os.environ.get("RANK", "0") == "0":
                shown.add(str(message))
                say(f"Note: {message}")

        warnings.filterwarnings("always", category=PocketVitWarning)
        warnings.showwarning = show
        yield


def print_json(schema: str, body: dict[str, Any]) -> None:
    """Writes one JSON document to stdout."""
    document = {
        "schema": schema,
        "schema_version": 1,
        "tool_version": tool_version(),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        **body,
    }
    escaped = not (sys.stdout.encoding or "").lower().startswith("utf")  # JSON must lose no character
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=escaped) + "\n")


def print_text(text: str) -> None:
    """Writes text to stdout as it is, in UTF-8 where the terminal's encoding lacks a character."""
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        sys.stdout.buffer.write(text.encode())
