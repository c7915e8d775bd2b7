"""LiteRT's CompiledModel on the CPU beside its Interpreter: time of an image, and the same answers.

    python benchmarks/compiled_model.py [FILE.tflite…] [--seconds 20] [--repeats 3]

Both are loaded in one fresh process, with one thread each, and take turns in a random order; that is repeated in
further processes, in which memory lies otherwise. A turn is an image from an array to the logits in an array. The ratio
is of the medians of all rounds, with a 95 % bootstrap interval over rounds. Loading is the least time of all processes,
with LiteRT's libraries. Without files it times the shapes of the default model and of DINOv2 ViT-S at 98 px with random
weights.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from device_bench import format
from device_bench.timing.inputs import random_input
from device_bench.timing.stats import median_interval, ratio_of_medians
from runtime import MeasurementError, PocketVitError, open_engine

NAMES = ("interpreter", "compiled")

_WARMUP = 20
_MOST_ROUNDS = 5000


def main() -> None:
    """Prints a table of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help=".tflite files")
    parser.add_argument("--seconds", type=float, default=20.0, help="time of each file in each process")
    parser.add_argument("--repeats", type=int, default=3, help="processes")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        options.child.write_text(json.dumps(sample(options.files[0], options.seconds)), encoding="utf-8")
        return
    try:
        with tempfile.TemporaryDirectory() as scratch:
            show(options.files or default_files(Path(scratch)), options.seconds, options.repeats)
    except PocketVitError as error:
        raise SystemExit(f"Error: {error}") from None


def default_files(folder: Path) -> list[Path]:
    """Writes float32 and int8 files of two shapes with random weights and returns them."""
    from benchmarks.npu_compiler import MODELS
    from export.formats.tflite import timing_bytes

    files = [folder / f"{name}.{precision}.tflite" for name in MODELS for precision in ("fp32", "int8")]
    for file in files:
        name, _, precision = file.name.removesuffix(".tflite").rpartition(".")
        file.write_bytes(timing_bytes(MODELS[name], precision))  # type: ignore[arg-type]
    return files


def show(files: list[Path], seconds: float, repeats: int) -> None:
    """Times each file in several processes and prints the medians and their ratio."""
    print("| file | Interpreter | CompiledModel | its ratio | rounds | largest difference | loading | its loading |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for file in files:
        found = [_measured(file, seconds) for _ in range(repeats)]
        both = {name: [value for one in found for value in one[name]] for name in NAMES}
        times = [format.seconds_interval(median_interval(values)) for values in both.values()]
        ratio = ratio_of_medians(both["compiled"], both["interpreter"])
        loading = [format.seconds(min(one[f"load_{name}"] for one in found)) for name in NAMES]
        print(
            f"| {file.name} | {times[0]} | {times[1]} | {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] "
            f"| {len(both['compiled'])} | {max(one['difference'] for one in found):.2g} | {' | '.join(loading)} |",
            flush=True,
        )


def _measured(file: Path, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "found.json"
        command = [sys.executable, __file__, str(file), "--seconds", str(seconds), "--child", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MeasurementError(f"{file.name} cannot be timed", got=done.stderr[-300:])
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def sample(file: Path, seconds: float) -> dict[str, Any]:
    """Returns the times of both on one file, in turns, and how far apart their answers are over the largest logit."""
    start = time.perf_counter()
    engine = open_engine(file)
    loaded = time.perf_counter()
    image = random_input(engine, file.name, 0)
    began = time.perf_counter()
    runs = {"interpreter": lambda: engine.run(image), "compiled": compiled_run(file, image, engine)}
    loading = {"load_interpreter": loaded - start, "load_compiled": time.perf_counter() - began}
    one, other = (np.array(run(), np.float64).ravel() for run in runs.values())
    for _ in range(_WARMUP):
        for run in runs.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, turns = list(runs), random.Random(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(times["compiled"]) < _MOST_ROUNDS:
        turns.shuffle(order)
        for name in order:
            start = time.perf_counter()
            runs[name]()
            times[name].append(time.perf_counter() - start)
    return {**times, **loading, "difference": float(np.abs(one - other).max() / np.abs(one).max())}


def compiled_run(file: Path, image: Any, engine: Any) -> Callable[[], Any]:
    """Returns what runs a file on an image by CompiledModel, with one thread on the CPU."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import CpuOptions, Options

    options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=CpuOptions(num_threads=1))
    model: Any = CompiledModel.from_file(str(file), options=options)
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    length = int(np.prod(engine.output_shape))

    def run() -> Any:
        inputs[0].write(image)
        model.run_by_index(0, inputs, outputs)
        return outputs[0].read(length, engine.output_dtype)

    return run


if __name__ == "__main__":
    main()
