from __future__ import annotations

import sys
from pathlib import Path

import pytest

from device_bench.documents.measurement import Sampling
from device_bench.targets.bench import bench
from device_bench.worker.isolated import run_isolated
from runtime import ArtifactError, MeasurementError, UnsupportedTargetError
from runtime.worker.parent import JobResult
from tests.device_bench.conftest import write_onnx

START = """
import json, os, sys, time
from runtime.worker.child import shared_turn
request = json.loads(sys.stdin.readline())
turn = shared_turn(request["turns"])
"""


def run(code: str, silence_s: float = 30.0) -> JobResult:
    return run_isolated("none", {"number": 7}, silence_s=silence_s, command=[sys.executable, "-P", "-c", START + code])


@pytest.mark.slow
def test_it_measures_what_a_bench_measures_and_relays_progress(tmp_path: Path) -> None:
    file = tmp_path / "tiny.onnx"
    write_onnx(file, (1, 4))
    told: list[str] = []
    result = bench(
        [file], sampling=Sampling.exactly(5), seed=3, progress=lambda stage, done, total, note="": told.append(stage)
    )
    assert [measured.file for measured in result.files] == ["tiny.onnx"]
    latency = result.files[0].latency
    assert latency is not None
    assert len(latency.values) == 5
    assert result.seed == 3
    assert {"start", "measure"} <= set(told)


def test_errors_arrive_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.onnx does not exist"):
        bench([tmp_path / "none.onnx"])
    file = tmp_path / "tiny.onnx"
    write_onnx(file, (1, 4))
    with pytest.raises(UnsupportedTargetError, match="toaster"):
        bench([file], "toaster")
    with pytest.raises(MeasurementError, match="different names"):
        bench([])


def test_the_result_of_a_job_is_returned() -> None:
    assert run("print(json.dumps({'result': request['request']['number'] + 1}))") == JobResult(8)


def test_a_process_that_cannot_start_is_an_error() -> None:
    result = run_isolated("none", {}, command=["/no/such/program"])
    assert "could not be started. Got No such file" in str(result.error)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("os.abort()", "killed by SIGABRT"),
        ("sys.exit('out of luck')", "status 1. Got out of luck"),
        ("pass", "status 0. Got no message"),
    ],
)
def test_a_crash_names_the_file_that_ran(code: str, said: str) -> None:
    result = run("turn(0); turn(3);" + code)
    assert isinstance(result.error, MeasurementError)
    assert said in str(result.error)
    assert result.turn == 3
    assert run("turn(-1);" + code).turn is None


def test_a_hang_names_the_file_that_ran() -> None:
    result = run("turn(2); time.sleep(60)", silence_s=2.0)
    assert "no sign for 2 s" in str(result.error)
    assert result.turn == 2
