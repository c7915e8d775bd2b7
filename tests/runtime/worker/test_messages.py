from __future__ import annotations

import pytest

from runtime import ArtifactError, MeasurementError, MissingExtraError, PocketVitError
from runtime.worker.messages import carried_error, error_message, parse_message


@pytest.mark.parametrize("line", ["", "no json", "[1]", "3", "null", '{"a":', "[" * 100_000, b"\xff\xfe"])
def test_what_is_no_object_is_an_empty_message(line: str | bytes) -> None:
    assert parse_message(line) == {}


def test_an_object_is_a_message() -> None:
    assert parse_message('{"result": null}\n') == parse_message(b'{"result": null}') == {"result": None}


@pytest.mark.parametrize("error", [ArtifactError("Bad", got=3), MissingExtraError("onnxruntime", "onnx")])
def test_errors_are_carried_over(error: PocketVitError) -> None:
    carried = carried_error(error_message(error))
    assert (type(carried), str(carried)) == (type(error), str(error))


@pytest.mark.parametrize("name", ["os", "annotations", "Nothing", "PocketVitWarning", "MissingExtraError"])
def test_an_unknown_error_is_one_of_measuring(name: str) -> None:
    carried = carried_error({"error": name, "text": "x"})
    assert (type(carried), str(carried)) == (MeasurementError, "x.")
