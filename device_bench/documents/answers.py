"""What a process that measures says on its standard output: lines of JSON, each progress, a result or an error."""

from __future__ import annotations

import json
from typing import Any

import runtime
from runtime import MeasurementError, MissingExtraError, PocketVitError


def parse_answer(line: str) -> dict[str, Any]:
    """Returns a line's JSON object; whatever else is printed is no answer, and gives an empty one."""
    try:
        answer = json.loads(line)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def error_of(answer: dict[str, Any]) -> PocketVitError:
    """Returns the error that ``answer`` names, with a text that is whole already."""
    if answer.get("missing"):
        return MissingExtraError(*answer["missing"])
    kind = getattr(runtime, answer["error"], MeasurementError)
    if not (isinstance(kind, type) and issubclass(kind, PocketVitError)) or kind is MissingExtraError:
        kind = MeasurementError
    error: PocketVitError = kind(answer["text"])
    return error
