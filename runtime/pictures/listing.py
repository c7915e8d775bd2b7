"""The picture files below a folder, however deep, and why other files are left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from runtime.errors import DataError

IMAGE_SUFFIXES = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
    )
)
"""Endings of names of pictures, in lower case; in a name they may have any case."""

_MACHINE_FOLDERS = frozenset(
    ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__")
)
"""Folders that systems and tools make by themselves, in lower case; some hold copies of the user's pictures."""

_MACHINE_FILES = frozenset(("thumbs.db", "desktop.ini"))
"""Files that are ignored without a report. Names that begin with a dot are hidden."""


@dataclass(frozen=True)
class PictureFile:
    """A picture file.

    Attributes:
        path: of it.
        parts: the names from the folder that was searched down to the file.
        size_bytes: of it.
        identity: device and inode, equal for two names of one file.
    """

    path: Path
    parts: tuple[str, ...]
    size_bytes: int
    identity: tuple[int, int]

    @property
    def name(self) -> str:
        """The path from the folder that was searched, with slashes."""
        return "/".join(self.parts)


@dataclass(frozen=True)
class PictureTree:
    """What a folder holds.

    Attributes:
        files: the pictures, sorted by their parts.
        folders: the parts of every visible folder, sorted.
        left_out: how many files were left out, by reason.
    """

    files: tuple[PictureFile, ...]
    folders: tuple[tuple[str, ...], ...]
    left_out: Mapping[str, int]


def list_pictures(root: Path) -> PictureTree:
    """Lists the pictures below a folder; links to files and folders are followed.

    Left out, and counted where it may matter, are hidden files and folders (a dot at the start of the name), what
    systems leave behind (``__MACOSX``, ``Thumbs.db``), files with another ending than ``IMAGE_SUFFIXES``, and
    links that lead nowhere.

    Args:
        root: the folder.

    Raises:
        DataError: a folder cannot be read.
    """
    walk = _Walk()
    walk.visit(root, (), frozenset(_identity(root)))
    files = tuple(sorted(walk.files, key=lambda file: file.parts))
    return PictureTree(files, tuple(sorted(walk.folders)), dict(walk.left_out))


def excluded_in_words(left_out: Mapping[str, int]) -> str:
    """Returns counts by reason as a text, the largest first; empty where nothing was left out.

    >>> excluded_in_words({"hidden": 2, "ending in .heic": 3})
    '5 left out: 3 ending in .heic, 2 hidden'
    """
    parts = [f"{count:,} {reason}" for reason, count in sorted(left_out.items(), key=lambda own: (-own[1], own[0]))]
    shown = parts if len(parts) <= 6 else [*parts[:6], f"and {len(parts) - 6} more reasons"]
    return f"{sum(left_out.values()):,} left out: {', '.join(shown)}" if parts else ""


class _Walk:
    """A walk through folders."""

    def __init__(self) -> None:
        self.files: list[PictureFile] = []
        self.folders: list[tuple[str, ...]] = []
        self.left_out: Counter[str] = Counter()

    def visit(self, folder: Path, parts: tuple[str, ...], above: frozenset[tuple[int, int]]) -> None:
        """Lists a folder and those in it; ``above`` are the folders it lies in, which a link may lead back to."""
        for entry in _entries(folder):
            own = (*parts, entry.name)
            try:
                is_folder, status = entry.is_dir(), entry.stat()
            except FileNotFoundError:
                self.left_out["broken links"] += 1
            except OSError:  # a link that leads to itself
                self.left_out["links that lead nowhere"] += 1
            else:
                identity = (status.st_dev, status.st_ino)
                if not is_folder:
                    self._file(Path(entry.path), own, status)
                elif identity in above:
                    self.left_out["links back to a folder above"] += 1
                elif _is_hidden(entry.name):
                    hidden = sum(1 for name in _names_below(entry.path) if _is_picture(name))
                    self.left_out.update(
                        {f"in hidden or system folders ({_shown(entry.name)})": hidden} if hidden else {}
                    )
                else:
                    self.folders.append(own)
                    self.visit(Path(entry.path), own, above | {identity})

    def _file(self, path: Path, parts: tuple[str, ...], status: os.stat_result) -> None:
        name = parts[-1]
        if name.lower() in _MACHINE_FILES or name.startswith("."):
            # a hidden file with the suffix of a picture is reported; .DS_Store is not
            if _is_picture(name):
                self.left_out["hidden files"] += 1
        elif not _is_picture(name):
            ending = Path(name).suffix.lower()
            self.left_out[f"ending in {_shown(ending)}" if ending else "without an ending"] += 1
        elif not S_ISREG(status.st_mode):
            self.left_out["that are no regular files"] += 1
        else:
            self.files.append(PictureFile(path, parts, status.st_size, (status.st_dev, status.st_ino)))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(
            f"The folder {folder} cannot be read", got=error.strerror, fix="Change its permissions, or move it away"
        ) from error


def _names_below(folder: str) -> Iterator[str]:
    for _, _, names in os.walk(folder):
        yield from names


def _identity(folder: Path) -> tuple[tuple[int, int], ...]:
    try:
        status = folder.stat()
    except OSError:
        return ()
    return ((status.st_dev, status.st_ino),)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _MACHINE_FOLDERS


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _shown(name: str) -> str:
    """Returns a name as a terminal can show it, however it is encoded."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
