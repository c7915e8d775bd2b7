from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import ArtifactError, DataError, MissingExtraError, UnsupportedTargetError, open_engine
from runtime.engines import open_device_engine
from runtime.engines.onnxruntime import OnnxRuntimeEngine, Provider
from tests.runtime.tiny import GOLDEN, SIZE, expected_logits, write_onnx

TFLITE = GOLDEN / "tiny-fp32.tflite"
TFLITE_INT8 = GOLDEN / "tiny-int8.tflite"


def images(count: int = 1, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).uniform(-1, 1, (count, SIZE, SIZE, 3)).astype(np.float32)


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    return write_onnx(tmp_path / "tiny.onnx")


@pytest.mark.parametrize("threads", [1, 2])
def test_litert_runs_a_float_file(threads: int) -> None:
    engine = open_engine(TFLITE, threads=threads)
    assert (engine.name, engine.input_shape, engine.output_shape) == ("litert", (1, SIZE, SIZE, 3), (1, 3))
    assert (engine.input_dtype, engine.output_dtype) == (np.float32, np.float32)
    assert (engine.input_qparams, engine.output_qparams) == (None, None)
    assert engine.version[0].isdigit()
    assert engine.input_name
    assert engine.output_name
    first = engine.run(images(seed=1))
    np.testing.assert_allclose(first, expected_logits(images(seed=1)), atol=1e-5)
    np.testing.assert_allclose(engine.run(images(seed=2)), expected_logits(images(seed=2)), atol=1e-5)
    np.testing.assert_allclose(first, expected_logits(images(seed=1)), atol=1e-5, err_msg="a later run changed it")


def test_litert_runs_an_int8_file() -> None:
    engine = open_engine(TFLITE_INT8, "litert")
    assert (engine.input_dtype, engine.output_dtype) == (np.int8, np.int8)
    assert engine.input_qparams is not None
    assert engine.output_qparams is not None
    scale, zero_point = engine.input_qparams
    out_scale, out_zero_point = engine.output_qparams
    stored = np.full((1, SIZE, SIZE, 3), [100, -100, 50], np.int8)
    logits = (engine.run(stored).astype(np.float32) - out_zero_point) * out_scale
    real = (stored.astype(np.float32) - zero_point) * scale
    np.testing.assert_allclose(logits, expected_logits(real), atol=2 * out_scale)


@pytest.mark.parametrize("threads", [1, 2])
def test_onnxruntime_runs_any_batch(onnx_file: Path, threads: int) -> None:
    engine = open_engine(onnx_file, threads=threads)
    assert (engine.name, engine.input_shape, engine.output_shape) == ("onnxruntime", (-1, 3, SIZE, SIZE), (-1, 3))
    assert (engine.input_dtype, engine.input_qparams, engine.output_qparams) == (np.float32, None, None)
    assert (engine.input_name, engine.output_name) == ("images", "logits")
    assert engine.version[0].isdigit()
    for count in (1, 3):
        batch = images(count)
        np.testing.assert_allclose(engine.run(batch.transpose(0, 3, 1, 2)), expected_logits(batch), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, SIZE, SIZE, 1), (2, SIZE, SIZE, 3), (SIZE, SIZE, 3), (1, 3, SIZE, SIZE), ()])
def test_litert_refuses_another_shape(shape: tuple[int, ...]) -> None:
    engine = open_engine(TFLITE)
    with pytest.raises(DataError) as caught:
        engine.run(np.zeros(shape, np.float32))
    assert str(caught.value) == (
        f"The input does not fit the model. Expected float32 (1, {SIZE}, {SIZE}, 3). Got float32 {shape}."
    )
    engine.run(images())


@pytest.mark.parametrize("shape", [(1, 1, SIZE, SIZE), (1, SIZE, SIZE, 3), (3, SIZE, SIZE), ()])
def test_onnxruntime_refuses_another_shape(onnx_file: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="The input does not fit the model"):
        open_engine(onnx_file).run(np.zeros(shape, np.float32))


def test_another_type_is_refused(onnx_file: Path) -> None:
    with pytest.raises(DataError, match=r"Expected float32 \(1, .* Got float64 \(1, "):
        open_engine(TFLITE).run(np.zeros((1, SIZE, SIZE, 3)))
    with pytest.raises(DataError, match=r"Expected int8 .* Got float32"):
        open_engine(TFLITE_INT8).run(images())
    with pytest.raises(DataError, match=r"Expected float32 .* Got uint8"):
        open_engine(onnx_file).run(np.zeros((1, 3, SIZE, SIZE), np.uint8))


@pytest.mark.parametrize("file", [TFLITE, TFLITE_INT8], ids=lambda file: file.name)
def test_a_truncated_tflite_file_is_an_artifact_error(tmp_path: Path, file: Path) -> None:
    whole, path = file.read_bytes(), tmp_path / "cut.tflite"
    for length in (*range(0, len(whole), 53), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"LiteRT cannot load .*cut\.tflite"):
            open_engine(path)


def test_a_truncated_onnx_file_is_an_artifact_error(tmp_path: Path, onnx_file: Path) -> None:
    whole, path = onnx_file.read_bytes(), tmp_path / "cut.onnx"
    for length in (*range(0, len(whole), 37), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"ONNX Runtime cannot load .*cut\.onnx"):
            open_engine(path)


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"\xff" * 4096, b"\x1c\0\0\0TFL3" + b"\xff" * 64, b"<html>" * 50])
def test_garbage_is_an_artifact_error(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="cannot load"):
        open_engine(path)


def test_one_format_under_the_name_of_another(tmp_path: Path, onnx_file: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(onnx_file.read_bytes())
    (tmp_path / "b.onnx").write_bytes(TFLITE.read_bytes())
    for name in ("a.tflite", "b.onnx"):
        with pytest.raises(ArtifactError, match="cannot load"):
            open_engine(tmp_path / name)


def test_a_file_with_two_inputs_or_outputs(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not an image classifier. Expected one input and one output. Got 1 and 2"):
        open_engine(write_onnx(tmp_path / "two.onnx", extra_output=True))


def test_a_file_of_an_unsupported_type(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"unsupported type. Expected tensor\(float\), .* Got tensor\(double\)"):
        open_engine(write_onnx(tmp_path / "double.onnx", dtype="double"))


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one(threads: int) -> None:
    with pytest.raises(UnsupportedTargetError, match=f"threads must be at least 1. Got {threads}"):
        open_engine(TFLITE, threads=threads)


def test_an_engine_that_does_not_read_the_format(onnx_file: Path) -> None:
    with pytest.raises(UnsupportedTargetError, match=r"tiny\.onnx does not run on .* Expected onnxruntime. Got litert"):
        open_engine(onnx_file, "litert")
    with pytest.raises(UnsupportedTargetError, match=r"Expected litert or litert-gpu. Got onnxruntime"):
        open_engine(TFLITE, "onnxruntime")
    with pytest.raises(UnsupportedTargetError, match="Got tensorrt"):
        open_engine(TFLITE, "tensorrt")  # type: ignore[arg-type]


def test_files_that_are_not_models(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"is not a model file. Expected a file that ends in \.onnx, \.tflite, \.pt2"
    ):
        open_engine(tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match=r"none\.onnx does not exist"):
        open_engine(tmp_path / "none.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ArtifactError, match="does not exist"):
        open_engine(tmp_path / "folder.onnx")


def test_a_missing_engine_names_its_extra(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ai_edge_litert.interpreter", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"'ai-edge-litert'.* Run: pip install 'pocketvit\[litert\]'"):
        open_engine(TFLITE)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime'.* Run: pip install 'pocketvit\[onnx\]'"):
        open_engine(onnx_file)


def test_a_bound_run_gives_what_a_run_gives(onnx_file: Path) -> None:
    engine, batch = open_device_engine(onnx_file, device="cpu"), images(2).transpose(0, 3, 1, 2).copy()
    resident = engine.resident(batch)
    resident.run()
    resident.wait()
    np.testing.assert_array_equal(resident.output(), engine.run(batch))
    assert (engine.device, resident.event) == ("cpu", None)
    with pytest.raises(DataError, match="The input does not fit the model"):
        engine.resident(np.zeros((1, 3, SIZE, SIZE), np.uint8))


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_an_onnxruntime_without_the_provider_says_so(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch, device: Any
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOnnxRuntime(available=["CPUExecutionProvider"]))
    with pytest.raises(UnsupportedTargetError, match=f"cannot compute with {device}") as caught:
        open_engine(onnx_file, device=device)
    assert "Got CPUExecutionProvider." in str(caught.value)
    assert "onnxruntime-gpu" in str(caught.value)
    assert caught.value.exit_code == 2


class FakeOnnxRuntime:
    """An ONNX Runtime with providers of the test's choice, which keeps what a session was made with."""

    __version__ = "1.0"
    CUDA = "CUDAExecutionProvider"

    def __init__(self, available: list[str], used: list[str] | None = None, error: Exception | None = None) -> None:
        self.available, self.used, self.error = available, used or available, error
        self.entries: dict[str, str] = {}
        self.asked: dict[str, Any] = {}

    def get_available_providers(self) -> list[str]:
        return self.available

    def SessionOptions(self) -> FakeOnnxRuntime:  # noqa: N802
        return self

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def InferenceSession(self, path: str, options: Any, **asked: Any) -> FakeOnnxRuntime:  # noqa: N802
        if self.error is not None and asked["providers"] != ["CPUExecutionProvider"]:
            raise self.error
        self.asked = asked
        return self

    def get_providers(self) -> list[str]:
        return self.used if self.asked["providers"] != ["CPUExecutionProvider"] else ["CPUExecutionProvider"]

    def get_inputs(self) -> list[Any]:
        return [type("Tensor", (), {"name": "x", "shape": ["batch", 3], "type": "tensor(float)"})]

    get_outputs = get_inputs


def test_a_gpu_session_is_alone_and_in_full_float32(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeOnnxRuntime([FakeOnnxRuntime.CUDA, "CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    engine = open_device_engine(onnx_file)
    assert (engine.device, engine.name) == ("cuda", "onnxruntime")
    assert fake.entries == {"session.disable_cpu_ep_fallback": "1"}
    assert fake.asked == {"providers": [(FakeOnnxRuntime.CUDA, {"use_tf32": "0"})], "enable_fallback": 0}


def test_a_session_that_fell_back_is_refused(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeOnnxRuntime([FakeOnnxRuntime.CUDA, "CPUExecutionProvider"], used=["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    with pytest.raises(UnsupportedTargetError, match=r"fell back from CUDAExecutionProvider .* Got CPUExecution"):
        open_engine(onnx_file, device="cuda")


def test_a_session_that_cannot_be_had_says_why(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeOnnxRuntime([FakeOnnxRuntime.CUDA], error=RuntimeError("CUDA failure 35: driver too old"))
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    with pytest.raises(UnsupportedTargetError, match=r"does not run on CUDAExecutionProvider alone.* driver too old"):
        open_engine(onnx_file, device="cuda")


def test_operators_are_not_left_to_the_cpu_in_silence(onnx_file: Path, tmp_path: Path) -> None:
    # a provider that takes no operator at all, in the real ONNX Runtime
    import onnxruntime

    other = [name for name in onnxruntime.get_available_providers() if name != "CPUExecutionProvider"]
    if not other:
        pytest.skip("this ONNX Runtime has the CPU's provider alone")
    with pytest.raises(UnsupportedTargetError, match=r"does not run on .* alone"):
        OnnxRuntimeEngine(onnx_file, 1, "cuda", Provider(other[0], "cpu"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\0" * 64)
    with pytest.raises(ArtifactError, match="cannot load"):
        OnnxRuntimeEngine(broken, 1, "cuda", Provider(other[0], "cpu"))


def test_a_device_that_does_not_run_the_format(onnx_file: Path, tmp_path: Path) -> None:
    for device in ("cuda", "tensorrt"):
        with pytest.raises(UnsupportedTargetError, match=rf"tiny-fp32\.tflite does not run on {device}"):
            open_engine(TFLITE, device=device)  # type: ignore[arg-type]
    (tmp_path / "a.pt2").write_bytes(b"")
    with pytest.raises(UnsupportedTargetError, match=r"a\.pt2 does not run on tensorrt\. Expected a \.onnx file"):
        open_engine(tmp_path / "a.pt2", device="tensorrt")
    with pytest.raises(UnsupportedTargetError, match=r"No such device\. Expected cpu, gpu, cuda, tensorrt\. Got tpu"):
        open_engine(onnx_file, device="tpu")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedTargetError, match="threads must be at least 1"):
        open_engine(onnx_file, device="cuda", threads=0)


def test_onnxruntime_reports_to_nobody_and_leaves_no_files(onnx_file: Path, tmp_path: Path) -> None:
    program = "import runtime, sys; import onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "CI")}
    subprocess.run([sys.executable, "-c", program, str(onnx_file)], env={**environment, **home}, check=True)
    assert not list(tmp_path.rglob("*onnxruntime.db"))
