"""Emulated arm64 boards: they run real engines and count instructions exactly, but have no meaningful times."""

from .base import Boards, boards_folder
from .board import PI, ROOT, Account, Board, Process
from .build import build_boards
from .cores import CORES, MARKER, Core, CoreName
from .count import RUNS, count_file, count_instructions
from .host import Lack, missing_for_boards
from .start import emulated_board
from .target import bench_emulated, check_emulated

__all__ = [
    "CORES",
    "MARKER",
    "PI",
    "ROOT",
    "RUNS",
    "Account",
    "Board",
    "Boards",
    "Core",
    "CoreName",
    "Lack",
    "Process",
    "bench_emulated",
    "boards_folder",
    "build_boards",
    "check_emulated",
    "count_file",
    "count_instructions",
    "emulated_board",
    "missing_for_boards",
]
