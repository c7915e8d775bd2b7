"""Installs what a device lacks: wheels are fetched here and sent, so the device needs no network and no pip."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from device_bench.targets.base import Device
from device_bench.targets.link import Link
from runtime import MeasurementError, Progress, silent
from runtime.engines import ENGINES

from . import make_venv
from .connection import ROOT, Order, Survey, Upload, run_on_device
from .supervisor import MODULES

VENV = f"{ROOT}/venv"
PORTABLE = ("numpy", *(engine.package for engine in ENGINES.values() if engine.portable))
_SILENCE_S = 300.0
_OLDEST_GLIBC, _FALLBACK_GLIBC = 17, 31

RunCommand = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run_here(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a local program for ten minutes at most and captures its output."""
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600, check=False)


def bootstrap(
    device: Device,
    link: Link,
    packages: Sequence[str],
    progress: Progress = silent,
    *,
    stop: threading.Event | None = None,
    run: RunCommand = run_here,
) -> bool:
    """Makes a virtual environment with ``packages`` on a device, unless its Python has them already.

    The environment is in ``~/.cache/pocketvit/venv`` on the device, and every later bench uses it. To remove it, remove
    that folder.

    Args:
        device: the device.
        link: connection to the device.
        packages: names of packages; those installed here are installed there in the same version.
        progress: reports each step.
        stop: once it is set, all work ends.
        run: runs pip on this machine.

    Returns:
        Whether anything was installed.

    Raises:
        MeasurementError: the device cannot be reached, or there are no wheels for it.
    """
    with tempfile.TemporaryDirectory() as folder:

        def plan(survey: Survey) -> Order | None:
            if all(package in survey.versions for package in packages):
                return None
            # the environment is replaced as a whole, so packages of an earlier one are installed again
            kept = set(survey.versions) & set(PORTABLE) if survey.venv else set()
            wanted = sorted({*packages, *kept})
            progress("fetch", 0, 1, device.label)
            wheels = fetch_wheels(device, survey, wanted, Path(folder), run)
            progress("fetch", 1, 1, device.label)
            return _order(wheels, wanted)

        return run_on_device(link, device.python, plan, progress, stop=stop) is not None


def fetch_wheels(
    device: Device, survey: Survey, packages: Sequence[str], folder: Path, run: RunCommand = run_here
) -> tuple[Path, ...]:
    """Downloads wheels of ``packages`` and their dependencies for the device's Python and processor.

    Raises:
        MeasurementError: there are no such wheels.
    """
    command = [sys.executable, "-m", "pip", *pip_arguments(survey, packages, folder)]
    try:
        done = run(command)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MeasurementError(f"The packages for {device.label} could not be fetched", got=error) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no message"]
        raise MeasurementError(
            f"The packages for {device.label} could not be fetched",
            expected=f"wheels of {', '.join(packages)} for Python {survey.python} on {survey.machine}, {survey.libc}",
            got=lines[-1][:300],
            fix="Name a Python there that has wheels (python = … in targets.toml), or install them there by hand",
        )
    return tuple(sorted(folder.glob("*.whl")))


def pip_arguments(survey: Survey, packages: Sequence[str], folder: Path) -> list[str]:
    """Returns the arguments of ``pip`` that download wheels for another machine.

    Raises:
        MeasurementError: the device does not run Linux with glibc.
    """
    if survey.system != "Linux" or not survey.libc.startswith("glibc"):
        raise MeasurementError(
            "Packages can be sent to a Linux with glibc alone",
            got=f"{survey.system}, {survey.libc or 'unknown libc'}",
            fix="Install them there by hand",
        )
    found = re.search(r"2\.(\d+)", survey.libc)
    newest = int(found[1]) if found else _FALLBACK_GLIBC
    version = ".".join(survey.python.split(".")[:2])
    platforms = [f"manylinux_2_{minor}_{survey.machine}" for minor in range(newest, _OLDEST_GLIBC - 1, -1)]
    abis = (f"cp{version.replace('.', '')}", "abi3", "none")
    return [
        *("download", "--quiet", "--disable-pip-version-check", "--no-input", "--only-binary=:all:"),
        *("--dest", str(folder), "--python-version", version, "--implementation", "cp"),
        *(part for name in (*platforms, f"manylinux2014_{survey.machine}") for part in ("--platform", name)),
        *(part for abi in abis for part in ("--abi", abi)),
        *map(_pinned, packages),
    ]


def _pinned(package: str) -> str:
    """Returns the package in the version that is installed here: two machines are compared by the same engine."""
    try:
        return f"{package}=={metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def _order(wheels: Sequence[Path], packages: Sequence[str]) -> Order:
    program = Upload(("agent", "make_venv.py"), Path(make_venv.__file__).read_bytes())
    uploads = [Upload(("wheels", wheel.name), wheel) for wheel in wheels]
    request = {
        "venv": VENV,
        "wheels": [f"wheels/{wheel.name}" for wheel in wheels],
        "modules": [MODULES[package] for package in packages],
    }
    return Order((program, *uploads), ("agent/make_venv.py",), "agent", request, _SILENCE_S)
