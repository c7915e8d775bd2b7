"""Gives files that have the same name, as in several runs of a model, distinct names for tables."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from runtime import DataError, manifest_path

_COMMON = "artifacts"
"""The folder of files in every run, which does not distinguish them."""


@contextmanager
def distinct_names(files: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Yields the files; files that share a name become links named after their folders.

    The links stand in a folder of their own, with the manifests beside them, for as long as the block runs.

    Raises:
        DataError: a file is named twice.
    """
    twice = [path for path, count in Counter(path.resolve() for path in files).items() if count > 1]
    if twice:
        raise DataError(f"The file {twice[0]} is named twice", expected="each file once")
    counts = Counter(path.name for path in files)
    if max(counts.values(), default=0) < 2:
        yield tuple(files)
        return
    with tempfile.TemporaryDirectory(prefix="pocketvit-") as folder:
        links = []
        for path, name in zip(files, _names(files), strict=True):
            needed = counts[path.name] > 1 and path.is_file()  # one that is missing is named as it was given
            links.append(Path(folder) / name if needed else path)
            for source in (path, manifest_path(path)) if needed else ():
                if source.is_file():
                    _same_bytes(source, Path(folder) / source.name.replace(path.name, name))
        yield tuple(links)


def _same_bytes(source: Path, target: Path) -> None:
    """Links ``target`` to the bytes of ``source``, or copies them to another file system.

    No symbolic link: whoever resolves it would find the old name again.
    """
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _names(files: Sequence[Path]) -> list[str]:
    """Returns each file's name, preceded by as many of its folders as make all names distinct."""
    folders = [[part for part in path.resolve().parts[1:-1] if part != _COMMON] for path in files]
    deepest = max(map(len, folders))
    for depth in range(1, deepest + 1):
        names = ["-".join([*own[-depth:], path.name]) for own, path in zip(folders, files, strict=True)]
        if len(set(names)) == len(names):
            return names
    return [f"{number}-{path.name}" for number, path in enumerate(files, 1)]
