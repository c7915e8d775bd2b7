"""Makes a folder once: complete or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from runtime import MeasurementError, storage_errors


def made_once(
    folder: Path, make: Callable[[Path], None], *, whole: Callable[[Path], bool], waiting: Callable[[], None]
) -> Path:
    """Returns a folder, and makes it if it is absent; other processes that ask meanwhile wait.

    Args:
        folder: path of the folder; it is made in the same parent under a temporary name.
        make: fills an empty folder.
        whole: returns whether a folder is complete.
        waiting: called when another process is making it.

    Raises:
        StorageError: there is no space, or no permission to write.
        MeasurementError: what is in its place cannot be removed.
    """
    if whole(folder):
        return folder
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / "lock", waiting):
            if whole(folder):
                return folder
            for rest in (folder, *folder.parent.glob("making-*")):
                remove_folder(rest)
            made = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
            try:
                made.chmod(0o755)
                make(made)
                made.replace(folder)
            finally:
                remove_folder(made)
    return folder


def remove_folder(folder: Path) -> None:
    """Removes a folder, even if it is read-only.

    Raises:
        MeasurementError: it cannot be removed.
    """
    for inner, _, _ in os.walk(folder):
        Path(inner).chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise MeasurementError(f"{folder} is in the way and cannot be removed", fix=f"Remove it: rm -rf {folder}")


@contextlib.contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    import fcntl  # not on Windows, which must still import this module

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
