"""Four emulated boards benched side by side, against each of them alone.

    python benchmarks/boards_together.py [--file FILE]

Emulation computes, so that four boards on two cores cannot take as long as one. What the cores force is the core time
of all four benches, measured while each ran alone, over the number of cores; what is left is the fleet's own doing:

    ratio = time together / max(longest alone, core time of all / cores)
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from compress.model.load import ModelSpec, load_model
from device_bench.documents.request import BenchRequest
from device_bench.targets.base import Device
from device_bench.targets.emulated import build_boards
from device_bench.targets.fleet import bench_fleet
from export.formats.tflite import timing_bytes

BOARDS = (
    Device("emu:pi4", name="first-pi4"),
    Device("emu:pi5", name="first-pi5"),
    Device("emu:pi4", name="second-pi4"),
    Device("emu:pi5", name="second-pi5"),
)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="to bench; by default a ViT-Tiny for 32 pixels")
    options = parser.parse_args()
    build_boards()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        file = options.file or Path(scratch) / "tiny.tflite"
        if options.file is None:
            plan = load_model(ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1), 10, 0).plan
            file.write_bytes(timing_bytes(plan, "fp32"))
        request = BenchRequest((file,))
        print("| boards | time | core time |")
        print("|---|---:|---:|")
        alone = [measured(request, board) for board in BOARDS]
        together = measured(request, *BOARDS)
    longest, work = max(wall for wall, _ in alone), sum(core for _, core in alone)
    least = max(longest, work / cores)
    print(
        f"\nLongest alone {longest:.1f} s, core time of all {work:.1f} s on {cores} cores: at least {least:.1f} s. "
        f"Together {together[0]:.1f} s, ratio {together[0] / least:.2f}."
    )


def measured(request: BenchRequest, *boards: Device) -> tuple[float, float]:
    """Returns the time and the core time of a bench on ``boards``, s, and prints them."""
    begun, before = time.monotonic(), core_time_s()
    fleet = bench_fleet(boards, request)
    wall, core = time.monotonic() - begun, core_time_s() - before
    if not fleet.complete:
        raise SystemExit(f"A board failed: {fleet.failures}")
    print(f"| {', '.join(board.name for board in boards)} | {wall:.1f} s | {core:.1f} s |", flush=True)
    return wall, core


def core_time_s() -> float:
    """Returns the core time that this process and those it waited for have used, s."""
    own = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in own)


if __name__ == "__main__":
    main()
