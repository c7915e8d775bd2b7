import hashlib
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from device_bench.documents.figures import MemoryUse, Peak, Throughput
from device_bench.documents.measurement import Sampling
from device_bench.documents.request import BenchRequest
from device_bench.machine.state import MachineState
from device_bench.metrics.accuracy import TestImages, write_test_images
from device_bench.metrics.startup import ProcessStart
from device_bench.targets.base import Device
from device_bench.targets.bench import bench, bench_device
from device_bench.targets.cpu import bench_files
from device_bench.timing.inputs import random_input
from device_bench.timing.turns import time_files, time_in_turns
from runtime import (
    ArtifactError,
    MeasurementError,
    MissingExtraError,
    UnsupportedTargetError,
    encode,
    macs,
    open_engine,
    read_artifact,
    write_artifact,
)
from runtime.worker.parent import JobResult
from tests.device_bench.conftest import SLICED, make_run, write_onnx

HERE = Path(__file__).parents[1]
SHORT = Sampling(min_samples=4, max_samples=4, max_warmup=10)
CRASH = MeasurementError("The process was killed by SIGSEGV")


class Here:
    """Does in this process what a child would do, and what the tests say in its place.

    Args:
        spoilt: answers by job and file, in place of doing the job.
        peaks: in 10^9 operations a second, one for each time they are asked for.
    """

    def __init__(self, spoilt=None, peaks=()) -> None:
        self.spoilt, self.peaks, self.jobs = spoilt or {}, list(peaks), []

    def __call__(self, job, request, progress=None, *, silence_s=None):
        names = [Path(file).name for file in request.get("files", [request.get("file", "")])]
        job = request.get("metric", job)
        self.jobs.append((job, *names))
        for number, name in enumerate(names):
            if (job, name) in self.spoilt:
                return JobResult(error=self.spoilt[job, name], turn=number)
        if job == "start":
            engine = open_engine(Path(request["file"]))
            batch = random_input(engine, names[0], 0).shape[0]
            return JobResult(asdict(ProcessStart(0.5, 0.25, 2, 1, engine.name, engine.version, batch)))
        if job == "peaks":
            return JobResult(encode((Peak("litert", "int8", 1, (self.peaks.pop(0),)),)))
        if job == "throughput":
            return JobResult(encode((Throughput(1, 1, 1, (9.0,)),)))
        files = [Path(file) for file in request["files"]]
        return JobResult(encode(time_in_turns(files, sampling=SHORT, seed=request["seed"], progress=progress)))


def measured(*files, run_job=None, progress=lambda *said: None, **options):
    return bench_files(BenchRequest(files, sampling=SHORT, **options), progress, run_job=run_job or Here())


def test_files_are_measured_with_all_that_must_be_known(onnx_file, tmp_path):
    other = write_onnx(tmp_path / "elsewhere.onnx", (1, 4))
    seen = []
    run_job = Here()
    result = measured(onnx_file, other, seed=3, run_job=run_job, progress=lambda stage, *rest: seen.append(stage))
    assert [item.file for item in result.files] == ["tiny.onnx", "elsewhere.onnx"]
    first = result.files[0]
    assert (first.engine, first.threads, first.batch, first.precision) == ("onnxruntime", 1, 1, None)
    assert (first.macs, first.arithmetic) == (None, None)
    assert first.sha256 == hashlib.sha256(onnx_file.read_bytes()).hexdigest()
    assert first.size_bytes == onnx_file.stat().st_size
    assert len(first.latency.values) == 4
    assert min(first.latency.values) > 0
    assert first.startup.load_s == (0.5,) * 3
    assert first.memory == MemoryUse(2, 1)
    assert (result.target, result.seed, result.sampling) == ("cpu", 3, SHORT)
    assert result.before.python == result.after.python
    assert result.after.uptime_s >= result.before.uptime_s
    assert (result.failures, result.peaks) == ((), ())
    assert list(dict.fromkeys(seen)) == ["start", "warm-up", "measure"]
    assert [job for job, *_ in run_job.jobs] == ["start"] * 6 + ["latency"]


def test_without_the_start_a_file_is_still_tried_once(onnx_file):
    run_job = Here()
    (only,) = measured(onnx_file, startup=False, run_job=run_job).files
    assert (only.startup, only.memory) == (None, MemoryUse(2, 1))
    assert run_job.jobs.count(("start", "tiny.onnx")) == 1


def test_a_file_that_fails_at_its_start_is_not_run_again(onnx_file, tmp_path):
    bad = write_onnx(tmp_path / "bad.onnx", (1, 4))
    run_job = Here({("start", "bad.onnx"): CRASH})
    result = measured(bad, onnx_file, run_job=run_job)
    assert [(failure.file, failure.what) for failure in result.failures] == [("bad.onnx", str(CRASH))]
    assert [item.file for item in result.files] == ["tiny.onnx"]
    assert run_job.jobs.count(("start", "bad.onnx")) == 1
    assert run_job.jobs[-1] == ("latency", "tiny.onnx")


def test_a_missing_engine_is_a_failure_of_its_files(onnx_file):
    run_job = Here({("start", "tiny.onnx"): MissingExtraError("onnxruntime", "onnx")})
    (failure,) = measured(onnx_file, run_job=run_job).failures
    assert "pocketvit[onnx]" in failure.what


def test_a_file_that_ends_the_timing_is_left_out_and_the_rest_is_timed_again(onnx_file, tmp_path):
    bad = write_onnx(tmp_path / "bad.onnx", (1, 4))
    last = write_onnx(tmp_path / "last.onnx", (1, 4))
    run_job = Here({("latency", "bad.onnx"): CRASH})
    result = measured(onnx_file, bad, last, run_job=run_job)
    assert [item.file for item in result.files] == ["tiny.onnx", "last.onnx"]
    assert [failure.file for failure in result.failures] == ["bad.onnx"]
    assert run_job.jobs[-2:] == [
        ("latency", "tiny.onnx", "bad.onnx", "last.onnx"),
        ("latency", "tiny.onnx", "last.onnx"),
    ]


def test_when_all_fail_there_is_a_result_of_failures(onnx_file):
    result = measured(onnx_file, run_job=Here({("latency", "tiny.onnx"): CRASH}))
    assert (result.files, len(result.failures)) == ((), 1)
    assert isinstance(result.before, MachineState)


def test_a_process_that_ends_in_no_files_turn_is_an_error(onnx_file):
    class Broken(Here):
        def __call__(self, job, request, progress=None, *, silence_s=None):
            if job == "latency":
                return JobResult(error=MeasurementError("No memory"))
            return super().__call__(job, request, progress)

    with pytest.raises(MeasurementError, match="No memory"):
        measured(onnx_file, run_job=Broken())


def test_what_else_fails_is_a_note_and_the_latency_stays(onnx_file):
    (only,) = measured(onnx_file, throughput_s=1.0, run_job=Here({("throughput", "tiny.onnx"): CRASH})).files
    assert only.throughput == ()
    assert any("throughput could not be measured" in note and "SIGSEGV" in note for note in only.notes)
    (only,) = measured(onnx_file, throughput_s=1.0).files
    assert only.throughput == (Throughput(1, 1, 1, (9.0,)),)


def with_manifest(onnx_file, tmp_path):
    """Gives the tiny file a manifest, borrowed from a synthetic run."""
    borrowed = read_artifact(make_run(tmp_path / "borrowed") / "artifacts" / "digits.int8.onnx")
    content = onnx_file.read_bytes()
    write_artifact(
        onnx_file,
        replace(
            borrowed,
            file=onnx_file.name,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
        ),
    )


def test_a_manifest_gives_precision_macs_and_arithmetic(onnx_file, tmp_path):
    with_manifest(onnx_file, tmp_path)
    result = measured(onnx_file, run_job=Here(peaks=[1e9, 2e9]))
    (only,) = result.files
    assert (only.precision, only.macs, only.arithmetic) == ("int8", macs(SLICED), "int8")
    assert result.peak_of(only).gflops == (1e9, 2e9)
    assert only.gflops_per_s < result.peak_of(only).best
    assert measured(onnx_file, peaks=False).peaks == ()


def test_a_peak_below_a_file_is_measured_again_and_said(onnx_file, tmp_path):
    with_manifest(onnx_file, tmp_path)
    found = measured(onnx_file, run_job=Here(peaks=[1e-9, 1e-9, 1e9]))
    assert found.peaks[0].gflops == (1e-9, 1e-9, 1e9)
    assert not any("that file is its peak" in note for note in found.notes)
    low = measured(onnx_file, run_job=Here(peaks=[1e-9] * 9))
    assert any("while tiny.onnx ran: that file is its peak" in note for note in low.notes)
    (one,) = low.files
    assert low.peak_of(one).best == one.gflops_per_s


def test_peaks_that_cannot_be_had_are_said(onnx_file, tmp_path):
    with_manifest(onnx_file, tmp_path)
    result = measured(onnx_file, run_job=Here({("peaks", ""): CRASH}))
    assert result.peaks == ()
    assert "The machine's peak arithmetic could not be measured." in result.notes


def test_a_file_that_is_not_the_one_of_its_manifest_is_a_failure(onnx_file, tmp_path):
    with_manifest(onnx_file, tmp_path)
    write_onnx(onnx_file, ("M", 4))
    other = write_onnx(tmp_path / "other.onnx", (1, 4))
    run_job = Here()
    result = measured(onnx_file, other, run_job=run_job)
    assert [item.file for item in result.files] == ["other.onnx"]
    assert "tiny.onnx is damaged" in result.failures[0].what
    assert str(tmp_path) not in result.failures[0].what
    assert ("start", "tiny.onnx") not in run_job.jobs


@pytest.mark.parametrize("name", ["absent.onnx", "picture.png"])
def test_what_is_no_model_file_is_refused_before_anything_is_run(onnx_file, tmp_path, name):
    if name == "picture.png":
        (tmp_path / name).write_bytes(b"not a model")
    run_job = Here()
    with pytest.raises(ArtifactError, match=name):
        measured(onnx_file, tmp_path / name, run_job=run_job)
    with pytest.raises(ArtifactError, match="labelled images"):
        measured(onnx_file, images=tmp_path / "none.npz", run_job=run_job)
    assert run_job.jobs == []


@pytest.mark.slow
def test_hostile_files_fail_alone(onnx_file, tmp_path):
    """A file that is no model, a truncated one, one whose offsets lead astray, and one of a free size."""
    golden = (HERE.parent / "golden" / "tiny-fp32.tflite").read_bytes()
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    (tmp_path / "short.tflite").write_bytes(golden[: len(golden) // 2])
    (tmp_path / "astray.tflite").write_bytes(golden[:4] + golden[:4] + b"\xff" * 200 + golden[208:])
    write_onnx(tmp_path / "free.onnx", (1, "channels"))
    shutil.copy(HERE.parent / "golden" / "tiny-fp32.tflite", tmp_path / "good.tflite")
    names = ["broken.onnx", "short.tflite", "astray.tflite", "free.onnx", "good.tflite"]
    result = bench([*(tmp_path / name for name in names), onnx_file], sampling=SHORT, startup=False)
    assert [failure.file for failure in result.failures] == names[:4]
    assert [item.file for item in result.files] == ["good.tflite", "tiny.onnx"]
    assert "fixed size" in result.failures[3].what
    assert str(tmp_path) not in "".join(failure.what for failure in result.failures)


@pytest.mark.slow
def test_real_processes_measure_all_that_is_asked(onnx_file, tmp_path):
    images = TestImages(np.zeros((3, 4, 4, 3), np.uint8), np.array([0, 1, 2]), "zeros", "test", ("a", "b", "c"))
    write_test_images(tmp_path / "t.npz", images)
    file = write_onnx(tmp_path / "other.onnx", (1, 4))
    result = bench([onnx_file, file], sampling=SHORT, throughput_s=0.1, images=tmp_path / "t.npz", seed=5)
    first = result.files[0]
    assert len(first.startup.load_s) == 3
    assert 5_000_000 < first.memory.rss_before_bytes < first.memory.peak_rss_bytes
    assert first.best_throughput.median >= first.throughput[0].median > 0
    assert (first.throughput[0].batch, first.throughput[0].streams) == (1, 1)
    assert first.accuracy is None
    assert any("accuracy could not be measured" in note and "no manifest" in note for note in first.notes)


def test_a_fixed_batch_is_kept_and_recorded(tmp_path):
    assert measured(write_onnx(tmp_path / "b.onnx", (8, 4))).files[0].batch == 8


def test_small_files_are_timed_in_turns_with_a_sign_each(onnx_file, tmp_path):
    other, marks = write_onnx(tmp_path / "b.onnx", (1, 4)), []
    timed = time_files([onnx_file, other], rounds=3, mark=marks.append)
    assert [len(own) for own in timed] == [3, 3]
    assert marks[:2] == [0, 1]
    assert sorted(marks) == [0] * 4 + [1] * 4
    with pytest.raises(MeasurementError, match="none"):
        time_files([])


def test_files_need_different_names(onnx_file, tmp_path):
    (tmp_path / "other").mkdir()
    twin = write_onnx(tmp_path / "other" / onnx_file.name, (1, 4))
    with pytest.raises(MeasurementError, match="different names"):
        bench([onnx_file, twin])
    with pytest.raises(MeasurementError, match="none"):
        bench([])


def test_an_unknown_target_names_those_that_are_known(onnx_file):
    for target in ("tpu", "cpu:1", "ftp:board", ""):
        with pytest.raises(
            UnsupportedTargetError, match=rf"Expected one of cpu, cuda, gpu, ssh:\[USER@\]HOST.*'{target}'"
        ):
            bench([onnx_file], target=target)
    with pytest.raises(UnsupportedTargetError, match=r"Expected pi4.*got|emu"):
        bench_device(Device("emu:pi9"), BenchRequest((onnx_file,)))


def test_a_request_out_of_range_is_refused(onnx_file):
    with pytest.raises(UnsupportedTargetError, match="threads"):
        bench([onnx_file], threads=0)
    for options in ({"throughput_s": -1.0}, {"timeout_s": 0.0}, {"throughput_s": float("inf")}):
        with pytest.raises(MeasurementError, match="time is out of range"):
            bench([onnx_file], **options)


def test_inputs_are_seeded_and_of_the_files_type(onnx_file):
    engine = open_engine(onnx_file)
    first = random_input(engine, "tiny.onnx", 0)
    assert (first.dtype, first.shape) == (np.float32, (1, 4))
    assert np.array_equal(first, random_input(engine, "tiny.onnx", 0))
    assert not np.array_equal(first, random_input(engine, "tiny.onnx", 1))
    engine.input_dtype, engine.input_shape = np.dtype(np.int8), (1, 4096)
    integers = random_input(engine, "tiny.onnx", 0)
    assert integers.dtype == np.int8
    assert (integers.min(), integers.max()) == (-128, 127)


def test_importing_the_room_imports_nothing_heavy():
    heavy = ("matplotlib", "jinja2", "onnxruntime", "ai_edge_litert", "torch", "PIL", "onnx")
    code = f"import sys, device_bench; sys.exit(', '.join(set(sys.modules) & set({heavy!r})) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE.parents[1], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
