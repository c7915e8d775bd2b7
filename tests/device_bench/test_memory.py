import sys

import pytest

from device_bench import MemoryUse
from device_bench.memory import current_rss_bytes, maxrss_to_bytes, measure_memory, peak_rss_bytes
from runtime import MeasurementError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_a_real_file_is_measured_apart_from_this_process(onnx_file, tmp_path, monkeypatch):
    # A folder of the user's that is named like one of ours must not be imported.
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").write_text("raise SystemExit('wrong package')")
    monkeypatch.chdir(tmp_path)
    use = measure_memory(onnx_file)
    assert use.reason is None
    assert 5_000_000 < use.rss_before_bytes < use.peak_rss_bytes < 2_000_000_000


@pytest.mark.slow
def test_the_parents_own_memory_does_not_count(onnx_file):
    small = measure_memory(onnx_file)
    ballast = bytearray(b"x") * 400_000_000
    big = measure_memory(onnx_file)
    assert len(ballast) == 400_000_000
    assert big.peak_rss_bytes < small.peak_rss_bytes + 200_000_000


@pytest.mark.slow
def test_a_file_that_cannot_be_loaded_gives_the_reason_without_its_folder(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    use = measure_memory(broken)
    assert use.peak_rss_bytes is None
    assert "broken.onnx" in use.reason
    assert str(tmp_path) not in use.reason


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("raise SystemExit(3)", "status 3: no message"),
        ("import sys; sys.exit('out of luck')", "status 1: out of luck"),
        ("pass", "did not answer"),
        ("print('hello')", "did not answer"),
        ("print('[1]')", "did not answer"),
        ("print('{\"peak_rss_bytes\": 1}')", "did not answer"),
        ('print(\'{"peak_rss_bytes": true, "rss_before_bytes": 1}\')', "did not answer"),
        ('print(\'{"peak_rss_bytes": -5, "rss_before_bytes": 1}\')', "did not answer"),
    ],
)
def test_a_child_that_fails_gives_null_and_the_reason(tmp_path, code, reason):
    use = measure_memory(tmp_path / "a.onnx", command=python(code))
    assert (use.peak_rss_bytes, use.rss_before_bytes) == (None, None)
    assert reason in use.reason


def test_a_child_that_hangs_is_stopped(tmp_path):
    use = measure_memory(tmp_path / "a.onnx", timeout_s=0.3, command=python("import time; time.sleep(60)"))
    assert use.reason == "The process was stopped after 0.3 s without an answer"


def test_a_child_that_cannot_start_gives_the_reason(tmp_path):
    use = measure_memory(tmp_path / "a.onnx", command=[str(tmp_path / "absent")])
    assert "could not be started" in use.reason


def test_what_an_engine_says_before_the_document_is_ignored(tmp_path):
    code = "print('INFO: delegate'); print('{\"peak_rss_bytes\": 9, \"rss_before_bytes\": 4}')"
    assert measure_memory(tmp_path / "a.onnx", command=python(code)) == MemoryUse(9, 4)


def test_units_of_maxrss_differ_by_system():
    assert maxrss_to_bytes(2048, "linux") == 2_097_152
    assert maxrss_to_bytes(2048, "darwin") == 2048


def test_procfs_comes_first(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    2000 kB\nVmRSS:\t    1500 kB\n")
    assert peak_rss_bytes(tmp_path) == 2_048_000
    assert current_rss_bytes(tmp_path) == 1_536_000


def test_without_procfs_the_system_call_answers(tmp_path):
    assert peak_rss_bytes(tmp_path) > 5_000_000
    assert current_rss_bytes(tmp_path) > 5_000_000


def test_a_missing_figure_needs_a_reason():
    with pytest.raises(MeasurementError):
        MemoryUse(None, 4)
    with pytest.raises(MeasurementError):
        MemoryUse(0, 4)
