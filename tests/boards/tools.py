"""Debian's sshd and adb, unpacked and not installed, and what a board needs to be reached by them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_bench.targets.emulated import boards_folder
from device_bench.targets.emulated.build import close_layer
from device_bench.targets.emulated.fetch import fetch_debs, unpack_debs
from device_bench.targets.emulated.once import made_once, remove_folder
from device_bench.targets.emulated.steps import Steps

from .android import write_android

HERE = ("openssh-server", "libwrap0", "adb", "android-libbase", "android-libboringssl", "android-libcutils")
HERE += ("android-liblog", "libusb-1.0-0")
"""Programs that run on this machine, and the libraries of them that a developer's machine may lack."""

SSH = ("openssh-sftp-server", "openssh-client")
ANDROID = ("mksh", "toybox")


@dataclass(frozen=True)
class Tools:
    """Where they are.

    Attributes:
        path: the folder of all.
    """

    path: Path

    @property
    def sshd(self) -> Path:
        return self.path / "here/usr/sbin/sshd"

    @property
    def adb(self) -> Path:
        return self.path / "here/usr/lib/android-sdk/platform-tools/adb"

    @property
    def libraries(self) -> str:
        """For ``LD_LIBRARY_PATH``."""
        folder = self.path / "here/usr/lib/x86_64-linux-gnu"
        return f"{folder / 'android'}:{folder}"

    @property
    def ssh_layer(self) -> Path:
        """A board's sftp server and scp."""
        return self.path / "ssh"

    @property
    def android_layer(self) -> Path:
        """What makes a board look like a phone to adb."""
        return self.path / "android"


def unpacked_tools(cache: Path | None = None, waiting: Callable[[], None] = lambda: None) -> Tools:
    """Returns the tools, fetched now unless they are in the cache.

    Raises:
        MeasurementError: a step failed.
    """
    here = Path(__file__).parent
    recipe = b"".join((here / name).read_bytes() for name in ("tools.py", "android.py"))
    folder = (cache or boards_folder()) / f"tools-{hashlib.sha256(recipe).hexdigest()[:16]}"
    return Tools(made_once(folder, _make, whole=lambda path: (path / "done").exists(), waiting=waiting))


def _make(folder: Path) -> None:
    steps = Steps()
    wanted = [f"{name}:amd64" for name in HERE]
    debs = fetch_debs([*wanted, *SSH, *ANDROID], folder / "work", steps, resolve=False)
    assert len(debs) == len(HERE) + len(SSH) + len(ANDROID)
    for layer, names, architecture in (("here", HERE, "amd64"), ("ssh", SSH, "arm64"), ("android", ANDROID, "arm64")):
        (folder / layer).mkdir()
        chosen = [deb for deb in debs if deb.name.split("_")[0] in names and deb.stem.endswith(f"_{architecture}")]
        assert len(chosen) == len(names)
        unpack_debs(chosen, folder / layer, steps)
    write_android(folder / "android")
    for layer in ("ssh", "android"):
        close_layer(folder / layer)
    remove_folder(folder / "work")
    (folder / "done").touch()
