"""Checks what a machine lacks to run emulated boards, with the command that installs each thing."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .base import boards_folder, read_boards, recipe_key
from .fetch import SUITE, apt_sources

_PROGRAMS = {
    "bash": "bash",
    "env": "coreutils",
    "mount": "mount",
    "nsenter": "util-linux",
    "setarch": "util-linux",
    "unshare": "util-linux",
}
_BUILD_PROGRAMS = {"apt-get": "apt", "dpkg-deb": "dpkg", "gcc": "gcc libc6-dev"}
_KERNEL = (6, 7)
_TRIAL = "mount -t tmpfs none /mnt && mount -t proc proc /proc && mount -t binfmt_misc none /proc/sys/fs/binfmt_misc"


@dataclass(frozen=True)
class Lack:
    """Something that emulated boards need and this machine lacks.

    Attributes:
        what: name of the thing.
        fix: the command or other cure.
    """

    what: str
    fix: str


def status_of(argv: Sequence[str]) -> int:
    """Returns the exit status of a program; 127 if it is absent or takes over 10 s."""
    try:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False).returncode
    except (OSError, subprocess.TimeoutExpired):
        return 127


@dataclass(frozen=True)
class Host:
    """How to examine a machine; tests replace it.

    Attributes:
        root: folder that holds ``etc``.
        system: name of the operating system, such as ``Linux``.
        machine: instruction set, such as ``x86_64``.
        release: release of the kernel.
        which: returns the path of a program, or None.
        status: runs a program and returns its exit status.
    """

    root: Path = Path("/")
    system: str = platform.system()
    machine: str = platform.machine()
    release: str = platform.release()
    which: Callable[[str], str | None] = shutil.which
    status: Callable[[Sequence[str]], int] = status_of


def missing_for_boards(cache: Path | None = None, host: Host | None = None) -> tuple[Lack, ...]:
    """Returns what this machine lacks to run emulated boards, and to make them if they are absent.

    Args:
        cache: folder of bases; by default that of the user.
        host: how to examine the machine.
    """
    host = host or Host()
    if (host.system, host.machine) != ("Linux", "x86_64"):
        return (Lack("Linux on x86-64", "Run emulated boards on another machine"),)
    lacks = [*missing_programs(_PROGRAMS, host), *_missing_kernel(host)]
    if not lacks:
        lacks += _missing_rights(host)
    if read_boards((cache or boards_folder()) / recipe_key()) is None:
        lacks += _missing_to_build(host)
    return tuple(lacks)


def missing_programs(programs: Mapping[str, str], host: Host) -> list[Lack]:
    """Returns the missing programs, each with the command that installs its package.

    Args:
        programs: Debian's package of each program.
        host: how to examine the machine.
    """
    return [Lack(f"the program {name}", f"apt-get install {package}") for name, package in programs.items()
            if host.which(name) is None]  # fmt: skip


def _missing_kernel(host: Host) -> list[Lack]:
    found = re.match(r"(\d+)\.(\d+)", host.release)
    if found and (int(found.group(1)), int(found.group(2))) >= _KERNEL:
        return []
    what = f"Linux 6.7 or newer, for a binfmt_misc of one's own (here: {host.release})"
    return [Lack(what, "apt-get install -t bookworm-backports linux-image-amd64, then reboot")]


def _missing_rights(host: Host) -> list[Lack]:
    isolated = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--"]
    if host.status([*isolated, "true"]):
        settings = "kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0"
        fix = f"Run as root, or: sysctl -w {settings}"
        return [Lack("user namespaces", fix)]
    if host.status([*isolated, "sh", "-c", _TRIAL]):
        return [Lack("leave to mount in a user namespace", "In a container: run it with --privileged")]
    return []


def _missing_to_build(host: Host) -> list[Lack]:
    lacks = missing_programs(_BUILD_PROGRAMS, host)
    if host.status([sys.executable, "-m", "pip", "--version"]):
        lacks.append(Lack("pip, for this Python", f"{sys.executable} -m ensurepip"))
    if not apt_sources(host.root):
        lacks.append(Lack(f"Debian 12 ({SUITE}) among apt's sources", "Run in a privileged container of Debian 12"))
    return lacks
