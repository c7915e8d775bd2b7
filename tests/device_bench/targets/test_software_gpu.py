"""The software GPU: how its driver is fetched and kept, and what is said where that does not work."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_bench.targets.emulated.host import Host
from device_bench.targets.emulated.steps import Steps
from device_bench.targets.software_gpu.driver import (
    SoftwareVulkan,
    driver_folder,
    missing_for_vulkan,
    software_vulkan,
)
from runtime import MeasurementError
from runtime.gpu.drivers import DRIVER, LOADER, MANIFEST, gpu_drivers

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


def test_a_fetched_driver_is_found_again(tmp_path: Path) -> None:
    made = fetched(Apt(DRIVER, MANIFEST, LOADER), tmp_path)
    (found,) = gpu_drivers(tmp_path / "cache/vulkan", {}, tmp_path, "Linux")
    assert found == made.driver
    assert found.variables["VK_DRIVER_FILES"] == str(made.path / MANIFEST)
