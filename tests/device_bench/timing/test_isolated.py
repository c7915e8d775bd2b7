from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from device_bench.machine.state import machine_state
from device_bench.timing.isolated import Samples, sample_isolated, time_isolated
from runtime import ArtifactError
from runtime.worker.parent import JobResult
from tests.device_bench.conftest import write_onnx


@pytest.mark.slow
def test_files_are_timed_in_another_process_and_its_errors_arrive(tmp_path: Path) -> None:
    files = [write_onnx(tmp_path / name, (1, 4)) for name in ("a.onnx", "b.onnx")]
    assert min(time_isolated(files, rounds=3)) > 0
    assert [len(own) for own in sample_isolated(files, rounds=3).seconds] == [3, 3]
    with pytest.raises(ArtifactError, match="does not exist"):
        time_isolated([tmp_path / "none.onnx"])


@pytest.mark.parametrize(
    ("busy_s", "notes"), [(2.05, ()), (4.0, ("Other processes took 100% of a core while it was measured.",))]
)
def test_what_disturbed_the_machine_comes_with_the_times(
    monkeypatch: pytest.MonkeyPatch, busy_s: float, notes: tuple[str, ...]
) -> None:
    state = replace(machine_state(), uptime_s=100.0, busy_s=0.0, own_s=0.0, steal_s=0.0)
    states = [state, replace(state, uptime_s=102.0, busy_s=busy_s, own_s=2.0)]
    monkeypatch.setattr("device_bench.timing.isolated.machine_state", lambda: states.pop(0))
    monkeypatch.setattr("device_bench.timing.isolated.run_isolated", lambda job, request: JobResult([[0.5, 0.25]]))
    assert sample_isolated([Path("a.onnx")], rounds=2) == Samples(((0.5, 0.25),), notes)
