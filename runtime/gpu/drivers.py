"""Which graphics drivers LiteRT's GPU path can use on this machine: a GPU's, or one that computes on the CPU.

SwiftShader, the software driver, comes with Chromium and Chrome. PocketViT also keeps a copy in its cache where
``pocketvit verify --with gpu`` has fetched it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from ctypes.util import find_library
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import UnsupportedTargetError

DRIVER, MANIFEST, LOADER = "libvk_swiftshader.so", "vk_swiftshader_icd.json", "libvulkan.so.1"
"""Files of the software driver: the driver, its manifest, and the loader of Vulkan drivers."""

CHOICE = "POCKETVIT_GPU"
"""Environment variable that limits the choice: ``none``, ``software``, or ``any`` as without it."""

NO_DRIVER_FIX = (
    "Install Chromium, which brings a Vulkan driver for machines without a GPU "
    "(`apt-get install chromium libvulkan1`), or the GPU's own Vulkan driver"
)

_CHOICES = ("any", "software", "none")
_INSTALLED = ("usr/lib/chromium", "usr/lib/chromium-browser", "usr/lib64/chromium-browser", "opt/google/chrome")
_DEVICES = ("dev/dri/renderD*", "dev/nvidia[0-9]*", "dev/dxg")
_OWN_VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")


@dataclass(frozen=True)
class GpuDriver:
    """A way for a process to reach a graphics driver.

    Attributes:
        title: of the driver in texts.
        variables: environment variables with which a process finds it.
    """

    title: str
    variables: Mapping[str, str] = field(default_factory=dict)


def gpu_drivers(
    cache: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
    system: str = platform.system(),
) -> tuple[GpuDriver, ...]:
    """Returns the drivers that may work here, the best first; nothing is run to find them.

    Args:
        cache: folder of the fetched drivers; by default that of this user.
        environ: environment variables.
        root: where the file system is mounted.
        system: name of the operating system, as ``platform.system`` gives it.

    Raises:
        UnsupportedTargetError: ``POCKETVIT_GPU`` has another value than ``any``, ``software`` or ``none``.
    """
    choice = _choice(environ)
    if choice == "none":
        return ()
    own = GpuDriver("this machine's GPU")
    if system != "Linux":
        return (own,) if choice == "any" else ()
    given = any(environ.get(name) for name in _OWN_VARIABLES)
    real = given or any(True for pattern in _DEVICES for _ in root.glob(pattern))
    folders = [*(root / name for name in _INSTALLED), *fetched_folders(cache or fetched_drivers(environ))]
    whole = [folder for folder in folders if all((folder / name).is_file() for name in (DRIVER, MANIFEST))]
    software = [software_driver(folder, environ) for folder in whole]
    return (own, *software) if real and choice == "any" else tuple(software)


def gpu_allowed(environ: Mapping[str, str] = os.environ) -> bool:
    """Returns whether ``POCKETVIT_GPU`` allows drivers at all.

    Args:
        environ: environment variables.

    Raises:
        UnsupportedTargetError: ``POCKETVIT_GPU`` has another value than ``any``, ``software`` or ``none``.
    """
    return _choice(environ) != "none"


def software_driver(folder: Path, environ: Mapping[str, str] = os.environ) -> GpuDriver:
    """Returns the software driver in a folder.

    Args:
        folder: with ``DRIVER`` and ``MANIFEST``, and ``LOADER`` where the system has none.
        environ: the environment that the variables are added to.
    """
    variables = {"VK_DRIVER_FILES": str(folder / MANIFEST)}
    if (folder / LOADER).is_file() and find_library("vulkan") is None:
        others = environ.get("LD_LIBRARY_PATH")
        variables["LD_LIBRARY_PATH"] = f"{folder}{os.pathsep}{others}" if others else str(folder)
    return GpuDriver(f"SwiftShader in {folder}", variables)


def fetched_drivers(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder of fetched drivers: below ``$POCKETVIT_BOARDS``, or in the user's cache folder.

    Args:
        environ: environment variables.
    """
    chosen, cache = environ.get("POCKETVIT_BOARDS"), environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute() / "vulkan"
    return (Path(cache) if cache else Path.home() / ".cache").absolute() / "pocketvit" / "boards" / "vulkan"


def fetched_folders(cache: Path) -> list[Path]:
    """Returns the folders of whole fetched drivers, the newest first."""
    whole = [path.parent for path in cache.glob("*/record.json")]
    return sorted(whole, key=lambda folder: folder.stat().st_mtime, reverse=True)


def _choice(environ: Mapping[str, str]) -> str:
    choice = environ.get(CHOICE) or "any"
    if choice not in _CHOICES:
        raise UnsupportedTargetError(f"{CHOICE} cannot be read", expected=", ".join(_CHOICES), got=repr(choice))
    return choice
