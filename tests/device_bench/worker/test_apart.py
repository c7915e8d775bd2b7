from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from device_bench.documents.measurement import Sampling
from device_bench.machine.state import machine_state
from device_bench.targets import bench
from device_bench.worker.apart import NOBODY, Answer, Samples, ask, samples_apart, time_apart
from device_bench.worker.child import teller
from runtime import ArtifactError, MeasurementError, MissingExtraError, UnsupportedTargetError
from tests.device_bench.conftest import write_onnx

READ = "import json, sys, time, os; r = json.load(sys.stdin); print('INFO: hello', flush=True);"
MARK = "from device_bench.worker.apart import marker_of; mark = marker_of(r['turns']);"


def asked(code: str, silence_s: float = 30.0) -> Answer:
    return ask("none", {"number": 7}, silence_s=silence_s, command=[sys.executable, "-P", "-c", READ + code])


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


@pytest.mark.slow
def test_files_are_timed_in_another_process_and_its_errors_arrive(tmp_path: Path) -> None:
    files = [write_onnx(tmp_path / name, (1, 4)) for name in ("a.onnx", "b.onnx")]
    assert min(time_apart(files, rounds=3)) > 0
    assert [len(own) for own in samples_apart(files, rounds=3).seconds] == [3, 3]
    with pytest.raises(ArtifactError, match="does not exist"):
        time_apart([tmp_path / "none.onnx"])


@pytest.mark.parametrize(
    ("busy_s", "notes"), [(2.05, ()), (4.0, ("Other processes took 100% of a core while it was measured.",))]
)
def test_what_disturbed_the_machine_meanwhile_is_told_with_the_times(
    monkeypatch: pytest.MonkeyPatch, busy_s: float, notes: tuple[str, ...]
) -> None:
    state = replace(machine_state(), uptime_s=100.0, busy_s=0.0, own_s=0.0, steal_s=0.0)
    states = [state, replace(state, uptime_s=102.0, busy_s=busy_s, own_s=2.0)]
    monkeypatch.setattr("device_bench.worker.apart.machine_state", lambda: states.pop(0))
    monkeypatch.setattr("device_bench.worker.apart.ask", lambda job, request: Answer([[0.5, 0.25]]))
    assert samples_apart([Path("a.onnx")], rounds=2) == Samples(((0.5, 0.25),), notes)


def test_a_process_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(MeasurementError, match="ended with status 1"):
        time_apart([tmp_path / "tiny.onnx"])


def test_a_process_that_cannot_start_is_said() -> None:
    answer = ask("none", {}, command=["/no/such/program"])
    assert "could not be started" in str(answer.error)


def test_the_answer_is_found_among_what_an_engine_says() -> None:
    answer = asked("print('[1]'); print(json.dumps({'result': r['number'] + 1}))")
    assert answer == Answer(8)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("os.abort()", "killed by SIGABRT"),
        ("sys.exit('out of luck')", "status 1. Got out of luck"),
        ("pass", "status 0"),
    ],
)
def test_a_crash_names_the_file_whose_turn_it_was(code: str, said: str) -> None:
    answer = asked(MARK + "mark(0); mark(3);" + code)
    assert said in str(answer.error)
    assert answer.turn == 3
    assert asked(MARK + f"mark({NOBODY});" + code).turn is None


def test_a_process_that_hangs_is_stopped_and_one_that_gives_signs_is_not() -> None:
    mark = (  # what marker_of does, without the time it takes to import it
        "import mmap, struct; f = open(r['turns'], 'r+b'); m = mmap.mmap(f.fileno(), 16);"
        "mark = lambda n, c: struct.pack_into('<qq', m, 0, n, c);"
    )
    answer = asked(mark + "mark(2, 1); time.sleep(60)", silence_s=1.0)
    assert "no sign for 1 s" in str(answer.error)
    assert answer.turn == 2
    busy = "\nfor number in range(8):\n    mark(number, number); time.sleep(0.2)\nprint(json.dumps({'result': 1}))"
    assert asked(mark + busy, silence_s=1.0) == Answer(1)


def test_errors_keep_their_kind() -> None:
    error = asked("print(json.dumps({'error': 'ArtifactError', 'text': 'Bad.', 'missing': None}))").error
    assert (type(error), str(error)) == (ArtifactError, "Bad.")
    missing = asked("print(json.dumps({'error': 'MissingExtraError', 'text': '', 'missing': ['onnxruntime', 'onnx']}))")
    assert isinstance(missing.error, MissingExtraError)
    assert missing.error.extra == "onnx"
    assert type(asked("print(json.dumps({'error': 'os', 'text': 'x'}))").error) is MeasurementError


def test_progress_is_told_ten_times_a_second_and_the_last_is_never_lost() -> None:
    stream, now = io.StringIO(), [0.0]
    progress = teller(stream, clock=lambda: now[0])
    for done in range(101):
        progress("measure", done, 100)
        now[0] += 0.01
    progress("other", 0, 5)
    told = [json.loads(line)["progress"] for line in stream.getvalue().splitlines()]
    assert 10 <= len(told) <= 13
    assert told[-2:] == [["measure", 100, 100, ""], ["other", 0, 5, ""]]
