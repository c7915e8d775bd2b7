"""Arm's compiler leaves no operator of a file for NPUs to the CPU; without it our list of its limits is checked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.npu_compiler import show
from benchmarks.vela import CHIPS, compiled, find_vela
from export.formats.npu_limits import npu_breaches
from export.formats.static_int8 import IoType, static_bytes, with_io_type
from export.graph.build import vit_graph
from export.writers.tflite import tflite_bytes
from runtime import MeasurementError
from tests.export.formats.test_static_int8 import graph_of
from tests.export.graph.test_build import ARCHITECTURES, model_of

CASES: list[tuple[str, IoType, str]] = [
    (name, ("int8", "uint8")[index % 2], tuple(CHIPS)[index % 3])
    for index, name in enumerate(ARCHITECTURES)  # type: ignore[misc]
]

SAYS = '''\
#!{python}
import pathlib, shutil, sys
out, file = sys.argv[sys.argv.index("--output-dir") + 1], pathlib.Path(sys.argv[-1])
print("""Warning (supported operators) operator: GELU, ofm: 'blocks.0.mlp.act'
Reason: Operation has tensor with unsupported DataType Float32 (blocks.0.mlp.fc1)
Feature-map dataTypes must be one of {{"INT16", "INT32", "INT64", "INT8", "UINT8"}}

Total cycles                                 123456 cycles/batch
""")
if {compiles}:
    shutil.copyfile(file, pathlib.Path(out) / (file.stem + "_vela.tflite"))
'''


@pytest.mark.slow
@pytest.mark.parametrize(("name", "io_type", "chip"), CASES)
def test_no_operator_is_left_to_the_cpu(name: str, io_type: IoType, chip: str, tmp_path: Path) -> None:
    graph = graph_of(name)
    assert npu_breaches(with_io_type(graph, io_type)) == ()
    if (program := find_vela()) is None:
        return
    file = tmp_path / "model.tflite"
    file.write_bytes(static_bytes(graph, io_type))
    found = compiled(file, chip, program)
    assert len(found.operators) == len(graph.ops) + 2 * (io_type == "uint8")
    assert found.left == {}
    assert found.cycles is not None
    assert found.cycles > 0


def float_file(folder: Path) -> Path:
    file = folder / "float.tflite"
    file.write_bytes(tflite_bytes(vit_graph(model_of(ARCHITECTURES["vit"]))))
    return file


def test_what_is_left_to_the_cpu_is_named_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, program = float_file(tmp_path), tmp_path / "vela"
    program.write_text(SAYS.format(python=sys.executable, compiles=True))
    program.chmod(0o755)
    found = compiled(file, "U55", find_vela() or program)
    assert found.on_cpu() == list(found.operators)
    assert found.cycles is None
    assert found.left["blocks.0.mlp.act"] == "GELU: Operation has tensor with unsupported DataType Float32"
    only = compiled(file, "U55", program)
    assert only.left["logits"] == "FULLY_CONNECTED: Vela names no reason"
    show([file], program)
    shown = capsys.readouterr().out
    count, blocks = len(found.operators), sum(name.startswith("blocks.") for name in found.operators)
    assert f"| float.tflite | U85 | {count} | {count} | {blocks} | {blocks} |  |" in shown
    assert "float.tflite on U55, U65, U85, 1 operators: GELU: Operation has tensor with unsupported" in shown


def test_a_file_that_does_not_compile_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "vela"
    program.write_text(SAYS.format(python=sys.executable, compiles=False))
    program.chmod(0o755)
    with pytest.raises(MeasurementError, match=r"Vela cannot compile float\.tflite"):
        compiled(float_file(tmp_path), "U55", program)
