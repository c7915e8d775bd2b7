import sys
from pathlib import Path

import pytest

from device_bench.documents.figures import Peak
from device_bench.metrics.peaks import LAYERS, MACS, MODELS, ROWS, WIDTH, measure_peaks
from device_bench.targets.cpu import merged
from runtime import open_engine

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "device_bench" / "metrics" / "peak_models"
NAMES = [name for names in MODELS.values() for name in names]


class FakeClock:
    """Time that passes at each look."""

    def __init__(self, step_ns: int) -> None:
        self.now, self.step_ns = 0, step_ns

    def __call__(self) -> int:
        self.now += self.step_ns
        return self.now


def test_a_peak_counts_two_operations_for_each_mac(tmp_path):
    (tmp_path / "fp32.onnx").write_bytes((FOLDER / "fp32.onnx").read_bytes())
    for name in ("fp32.tflite", "int8-static.onnx"):
        (tmp_path / name).write_bytes(b"not a model")
    signs = []
    peaks = measure_peaks(1, ["fp32"], runs=4, clock=FakeClock(10**6), folder=tmp_path, sign=lambda: signs.append(1))
    (peak,) = peaks
    assert (peak.engine, peak.arithmetic, peak.threads) == ("onnxruntime", "fp32", 1)
    assert peak.gflops == pytest.approx((2 * MACS / 1e6,) * 4)
    assert len(signs) >= 4


def test_three_runs_are_taken_whatever_they_cost():
    (peak, *_) = measure_peaks(1, ["int8"], seconds=0.0)
    assert len(peak.gflops) == 3


def test_every_installed_engine_is_measured():
    found = measure_peaks(1, runs=3)
    assert {(peak.engine, peak.arithmetic) for peak in found} == set(MODELS)


def test_peaks_of_two_measurements_are_one():
    first = (Peak("litert", "fp32", 1, (3.0,)), Peak("litert", "int8", 1, (9.0,)))
    second = (Peak("litert", "fp32", 1, (4.0, 2.0)), Peak("litert", "fp32", 2, (7.0,)))
    joined = merged(first, second)
    assert joined[0] == Peak("litert", "fp32", 1, (3.0, 4.0, 2.0))
    assert [peak.best for peak in joined] == [4.0, 9.0, 7.0]


@pytest.mark.parametrize("name", NAMES)
def test_models_are_small_and_of_the_shape_they_are_counted_with(name):
    assert (FOLDER / name).stat().st_size < 700_000
    engine = open_engine(FOLDER / name)
    assert engine.input_shape == engine.output_shape == (1, ROWS, WIDTH)


def test_onnx_models_hold_nothing_but_products():
    onnx = pytest.importorskip("onnx")
    kinds = {"fp32.onnx": {"MatMul"}, "int8-static.onnx": {"QLinearMatMul"}}
    kinds["int8-dynamic.onnx"] = {"DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul"}
    for name, expected in kinds.items():
        nodes = [node.op_type for node in onnx.load(FOLDER / name).graph.node]
        assert set(nodes) == expected
        assert sum("MatMul" in node for node in nodes) == LAYERS


@pytest.mark.slow
def test_the_script_makes_the_files_that_are_kept(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import make_peak_models

    monkeypatch.delitem(sys.modules, "make_peak_models")
    for name in NAMES:
        assert make_peak_models.model_bytes(name) == (FOLDER / name).read_bytes(), name
