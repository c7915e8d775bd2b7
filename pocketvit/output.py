"""What commands say: results to stdout, the log and errors to stderr."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any, NoReturn

from runtime import tool_version


def fail(text: str, code: int) -> NoReturn:
    """Says what went wrong and ends the program with exit code ``code``."""
    try:
        from rich.console import Console
        from rich.text import Text

        line = Text.assemble(("error:", "bold red"), " ", text)
        Console(stderr=True, highlight=False, soft_wrap=True).print(line)
    except (MemoryError, ImportError):  # where there is no memory, rich cannot be loaded either
        sys.stderr.write(f"error: {text}\n")
    sys.exit(code)


def say(text: str) -> None:
    """Writes a line to stderr."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def print_json(schema: str, body: dict[str, Any]) -> None:
    """Writes one JSON document to stdout."""
    document = {
        "schema": schema,
        "schema_version": 1,
        "tool_version": tool_version(),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        **body,
    }
    escaped = not (sys.stdout.encoding or "").lower().startswith("utf")  # JSON must not lose what an encoding lacks
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=escaped) + "\n")
