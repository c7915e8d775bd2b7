"""LiteRT's two interfaces give the same answers, and the benchmark times both."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.compiled_model import NAMES, show
from export.formats.tflite import timing_bytes
from runtime import MeasurementError
from tests.export.small import LEAST


def test_both_answer_alike_and_have_a_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "least.int8.tflite"
    file.write_bytes(timing_bytes(LEAST, "int8"))
    show([file], seconds=0.1, repeats=1)
    heading, _, row = capsys.readouterr().out.strip().splitlines()
    cells = dict(zip(heading.split(" | "), row.split(" | "), strict=True))
    assert cells["largest difference"] == "0"
    assert int(cells["rounds"]) > 1
    assert float(cells["its ratio"].partition(" ")[0]) > 0
    assert len(NAMES) == 2


def test_a_file_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "broken.tflite"
    file.write_bytes(b"nothing")
    with pytest.raises(MeasurementError, match=r"broken\.tflite cannot be timed"):
        show([file], seconds=0.1, repeats=1)
