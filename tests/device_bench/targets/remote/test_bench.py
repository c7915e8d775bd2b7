import os
import sys
from pathlib import Path

import pytest

from device_bench.documents.measurement import Sampling
from device_bench.documents.request import BenchRequest
from device_bench.targets.base import Device
from device_bench.targets.link import Link
from device_bench.targets.remote import bench as remote
from device_bench.targets.remote.bench import bench_over_link, findings_of
from device_bench.targets.remote.bundle import bundle
from device_bench.targets.remote.connection import Survey
from runtime import ArtifactError, MeasurementError

HERE = Device("ssh:pi@board", python=sys.executable)
SURVEY = Survey("3.11.2", "aarch64", "Linux", "glibc 2.36", {"numpy": "2.0"}, False, "/x", 10**9, False, False, False)


@pytest.fixture
def link(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = [f"HOME={home}", f"PATH={os.environ['PATH']}"]
    return Link("the board", lambda line: ["/usr/bin/env", "-i", *environment, "/bin/sh", "-c", line])


def wanted(*files, **options):
    return BenchRequest(files, sampling=Sampling.exactly(3), startup=False, peaks=False, **options)


def test_a_bench_elsewhere_is_the_bench_of_here_under_its_own_name(link, onnx_file, tmp_path):
    hostile = tmp_path / "-rf $(touch hit) 'a' \"b\"\n;.onnx"
    hostile.write_bytes(onnx_file.read_bytes())
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no model")
    seen = []
    result = bench_over_link(
        HERE, link, wanted(onnx_file, hostile, damaged), progress=lambda stage, *rest: seen.append(stage)
    )
    assert [one.file for one in result.files] == [onnx_file.name, hostile.name]
    assert all(len(one.latency.values) == 3 for one in result.files)
    assert [failure.file for failure in result.failures] == ["damaged.onnx"]
    assert result.target == "ssh:pi@board"
    assert {"send", "start", "measure"} <= set(seen)
    assert not Path("hit").exists()
    assert not list((tmp_path / "home").rglob("*pocketvit*"))


def test_a_missing_file_is_told_before_anybody_is_asked(tmp_path):
    link = Link("the board", lambda line: pytest.fail("asked"))
    with pytest.raises(ArtifactError, match="does not exist"):
        bench_over_link(HERE, link, wanted(tmp_path / "none.onnx"))


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({}, r"numpy is not installed for the Python on ssh:pi@board.*pip install numpy onnxruntime; or .*--bootstrap"),
        ({"numpy": "2.0"}, r"onnxruntime cannot be found by the Python on ssh:pi@board.*pip install onnxruntime"),
    ],
)
def test_a_device_that_can_run_nothing_is_told_before_anything_is_sent(versions, said, link, onnx_file, monkeypatch):
    survey = Survey(**{**vars(SURVEY), "versions": versions})
    monkeypatch.setattr(remote, "run_on_device", lambda link, python, plan, *rest, **options: plan(survey))
    with pytest.raises(MeasurementError, match=said):
        bench_over_link(HERE, link, wanted(onnx_file))


def test_the_bundle_is_the_same_for_the_same_sources_and_has_no_emulator():
    assert bundle() == bundle()
    import io
    import zipfile

    names = zipfile.ZipFile(io.BytesIO(bundle())).namelist()
    assert "__main__.py" in names
    assert "runtime/plan.py" in names
    assert "device_bench/metrics/peak_models/fp32.tflite" in names
    assert not [name for name in names if "emulated" in name or "__pycache__" in name]


def test_the_bundle_runs_by_itself(tmp_path):
    import subprocess

    (tmp_path / "agent.pyz").write_bytes(bundle())
    request = '{"job": "peaks", "request": {"threads": 0, "arithmetics": []}}'
    command = [sys.executable, "-P", tmp_path / "agent.pyz"]
    done = subprocess.run(command, input=request, capture_output=True, text=True, check=True)
    assert done.stdout == '{"result": []}\n'


def test_a_check_names_what_is_missing_and_how_to_get_it():
    found = {one.name: one for one in findings_of(HERE, Survey(**{**vars(SURVEY), "raspberry": True, "free_bytes": 9}))}
    assert found["link"].value == "Linux on aarch64"
    assert found["numpy"].value == "2.0"
    assert found["onnxruntime"].value is None
    assert "pip install onnxruntime" in found["onnxruntime"].fix
    assert found["free space"].value is None
    assert found["vcgencmd"].value is None
    old = findings_of(HERE, Survey(**{**vars(SURVEY), "python": "3.9.2"}))
    assert next(one for one in old if one.name == "python").value is None
