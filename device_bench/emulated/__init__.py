"""Emulated arm64 boards: real engines and kernels, real files and processes, exact counts, and no real time."""

from .base import Boards, boards_folder
from .board import PI, ROOT, Account, Board, Process
from .build import build_boards
from .cores import CORES, MARKER, Core, CoreName
from .count import RUNS, count_file, count_instructions
from .gpu import GpuParity, GpuRun, gpu_parity, run_on_gpu
from .host import Lack, missing_for_boards
from .start import emulated_board
from .target import bench_emulated, check_emulated
from .vulkan import SoftwareVulkan, missing_for_vulkan, software_vulkan

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
    "GpuParity",
    "GpuRun",
    "Lack",
    "Process",
    "SoftwareVulkan",
    "bench_emulated",
    "boards_folder",
    "build_boards",
    "check_emulated",
    "count_file",
    "count_instructions",
    "emulated_board",
    "gpu_parity",
    "missing_for_boards",
    "missing_for_vulkan",
    "run_on_gpu",
    "software_vulkan",
]
