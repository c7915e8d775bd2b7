"""Downloads the parts of emulated boards: Debian's packages by a private apt, the engines' wheels by pip.

Nothing is installed and the system's package lists do not change, since apt works in separate folders.
"""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from runtime import MeasurementError

from .steps import Steps

SUITE = "bookworm"
"""Debian 12: its Python is the one the pinned wheels are for, its emulator the one whose counts were checked."""

_PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28", "manylinux_2_31", "manylinux_2_34")
_APT_FIX = "Look at `apt-get update` on this machine, and that it reaches its mirrors"
_WHEELS_FIX = "Check that `pip download numpy` works here; behind a proxy set PIP_INDEX_URL or PIP_PROXY"

_STANZA = re.compile(rf"^Suites:.*(?<!\S){SUITE}(?!\S)", re.MULTILINE)
_LINE = re.compile(rf"^deb\s+(?:\[[^]]*\]\s+)?\S+\s+{SUITE}\s+.*\bmain\b", re.MULTILINE)


def apt_sources(root: Path = Path("/")) -> tuple[Path, ...]:
    """Returns the files of this machine's apt sources that name the suite of the boards.

    Args:
        root: folder that holds ``etc``.
    """
    folder = root / "etc/apt"
    found = []
    for path in (folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))):
        pattern = {".sources": _STANZA, ".list": _LINE}.get(path.suffix)
        if pattern and path.is_file() and pattern.search(path.read_text(encoding="utf-8", errors="replace")):
            found.append(path)
    return tuple(found)


def fetch_debs(
    packages: Sequence[str],
    work: Path,
    steps: Steps,
    *,
    resolve: bool = True,
    sources: Sequence[Path] | None = None,
    architectures: Sequence[str] = ("arm64", "amd64"),
) -> tuple[Path, ...]:
    """Downloads Debian packages for the first architecture, or for the one after the colon in a name.

    Args:
        packages: names of packages; ``qemu-user:amd64`` is one for this machine.
        work: an empty folder for apt's state and the files.
        steps: runs the programs.
        resolve: whether to download their dependencies too.
        sources: files with apt sources; by default those of this machine.
        architectures: the architectures that apt reads the lists of.

    Raises:
        MeasurementError: no sources of the suite, or apt fails.
    """
    sources = apt_sources() if sources is None else sources
    if not sources:
        raise MeasurementError(
            "This machine's apt has no source to make the emulated boards from",
            expected=f"Debian 12 ({SUITE}) in /etc/apt",
            fix="Run this on Debian 12, or in a privileged container of it",
        )
    for name in ("state/lists/partial", "cache/archives/partial", "sources"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    for number, path in enumerate(sources):
        shutil.copy(path, work / "sources" / f"{number}{path.suffix}")
    (work / "apt.conf").write_text(_apt_conf(work, architectures), encoding="utf-8")
    env = {"APT_CONFIG": str(work / "apt.conf"), "LC_ALL": "C"}
    steps("reading apt's package lists", ["apt-get", "update", "-qq", "--error-on=any"], _APT_FIX, env=env)
    folder = work / "cache/archives"
    step = f"fetching Debian's {', '.join(packages)}"
    if resolve:
        steps(step, ["apt-get", "install", "-qq", "-y", "--download-only", *packages], _APT_FIX, env=env)
    else:
        steps(step, ["apt-get", "download", "-qq", *packages], _APT_FIX, env=env, cwd=folder)
    return tuple(sorted(folder.glob("*.deb")))


def _apt_conf(work: Path, architectures: Sequence[str]) -> str:
    listed = " ".join(f'"{name}";' for name in architectures)
    return f"""\
APT::Architecture "{architectures[0]}";
APT::Architectures {{ {listed} }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{work}/state";
Dir::State::status "{work}/status";
Dir::Cache "{work}/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{work}/sources";
"""


def unpack_debs(debs: Sequence[Path], root: Path, steps: Steps) -> None:
    """Unpacks the files of Debian packages below ``root``.

    Raises:
        MeasurementError: one cannot be unpacked.
    """
    for deb in debs:
        steps(f"unpacking {deb.name}", ["dpkg-deb", "--extract", deb, root], "Free some disk space and try again")


def fetch_board_wheels(requirements: Path, folder: Path, steps: Steps) -> tuple[Path, ...]:
    """Downloads the wheels in a pip requirements file, for CPython 3.11 on aarch64.

    Args:
        requirements: exact versions with their sha256.
        folder: folder for the wheels.
        steps: runs pip.

    Raises:
        MeasurementError: pip is missing or fails, or a digest differs.
    """
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    argv += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp"]
    argv += [f"--abi={abi}" for abi in ("cp311", "abi3", "none")]
    argv += [f"--platform={platform}_aarch64" for platform in _PLATFORMS]
    argv += ["--requirement", str(requirements), "--dest", str(folder)]
    steps("fetching the engines' wheels", argv, _WHEELS_FIX)
    return tuple(sorted(folder.glob("*.whl")))


def unpack_wheels(wheels: Sequence[Path], site: Path) -> None:
    """Unpacks wheels into ``site``, a folder from which Python imports."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
