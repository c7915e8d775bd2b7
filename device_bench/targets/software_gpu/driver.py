"""SwiftShader, a Vulkan driver of Chromium that computes on the CPU, from Debian's package.

Nothing is installed and no root is needed. A private apt downloads the package once; the driver and the Vulkan loader
are kept in the cache of the emulated boards.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from device_bench.targets.emulated.base import Package
from device_bench.targets.emulated.fetch import SUITE, apt_sources, fetch_debs, unpack_debs
from device_bench.targets.emulated.host import Host, Lack, missing_programs
from device_bench.targets.emulated.once import made_once
from device_bench.targets.emulated.steps import Steps
from runtime import ArtifactError, Document, MeasurementError, Progress, silent
from runtime.gpu.drivers import DRIVER, LOADER, MANIFEST, GpuDriver, fetched_drivers, software_driver

PACKAGE_DOCUMENT = Document("pocketvit-software-vulkan", 1, Package)
STAGE = "fetching the software GPU"

PACKAGE = "chromium-common"
"""Package with the driver and the loader, 32 MB; Mesa's lavapipe in Debian 12 is too old for LiteRT."""

_FOLDER = "usr/lib/chromium"
_STEPS = 2
_RECIPE = (("device_bench.targets.software_gpu", "driver.py"), ("device_bench.targets.emulated", "fetch.py"))


@dataclass(frozen=True)
class SoftwareVulkan:
    """A fetched Vulkan driver.

    Attributes:
        path: folder with the driver, its manifest and the loader.
        package: Debian's package with them.
    """

    path: Path
    package: Package

    @property
    def driver(self) -> GpuDriver:
        """The driver, as LiteRT's GPU path takes it."""
        return software_driver(self.path)


def software_vulkan(
    cache: Path | None = None,
    progress: Progress = silent,
    steps: Steps | None = None,
    *,
    sources: Sequence[Path] | None = None,
) -> SoftwareVulkan:
    """Returns the driver, and fetches it if it is not in the cache.

    It takes some 10 s and 32 MB of downloads (and apt's package lists); 6 MB stay.

    Args:
        cache: the folder it is kept in; by default that of emulated boards.
        progress: reports each step.
        steps: runs the programs.
        sources: files with apt's sources; by default this machine's.

    Raises:
        MeasurementError: this machine cannot fetch or run it, or a step failed; the message names the cure.
        StorageError: there is no space, or no permission to write.
    """
    for lack in missing_for_vulkan(cache) if sources is None else ():
        raise MeasurementError("The software GPU cannot run here", expected=lack.what, fix=lack.fix)
    steps = steps or Steps(making="the software GPU")
    path = made_once(
        driver_folder(cache),
        lambda folder: _make(folder, progress, steps, sources),
        whole=lambda folder: _read(folder) is not None,
        waiting=lambda: progress(STAGE, 0, _STEPS, "waiting for another process that fetches it"),
    )
    made = _read(path)
    assert made is not None
    return made


def driver_folder(cache: Path | None = None) -> Path:
    """Returns the folder of the driver, whether it exists or not; its name depends on the code that fetches it.

    Args:
        cache: the folder it is kept in; by default that of emulated boards.
    """
    digest = hashlib.sha256()
    for package, name in _RECIPE:
        digest.update(files(package).joinpath(name).read_bytes())
    return (fetched_drivers() if cache is None else cache / "vulkan") / digest.hexdigest()[:16]


def missing_for_vulkan(cache: Path | None = None, host: Host | None = None) -> tuple[Lack, ...]:
    """Returns what this machine lacks to run the driver, and to fetch it if it is absent.

    Args:
        cache: the folder it is kept in.
        host: how to look at the machine.
    """
    host = host or Host()
    if (host.system, host.machine) != ("Linux", "x86_64"):
        return (Lack("Linux on x86-64", "Run on another machine what needs the software GPU"),)
    if _read(driver_folder(cache)) is not None:
        return ()
    lacks = missing_programs({"apt-get": "apt", "dpkg-deb": "dpkg"}, host)
    if not apt_sources(host.root):
        lacks.append(Lack(f"Debian 12 ({SUITE}) among apt's sources", "Run in a container of Debian 12"))
    return tuple(lacks)


def _read(path: Path) -> SoftwareVulkan | None:
    """Returns the driver in a folder; None if there is none or it is incomplete."""
    try:
        package = PACKAGE_DOCUMENT.read(path / "record.json")
    except ArtifactError:
        return None
    return (
        SoftwareVulkan(path, package) if all((path / name).is_file() for name in (DRIVER, MANIFEST, LOADER)) else None
    )


def _make(path: Path, progress: Progress, steps: Steps, sources: Sequence[Path] | None) -> None:
    work, root = path / "work", path / "work/root"
    work.mkdir()
    progress(STAGE, 0, _STEPS, "Debian's package")
    debs = fetch_debs([f"{PACKAGE}:amd64"], work / "apt", steps, resolve=False, sources=sources)
    if len(debs) != 1:
        raise MeasurementError("apt fetched no package of the software GPU", expected=PACKAGE, got=len(debs))
    (deb,) = debs
    progress(STAGE, 1, _STEPS, "unpacking")
    root.mkdir()
    unpack_debs([deb], root, steps)
    for name in (DRIVER, MANIFEST, LOADER):
        source = root / _FOLDER / name
        if not source.is_file():
            raise MeasurementError(f"{deb.name} does not hold the software GPU", expected=f"{_FOLDER}/{name}")
        source.replace(path / name)
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    PACKAGE_DOCUMENT.write(path / "record.json", Package(deb.name, digest))
    shutil.rmtree(work)
    progress(STAGE, _STEPS, _STEPS)
