import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_bench import MemoryUse, Sampling, bench
from device_bench.inputs import random_input
from runtime import (
    ArtifactError,
    MeasurementError,
    UnsupportedTargetError,
    open_engine,
    read_artifact,
    write_artifact,
)

from .conftest import make_run, write_onnx

HERE = Path(__file__).parent
SHORT = Sampling(min_samples=4, max_samples=4, max_warmup=10)


@pytest.fixture(autouse=True)
def no_child(request, monkeypatch):
    """Stands in for the child process, which has tests of its own."""
    if "slow" not in request.keywords:
        monkeypatch.setattr("device_bench.cpu.measure_memory", lambda file, threads: MemoryUse(2, 1))


def test_files_are_measured_with_all_that_must_be_known(onnx_file, tmp_path):
    other = write_onnx(tmp_path / "elsewhere.onnx", (1, 4))
    seen = []
    result = bench(
        [onnx_file, other], sampling=SHORT, seed=3, progress=lambda stage, done, total, note="": seen.append(stage)
    )
    assert [item.file for item in result.files] == ["tiny.onnx", "elsewhere.onnx"]
    first = result.files[0]
    assert (first.engine, first.threads, first.batch, first.precision) == ("onnxruntime", 1, 1, None)
    assert first.sha256 == hashlib.sha256(onnx_file.read_bytes()).hexdigest()
    assert first.size_bytes == onnx_file.stat().st_size
    assert len(first.latency.values) == 4
    assert min(first.latency.values) > 0
    assert (result.target, result.seed, result.sampling) == ("cpu", 3, SHORT)
    assert result.before.python == result.after.python
    assert list(dict.fromkeys(seen)) == ["load", "memory", "warm-up", "measure"]


@pytest.mark.slow
def test_memory_is_measured_in_a_child(onnx_file):
    use = bench([onnx_file], sampling=SHORT).files[0].memory
    assert use.peak_rss_bytes > 5_000_000


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


def test_a_manifest_gives_the_precision(onnx_file, tmp_path):
    with_manifest(onnx_file, tmp_path)
    assert bench([onnx_file], sampling=SHORT).files[0].precision == "int8"


def test_a_file_that_is_not_the_one_of_its_manifest_is_refused(onnx_file, tmp_path):
    with_manifest(onnx_file, tmp_path)
    write_onnx(onnx_file, ("M", 4))
    with pytest.raises(ArtifactError, match="damaged"):
        bench([onnx_file], sampling=SHORT)


@pytest.mark.parametrize("name", ["broken.onnx", "broken.tflite", "absent.onnx", "picture.png"])
def test_a_file_that_cannot_be_loaded_is_refused_before_anything_is_timed(onnx_file, tmp_path, name):
    if name.startswith(("broken", "picture")):
        (tmp_path / name).write_bytes(b"not a model")
    stages = []
    with pytest.raises(ArtifactError, match=name):
        bench([onnx_file, tmp_path / name], progress=lambda stage, *rest: stages.append(stage))
    assert set(stages) == {"load"}


def test_a_free_image_size_is_refused(tmp_path):
    file = write_onnx(tmp_path / "free.onnx", (1, "channels"))
    with pytest.raises(ArtifactError, match="fixed size"):
        bench([file], sampling=SHORT)


def test_a_fixed_batch_is_kept_and_recorded(tmp_path):
    assert bench([write_onnx(tmp_path / "b.onnx", (8, 4))], sampling=SHORT).files[0].batch == 8


def test_files_need_different_names(onnx_file, tmp_path):
    (tmp_path / "other").mkdir()
    twin = write_onnx(tmp_path / "other" / onnx_file.name, (1, 4))
    with pytest.raises(MeasurementError, match="different names"):
        bench([onnx_file, twin])
    with pytest.raises(MeasurementError, match="none"):
        bench([])


def test_an_unknown_target_names_those_that_are_known(onnx_file):
    with pytest.raises(UnsupportedTargetError, match=r"one of cpu.*'tpu'"):
        bench([onnx_file], target="tpu")


def test_no_threads_are_refused(onnx_file):
    with pytest.raises(UnsupportedTargetError, match="threads"):
        bench([onnx_file], threads=0)


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
