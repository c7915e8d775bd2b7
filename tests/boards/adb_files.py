"""The ``sync`` service of the adb daemon: a board's files, listed, read and written."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path
from typing import Protocol

from device_bench.targets.emulated import Board

_REQUEST = struct.Struct("<4sI")
_CHUNK = 1 << 16
_MOST_LINKS = 40


class Pipe(Protocol):
    """Both directions of the service."""

    async def exactly(self, size: int) -> bytes:
        """Returns the next ``size`` bytes."""

    async def write(self, data: bytes) -> None:
        """Sends bytes."""


def inside(root: Path, path: str) -> Path:
    """Returns where a path of the board is from here; the last part is not followed if it is a link.

    Neither ``..`` nor a link leads out of ``root``: both are followed as they are on the board.

    Raises:
        OSError: there are too many links.
    """
    waiting = [part for part in reversed(path.split("/")) if part]
    found: list[str] = []
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            found = found[:-1]
            continue
        if part == ".":
            continue
        here = root.joinpath(*found, part)
        if waiting and here.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = str(here.readlink())
            found = [] if target.startswith("/") else found
            waiting += [inner for inner in reversed(target.split("/")) if inner]
            continue
        found.append(part)
    return root.joinpath(*found)


async def serve_files(board: Board, pipe: Pipe) -> None:
    """Answers requests until the client quits.

    Raises:
        EOFError: the client went.
    """
    while True:
        name, size = _REQUEST.unpack(await pipe.exactly(_REQUEST.size))
        if name == b"QUIT":
            return
        path = (await pipe.exactly(size)).decode()
        if name == b"STAT":
            await pipe.write(b"STAT" + _numbers(board.root, path))
        elif name == b"LIST":
            await _list(board.root, path, pipe)
        elif name == b"RECV":
            await _receive(board.root, path, pipe)
        elif name == b"SEND":
            await _send(board, path, pipe)
        else:
            await _fail(pipe, "unknown request")
            return


def _numbers(root: Path, path: str) -> bytes:
    """Returns mode, size and time; zeros for what is not there."""
    try:
        # a slash behind asks whether a link leads to a folder
        found = (_followed(root, path) if path.endswith("/") else inside(root, path)).lstat()
    except OSError:
        return bytes(12)
    if path.endswith("/") and not stat.S_ISDIR(found.st_mode):
        return bytes(12)
    return struct.pack("<3I", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))


async def _list(root: Path, path: str, pipe: Pipe) -> None:
    try:
        names = sorted(entry.name for entry in _followed(root, path).iterdir())
    except OSError:
        names = []
    for name in names:
        data = os.fsencode(name)
        await pipe.write(b"DENT" + _numbers(root, f"{path}/{name}") + struct.pack("<I", len(data)) + data)
    await pipe.write(b"DONE" + bytes(16))


async def _receive(root: Path, path: str, pipe: Pipe) -> None:
    try:
        with _followed(root, path).open("rb") as file:
            while data := file.read(_CHUNK):
                await pipe.write(b"DATA" + struct.pack("<I", len(data)) + data)
    except OSError as error:
        await _fail(pipe, f"{path}: {error.strerror}")
    else:
        await pipe.write(b"DONE" + bytes(4))


async def _send(board: Board, request: str, pipe: Pipe) -> None:
    """Takes a file; where it cannot be written, takes what is left of it and says why."""
    path, _, mode = request.rpartition(",")
    file, failure = None, ""
    try:
        target = _followed(board.root, path)
        _make_folders(board.root, target.parent)
        _check_writable(board, target)
        file = target.open("wb")
    except OSError as error:
        failure = f"couldn't create file: {error.strerror}"
    try:
        while True:
            name, size = _REQUEST.unpack(await pipe.exactly(_REQUEST.size))
            if name == b"DONE":
                break
            data = await pipe.exactly(size)
            try:
                if file is not None and not failure:
                    file.write(data)
                    file.flush()
            except OSError as error:
                failure = f"write failed: {error.strerror}"
    finally:
        if file is not None:
            file.close()
    if failure:
        if file is not None:
            target.unlink()
        await _fail(pipe, failure)
        return
    allowed = int(mode) & 0o700
    target.chmod(allowed | allowed >> 3 | allowed >> 6)
    os.utime(target, (size, size))
    await pipe.write(b"OKAY" + bytes(4))


def _followed(root: Path, path: str) -> Path:
    """Returns where a path is, also when its last part is a link."""
    return inside(root, f"{path}/.")


def _make_folders(root: Path, folder: Path) -> None:
    if not folder.exists():
        _make_folders(root, folder.parent)
        _check_owner_may_write(folder.parent)
        folder.mkdir()


def _check_writable(board: Board, target: Path) -> None:
    # from here all can be written; on the board only what its user may
    if board.account.number:
        _check_owner_may_write(target if target.exists() else target.parent)


def _check_owner_may_write(path: Path) -> None:
    if not path.stat().st_mode & stat.S_IWUSR:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


async def _fail(pipe: Pipe, text: str) -> None:
    data = text.encode()
    await pipe.write(b"FAIL" + struct.pack("<I", len(data)) + data)
