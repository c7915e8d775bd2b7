from dataclasses import asdict

import pytest

from device_bench.documents.figures import MemoryUse, Startup
from device_bench.metrics.startup import ProcessStart, measure_starts, start
from runtime import ArtifactError, MeasurementError
from runtime.worker.parent import JobResult


def one_start(load_s, first_run_s, peak, before):
    return ProcessStart(load_s, first_run_s, peak, before, "litert", "2.0", 1)


def test_load_and_first_run_are_told_apart(onnx_file):
    ticks = iter((0, 5_000_000_000, 100_000_000_000, 107_000_000_000))
    one = start(onnx_file, clock=lambda: next(ticks))
    assert (one.load_s, one.first_run_s) == pytest.approx((5.0, 7.0))
    assert 5_000_000 < one.rss_before_bytes <= one.peak_rss_bytes


def test_a_file_that_cannot_be_loaded_is_refused(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="broken"):
        start(tmp_path / "broken.onnx")


def test_every_start_counts_and_memory_is_their_median(tmp_path):
    asked = []
    starts = iter([one_start(0.3, 0.03, 900, 50), one_start(0.1, 0.01, 700, 40), one_start(0.2, 0.02, 800, 60)])

    def run_job(job, request, *, silence_s):
        asked.append((job, request["threads"], silence_s))
        return JobResult(asdict(next(starts)))

    found = measure_starts(tmp_path / "a.onnx", 2, timeout_s=9, run_job=run_job)
    assert asked == [("start", 2, 9)] * 3
    assert found.startup == Startup((0.3, 0.1, 0.2), (0.03, 0.01, 0.02))
    assert found.memory == MemoryUse(800, 50)
    assert found.failure is None


def test_one_start_that_fails_is_a_failure_without_the_folder(tmp_path):
    file = tmp_path / "a.onnx"
    answers = iter([JobResult(asdict(one_start(1.0, 1.0, 2, 1))), JobResult(error=MeasurementError(f"It ate {file}"))])
    found = measure_starts(file, run_job=lambda *a, **k: next(answers))
    assert (found.startup, found.failure) == (None, "It ate a.onnx.")
    assert found.memory == MemoryUse(None, None, "It ate a.onnx.")


@pytest.mark.slow
def test_a_real_file_is_started_apart_from_this_process(onnx_file, tmp_path, monkeypatch):
    # A folder of the user's that is named like one of ours must not be imported.
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").write_text("raise SystemExit('wrong package')")
    monkeypatch.chdir(tmp_path)
    ballast = bytearray(b"x") * 400_000_000
    found = measure_starts(onnx_file, repeats=2)
    assert found.failure is None
    assert len(found.startup.load_s) == len(found.startup.first_run_s) == 2
    assert 5_000_000 < found.memory.rss_before_bytes < found.memory.peak_rss_bytes < len(ballast)


@pytest.mark.slow
def test_a_broken_file_gives_the_reason_without_its_folder(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    found = measure_starts(tmp_path / "broken.onnx")
    assert "broken.onnx" in found.failure
    assert str(tmp_path) not in found.failure
