"""Keeps a folder for one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from runtime import RunFolderError, storage_errors

LOCK = ".lock"
"""Name of the lock file, which stays in the folder."""


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Makes a folder unless it is there, and holds its lock; a process that ends in any way lets go of it.

    Args:
        folder: the folder.
        what: what another process does that holds it, for the error text.

    Raises:
        RunFolderError: another process holds it.
        StorageError: there is no space, or no permission to write.
    """
    lock = FileLock(folder / LOCK)
    try:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
    except Timeout:
        raise RunFolderError(f"Another process is {what} {folder}", fix="Wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()
