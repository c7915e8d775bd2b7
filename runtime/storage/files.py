"""Files that are whole or absent: atomic writes, hashes and JSON text."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.errors import StorageError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EIO),
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns an ``OSError`` while writing below ``path`` into a ``StorageError`` with a fix.

    Raises:
        StorageError: no space, quota or permission, a file where a folder should be, a name too long, or
            a failing disk.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageError(
                f"Cannot write {path}: no space left",
                got=error.strerror,
                fix="Free some disk space or choose another folder; nothing was half-written",
            ) from error
        if error.errno in _REFUSED:
            raise StorageError(
                f"Cannot write {path}", got=error.strerror, fix="Choose a folder you may write to"
            ) from error
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of ``path``, and renames it to ``path`` when the block succeeds.

    The content is synced to disk before the rename, so a reader sees the old file or the whole new
    one. When the block raises, the temporary file is removed and ``path`` is untouched.

    Raises:
        StorageError: there is no space, or no permission to write.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # else it would hide why the write failed
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable; a no-op where folders cannot be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` atomically.

    Raises:
        StorageError: there is no space, or no permission to write.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def dumps(document: Any) -> str:
    """Returns ``document`` as JSON text; NaN and infinity are refused.

    Raises:
        ValueError: a float is not finite.
    """
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
