"""Counts the instructions that an engine executes for a file on an emulated core; the counts are reproducible."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from device_bench.documents.instructions import CLASSES, Instructions
from device_bench.targets.remote.bundle import bundle
from runtime import ArtifactError, MeasurementError, Progress, silent, storage_errors

from .base import Boards
from .board import Board
from .cores import CoreName
from .marks import between
from .start import emulated_board

RUNS = 2
"""Counted invokes of each file; the allocator sometimes adds a few hundred instructions to one of them."""

_FOLDER = "home/pi/counts"
_PYTHON = "/usr/bin/python3.11"
# nothing that starts threads, writes files or depends on chance: all of it would be counted. And the allocator keeps
# what is freed at hand: how long it would search depends on all that was ever allocated
_VARIABLES = {
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=2000",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
}


def count_instructions(
    core: CoreName,
    files: Sequence[Path],
    runs: int = RUNS,
    *,
    boards: Boards | None = None,
    timeout_s: float = 1800.0,
    progress: Progress = silent,
) -> dict[str, Instructions]:
    """Returns the instructions of one image on one thread, by the name of the file.

    The first invoke is a warm-up and not counted. LiteRT runs ``.tflite`` files, ONNX Runtime ``.onnx`` files. The
    input is the same each time.

    Args:
        core: ``pi4`` (Cortex-A72) or ``pi5`` (Cortex-A76).
        files: files with different names.
        runs: counted invokes of each file, 1 to 98.
        boards: base of the board; by default ``build_boards()``.
        timeout_s: longest time for each file, s.
        progress: reports each file.

    Raises:
        MeasurementError: emulated boards cannot be made or run here, two files have the same name, ``runs`` cannot
            be, or a file cannot be counted.
        ArtifactError: a file does not exist.
    """
    names = [file.name for file in files]
    if len(set(names)) != len(names):
        raise MeasurementError("Files that are counted together need different names", got=", ".join(names))
    if not 1 <= runs <= 98:
        raise MeasurementError("runs must be 1 to 98", got=runs)
    for file in files:
        if not file.is_file():
            raise ArtifactError(f"The model file {file} does not exist")
    counted = {}
    with emulated_board(core, boards=boards, progress=progress) as board:
        for number, file in zip(count(), files):
            progress(f"counting on emu:{core}", number, len(files), file.name)
            counted[file.name] = count_file(board, file, runs, timeout_s=timeout_s)
    progress(f"counting on emu:{core}", len(files), len(files))
    return counted


def count_file(board: Board, file: Path, runs: int = RUNS, *, timeout_s: float = 1800.0) -> Instructions:
    """Counts the instructions of one file on a running board; see ``count_instructions``.

    Args:
        board: board with engines.
        file: a ``.tflite`` or ``.onnx`` file.
        runs: counted invokes.
        timeout_s: longest time, s.

    Raises:
        MeasurementError: the file cannot be run there, or not in that time.
    """
    folder = board.root / _FOLDER
    # one name for all: what the length of a name moves in memory would be counted, too
    model = f"model{file.suffix}"
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
        (folder / "packages.zip").write_bytes(bundle())
        shutil.copyfile(file, folder / model)
    argv = [_PYTHON, "-m", "device_bench.metrics.count_invokes", f"/{_FOLDER}/{model}", str(runs)]
    variables = {**_VARIABLES, "PYTHONPATH": f"/{_FOLDER}/packages.zip"}
    try:
        done = board.counted(argv, variables, timeout_s=timeout_s)
    except MeasurementError as error:
        raise MeasurementError(f"The instructions of {file.name} could not be counted: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if [mark.number for mark in done.marks] != list(range(runs + 2)) or "engine" not in json.loads(done.output):
        raise MeasurementError(f"The instructions of {file.name} could not be counted: not all invokes were marked")
    per_class = zip(*between(done.marks)[1:], strict=True)
    return Instructions(board.core.emulator_cpu, **dict(zip(CLASSES, per_class, strict=True)))
