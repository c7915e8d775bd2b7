"""The files of emulated boards: read-only layers in a cache, and a record of every package in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from runtime import ArtifactError, Document

from .cores import CoreName

EMULATOR = "usr/bin/qemu-aarch64"
PLUGIN = "opt/pocketvit/libcounts.so"
ENGINES_PLACE = "usr/local/lib/python3.11/dist-packages"

_RECIPE = ("build.py", "fetch.py", "cores.py", "base.py", "debs.txt", "wheels.txt", "counts.c")


@dataclass(frozen=True)
class Package:
    """A package in the layers.

    Attributes:
        file: name of the file, with the version.
        sha256: SHA-256 of the file.
    """

    file: str
    sha256: str


@dataclass(frozen=True)
class Record:
    """Everything that went into the layers.

    Attributes:
        key: digest of the recipe.
        packages: Debian's packages and the wheels.
        plugin_sha256: SHA-256 of the source of the counting plugin.
        versions: versions of the important programs, as they report them on the board.
    """

    key: str
    packages: tuple[Package, ...]
    plugin_sha256: str
    versions: dict[str, str]


RECORD_DOCUMENT, RECORD = Document("pocketvit-emulated-boards", 1, Record), "record.json"


@dataclass(frozen=True)
class Boards:
    """A base from which any number of boards can be started at once.

    Attributes:
        path: folder of the layers.
        record: content of the layers.
    """

    path: Path
    record: Record

    @property
    def userland(self) -> Path:
        """Layer with Debian for arm64 and Python, the emulator and the counting plugin."""
        return self.path / "userland"

    @property
    def engines(self) -> Path:
        """Layer with numpy, LiteRT and ONNX Runtime."""
        return self.path / "engines"

    def core(self, name: CoreName) -> Path:
        """Returns the layer with the files of a core."""
        return self.path / "cores" / name


def boards_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder of all bases: ``$POCKETVIT_BOARDS``, or one in the user's cache folder.

    Args:
        environ: environment variables.
    """
    chosen = environ.get("POCKETVIT_BOARDS")
    if chosen:
        return Path(chosen).expanduser().absolute()
    cache = environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache").absolute() / "pocketvit" / "boards"


def recipe_key(folder: Traversable | None = None) -> str:
    """Returns a digest of everything that determines a base: its code, the pinned versions and the plugin's source.

    Args:
        folder: folder with those files; by default this package.
    """
    folder = folder or files(__package__)
    digest = hashlib.sha256()
    for name in _RECIPE:
        data = folder.joinpath(name).read_bytes()
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]


def read_boards(path: Path) -> Boards | None:
    """Returns the base in a folder; None if there is none or it is incomplete."""
    try:
        return Boards(path, RECORD_DOCUMENT.read(path / RECORD))
    except ArtifactError:
        return None
