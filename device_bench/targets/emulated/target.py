"""Target ``emu``: answers and instruction counts of files on an emulated board, which has no times."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BenchResult, FileResult
from device_bench.targets.base import Device, Target
from device_bench.targets.finding import Finding
from device_bench.targets.remote.bench import bench_over_link
from runtime import MeasurementError, Progress, silent

from .base import boards_folder, read_boards, recipe_key
from .board import Board
from .cores import core_named
from .count import count_file
from .host import missing_for_boards
from .start import emulated_board


def bench_emulated(
    device: Device, request: BenchRequest, progress: Progress = silent, *, stop: threading.Event | None = None
) -> BenchResult:
    """Runs files on a fresh emulated board and counts the instructions of each on one thread.

    Args:
        device: device whose address is ``emu:pi4`` or ``emu:pi5``.
        request: files and images; times in it are not measured.
        progress: reports the files that are done.
        stop: once it is set, all work ends.

    Raises:
        UnsupportedTargetError: there is no such core.
        MeasurementError: emulated boards cannot be made or run here.
    """
    core = core_named(device.place).name
    with emulated_board(core, progress=progress) as board:
        link = replace(board.link, label=device.label)
        result = bench_over_link(device, link, request, progress, stop=stop)
        files = {file.name: file for file in request.files}
        counted = []
        for number, one in enumerate(result.files):
            progress("count", number, len(result.files), one.file)
            counted.append(_with_instructions(board, one, files[one.file]))
        progress("count", len(result.files), len(result.files))
    return replace(result, files=tuple(counted))


def _with_instructions(board: Board, result: FileResult, file: Path) -> FileResult:
    try:
        return replace(result, instructions=count_file(board, file))
    except MeasurementError as error:
        return replace(result, notes=(*result.notes, str(error)))


def check_emulated(device: Device) -> tuple[Finding, ...]:
    """Returns what this machine lacks for emulated boards; if nothing, whether their files exist already.

    Raises:
        UnsupportedTargetError: there is no such core.
    """
    core = core_named(device.place)
    lacks = [Finding(device.label, lack.what, None, lack.fix) for lack in missing_for_boards()]
    if lacks:
        return tuple(lacks)
    made = read_boards(boards_folder() / recipe_key()) is not None
    files = f"in {boards_folder()}" if made else "made at the first use, in about 15 s"
    return (
        Finding(device.label, "processor", f"{core.emulator_cpu}, emulated: answers and counts, no time"),
        Finding(device.label, "files", files),
    )


EMULATED = Target(bench_emulated, check_emulated, "emulated boards", separate=True)
