"""The software GPU: how its driver is fetched and kept, and what is said where it, or a file on it, does not work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_bench.targets.emulated.base import Package
from device_bench.targets.emulated.host import Host
from device_bench.targets.emulated.steps import Steps
from device_bench.targets.software_gpu.driver import (
    DRIVER,
    LOADER,
    MANIFEST,
    SoftwareVulkan,
    driver_folder,
    missing_for_vulkan,
    software_vulkan,
)
from device_bench.targets.software_gpu.run import run_on_gpu
from runtime import MeasurementError

DEBIAN = "Types: deb\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
HERE = Host(system="Linux", machine="x86_64")


class Apt:
    """Stands in for apt and dpkg-deb, with a package of some files."""

    def __init__(self, *names: str) -> None:
        self.names, self.asked = names, []

    def __call__(self, argv: Sequence[str], *, cwd: Path | None, **_: Any) -> Any:
        self.asked.append(list(argv))
        if argv[:2] == ["apt-get", "download"]:
            assert cwd is not None
            (cwd / "chromium-common_1_amd64.deb").write_bytes(b"a package")
        if argv[0] == "dpkg-deb":
            for name in self.names:
                path = Path(argv[-1]) / "usr/lib/chromium" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(name)
        return subprocess.CompletedProcess(argv, 0, b"", b"")


def fetched(apt: Apt, tmp_path: Path) -> SoftwareVulkan:
    source = tmp_path / "debian.sources"
    source.write_text(DEBIAN)
    return software_vulkan(tmp_path / "cache", steps=Steps(run=apt), sources=[source])


def test_the_driver_is_fetched_once_and_nothing_else_of_its_package_stays(tmp_path: Path) -> None:
    apt = Apt(DRIVER, MANIFEST, LOADER, "chromium")
    found = fetched(apt, tmp_path)
    assert [argv[:2] for argv in apt.asked[:2]] == [["apt-get", "update"], ["apt-get", "download"]]
    assert apt.asked[1][-1] == "chromium-common:amd64"
    assert sorted(path.name for path in found.path.iterdir()) == sorted([DRIVER, MANIFEST, LOADER, "record.json"])
    assert found.package.file == "chromium-common_1_amd64.deb"
    count = len(apt.asked)
    assert fetched(apt, tmp_path) == found
    assert len(apt.asked) == count


@pytest.mark.parametrize("lacking", [DRIVER, MANIFEST, LOADER])
def test_a_package_without_the_driver_is_an_error_and_leaves_nothing(lacking: str, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=lacking):
        fetched(Apt(*({DRIVER, MANIFEST, LOADER} - {lacking})), tmp_path)
    folder = driver_folder(tmp_path / "cache")
    assert [path.name for path in folder.parent.iterdir()] == ["lock"]
    assert fetched(Apt(DRIVER, MANIFEST, LOADER), tmp_path).path == folder


def test_a_driver_that_lost_a_file_is_fetched_again(tmp_path: Path) -> None:
    apt = Apt(DRIVER, MANIFEST, LOADER)
    found = fetched(apt, tmp_path)
    (found.path / DRIVER).unlink()
    assert fetched(apt, tmp_path) == found
    assert (found.path / DRIVER).is_file()


def test_a_step_that_fails_says_what_was_being_made(tmp_path: Path) -> None:
    def run(argv: Sequence[str], **_: Any) -> Any:
        return subprocess.CompletedProcess(argv, 100, b"", b"E: no mirror\n")

    (tmp_path / "a.sources").write_text(DEBIAN)
    steps = Steps(run=run, making="the software GPU")
    with pytest.raises(MeasurementError, match=r"Making the software GPU failed: reading apt.*E: no mirror"):
        software_vulkan(tmp_path / "cache", steps=steps, sources=[tmp_path / "a.sources"])


def test_what_is_missing_is_named_with_its_cure(tmp_path: Path) -> None:
    assert [lack.what for lack in missing_for_vulkan(tmp_path, replace(HERE, system="Darwin"))] == ["Linux on x86-64"]
    bare = replace(HERE, root=tmp_path, which=lambda name: None)
    lacks = missing_for_vulkan(tmp_path, bare)
    assert [lack.what for lack in lacks] == [
        "the program apt-get",
        "the program dpkg-deb",
        "Debian 12 (bookworm) among apt's sources",
    ]
    assert all(lack.fix for lack in lacks)
    fetched(Apt(DRIVER, MANIFEST, LOADER), tmp_path)
    assert missing_for_vulkan(tmp_path / "cache", bare) == ()


def test_a_process_is_told_to_use_this_driver_and_keeps_its_other_libraries(tmp_path: Path) -> None:
    vulkan = SoftwareVulkan(tmp_path, Package("a.deb", "0" * 64))
    assert vulkan.variables({}) == {
        "VK_DRIVER_FILES": str(tmp_path / MANIFEST),
        "LD_LIBRARY_PATH": str(tmp_path),
    }
    with_others = vulkan.variables({"LD_LIBRARY_PATH": "/opt/lib"})
    assert with_others["LD_LIBRARY_PATH"].split(os.pathsep) == [str(tmp_path), "/opt/lib"]


@pytest.mark.gpu
def test_a_file_the_gpu_path_cannot_load_is_an_error_of_ours(tmp_path: Path, software_gpu: SoftwareVulkan) -> None:
    path = tmp_path / "damaged.tflite"
    path.write_bytes(b"no model" * 100)
    with pytest.raises(MeasurementError, match=r"cannot run damaged\.tflite on the GPU path"):
        run_on_gpu(path, np.zeros((1, 1, 8, 8, 3), np.float32), 10, np.dtype(np.float32), software_gpu)


def test_a_gpu_path_that_hangs_is_ended(tmp_path: Path) -> None:
    vulkan = SoftwareVulkan(tmp_path, Package("a.deb", "0" * 64))
    with pytest.raises(MeasurementError, match=r"an end within 0\.01 s"):
        run_on_gpu(
            tmp_path / "any.tflite", np.zeros((1, 1), np.float32), 1, np.dtype(np.float32), vulkan, timeout_s=0.01
        )
