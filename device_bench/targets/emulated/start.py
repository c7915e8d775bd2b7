"""Starts an emulated board from the base in the cache, and makes the base if it is absent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from runtime import Progress, silent

from .base import Boards
from .board import DISK_BYTES, PI, Account, Board, open_board
from .build import build_boards
from .cores import CoreName


@contextmanager
def emulated_board(
    core: CoreName,
    *,
    boards: Boards | None = None,
    disk_bytes: int = DISK_BYTES,
    engines: bool = True,
    layers: Sequence[Path] = (),
    account: Account = PI,
    progress: Progress = silent,
) -> Iterator[Board]:
    """Starts a board and yields it; at the end its processes are killed and its files removed.

    Args:
        core: ``pi4`` (Cortex-A72) or ``pi5`` (Cortex-A76).
        boards: base of the board; by default ``build_boards()``.
        disk_bytes: size of its disk, bytes; it takes memory of this machine only as it fills.
        engines: whether numpy, LiteRT and ONNX Runtime are on it.
        layers: folders whose files cover those of the base, the first on top.
        account: user that runs commands.
        progress: reports each step while the base is made.

    Raises:
        UnsupportedTargetError: there is no such core.
        MeasurementError: this machine cannot make or run a board; the message names what is missing.
        StorageError: there is no space, or no permission to write.
    """
    base = build_boards(progress=progress) if boards is None else boards
    with open_board(base, core, disk_bytes=disk_bytes, engines=engines, layers=layers, account=account) as board:
        yield board
