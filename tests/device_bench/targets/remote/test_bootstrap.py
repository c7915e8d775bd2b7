import venv
import zipfile
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from device_bench.targets.base import Device
from device_bench.targets.link import Link
from device_bench.targets.remote.bootstrap import bootstrap, pip_arguments
from device_bench.targets.remote.connection import Survey, run_on_device
from runtime import MeasurementError

SURVEY = Survey("3.11.2", "aarch64", "Linux", "glibc 2.36", {}, False, "/home/pi/x", 10**9, False, False, False)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python that has no packages at all."""
    folder = tmp_path_factory.mktemp("bare")
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    return str(folder / "bin/python")


@pytest.fixture
def device(bare):
    return Device("ssh:pi@board", python=bare)


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def link_to(home):
    return Link(
        "the board", lambda line: ["/usr/bin/env", "-i", f"HOME={home}", "PATH=/usr/bin:/bin", "sh", "-c", line]
    )


def wheel(folder, name, text, extra=()):
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as packed:
        packed.writestr(f"{name}/__init__.py", text)
        packed.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        packed.writestr(f"{name}-1.0.data/platlib/{name}/more.py", "MORE = 1\n")
        packed.writestr(f"{name}-1.0.data/scripts/{name}", "never unpacked")
        for path, content in extra:
            packed.writestr(path, content)


def pip(text="", extra=(), seen=None):
    def run(command):
        if seen is not None:
            seen.append(command)
        wheel(Path(command[command.index("--dest") + 1]), "onnxruntime", text, extra)
        return CompletedProcess(command, 0, "", "")

    return run


def survey_of(home, device):
    found = []
    run_on_device(link_to(home), device.python, found.append)
    return found[0]


def test_a_device_gets_what_it_lacks_and_keeps_it(home, device):
    seen = []
    assert "onnxruntime" not in survey_of(home, device).versions
    assert bootstrap(device, link_to(home), ["onnxruntime"], run=pip(seen=seen))
    found = survey_of(home, device)
    assert found.versions["onnxruntime"] == "1.0"
    assert found.venv
    site = next((home / ".cache/pocketvit/venv/lib").iterdir()) / "site-packages"
    assert (site / "onnxruntime/more.py").is_file()
    assert not list((home / ".cache/pocketvit/venv").rglob("scripts"))
    assert [path.name for path in (home / ".cache/pocketvit").iterdir()] == ["venv"]
    assert not bootstrap(device, link_to(home), ["onnxruntime"], run=pip(seen=seen))
    assert len(seen) == 1


def test_what_does_not_work_there_leaves_what_was_there(home, device):
    assert bootstrap(device, link_to(home), ["onnxruntime"], run=pip())
    before = sorted(home.rglob("*"))

    def run(command):
        folder = Path(command[command.index("--dest") + 1])
        assert {part.partition("==")[0] for part in command[-2:]} == {"numpy", "onnxruntime"}
        wheel(folder, "onnxruntime", "")
        wheel(folder, "numpy", "raise ImportError('wrong processor')")
        return CompletedProcess(command, 0, "", "")

    with pytest.raises(MeasurementError, match=r"could not be set up.*wrong processor"):
        bootstrap(device, link_to(home), ["numpy"], run=run)
    assert sorted(home.rglob("*")) == before


def test_a_wheel_that_reaches_out_of_its_folder_is_refused(home, device):
    with pytest.raises(MeasurementError, match=r"could not be set up.*\.\./\.\./x"):
        bootstrap(device, link_to(home), ["onnxruntime"], run=pip(extra=[("../../x", "out")]))
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_pip_is_asked_for_the_device_and_for_the_versions_of_this_machine(tmp_path):
    import numpy as np

    arguments = pip_arguments(SURVEY, ["numpy", "nobody-has-this"], tmp_path)
    assert "manylinux_2_36_aarch64" in arguments
    assert "manylinux2014_aarch64" in arguments
    assert "manylinux_2_37_aarch64" not in arguments
    assert arguments[arguments.index("--python-version") + 1] == "3.11"
    assert arguments[-2:] == [f"numpy=={np.__version__}", "nobody-has-this"]


@pytest.mark.parametrize("change", [{"system": "Darwin"}, {"libc": ""}])
def test_a_device_that_takes_no_such_wheels_is_told(tmp_path, change):
    from dataclasses import replace

    with pytest.raises(MeasurementError, match="Packages can be sent to a Linux with glibc alone"):
        pip_arguments(replace(SURVEY, **change), ["numpy"], tmp_path)


def test_wheels_that_do_not_exist_are_told_with_what_was_wanted(home, device):
    def run(command):
        return CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution found for numpy==9\n")

    said = r"Expected wheels of numpy for Python 3\.\d+.*Got ERROR: No matching distribution found for numpy==9"
    with pytest.raises(MeasurementError, match=said):
        bootstrap(device, link_to(home), ["numpy"], run=run)
