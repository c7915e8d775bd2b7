"""Results of several made-up devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from device_bench.documents.figures import MemoryUse
from device_bench.documents.instructions import Instructions
from device_bench.documents.request import BenchRequest
from device_bench.documents.results import BenchResult, FileResult
from device_bench.targets.fleet import DeviceFailure

NO_TIME = "an emulated board's memory is not its own"


def request(folder: Path) -> BenchRequest:
    """Returns a request for one file, which need not be there."""
    return BenchRequest(files=(folder / "a.onnx",))


def emulated(bench: BenchResult, target: str = "emu:pi4", giga: Sequence[float] = ()) -> BenchResult:
    """Returns the files of ``bench`` as an emulated board has them: instructions, and no time.

    Args:
        bench: of a real machine.
        target: the board's name.
        giga: 10^9 instructions of each file; by default 1, 2, 3 and so on.
    """
    files = [
        _counted(own, count) for own, count in zip(bench.files, giga or range(1, 1 + len(bench.files)), strict=True)
    ]
    return replace(bench, target=target, files=tuple(files), peaks=(), notes=(), failures=(), emulated=True)


def failure(target: str, what: str = "it is switched off") -> DeviceFailure:
    return DeviceFailure(target, what, "2025-01-02T03:04:05+00:00", "0.1.0")


def _counted(own: FileResult, giga: float) -> FileResult:
    every = round(giga * 1e9)
    simd, ldst, branch = every * 6 // 10, every // 5, every // 10
    counts = [(count, count) for count in (every, simd, ldst, branch, every - simd - ldst - branch, simd // 4)]
    return replace(
        own,
        measurements=(),
        memory=MemoryUse(None, None, NO_TIME),
        startup=None,
        throughput=(),
        energy=None,
        notes=(),
        instructions=Instructions("cortex-a72", *counts),
    )
