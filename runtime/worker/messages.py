"""The messages of a worker process: JSON objects, one a line, with progress, a result or an error."""

from __future__ import annotations

import json
from typing import Any

from runtime import errors
from runtime.errors import MeasurementError, MissingExtraError, PocketVitError


def parse_message(line: str | bytes) -> dict[str, Any]:
    """Returns the JSON object of a line, or an empty one where the line holds something else, such as a log line."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def error_message(error: PocketVitError) -> dict[str, Any]:
    """Returns the message that carries ``error`` to the parent."""
    missing = [error.package, error.extra] if isinstance(error, MissingExtraError) else None
    return {"error": type(error).__name__, "text": str(error), "missing": missing}


def carried_error(message: dict[str, Any]) -> PocketVitError:
    """Returns the error that ``error_message`` put into ``message``, with the same text.

    An error class that ``runtime`` does not define becomes a ``MeasurementError``.
    """
    match message:
        case {"missing": [str(package), str(extra)]}:
            return MissingExtraError(package, extra)
    kind = vars(errors).get(str(message["error"]))
    if not (isinstance(kind, type) and issubclass(kind, PocketVitError)) or kind is MissingExtraError:
        kind = MeasurementError
    error: PocketVitError = kind(str(message.get("text", "")))
    return error
