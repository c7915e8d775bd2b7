"""What the measuring harness adds: its medians beside the engine called in a bare loop, and its cost when nothing runs.

    python benchmarks/harness_overhead.py [--pairs 20] [--runs 100]

First a ViT-Tiny at 32 px (embed_dim 192, 12 blocks, 3 heads, patch 8), float32, one thread, as TFLite and as ONNX. A
pair is one block by the harness (``measure_interleaved`` with an engine of ``runtime``, and the sign of life and the
progress of the process that ``pocketvit bench`` starts) and one bare block (the engine's own interpreter and a clock,
nothing of ours), one after the other in an order by lot, each after ten runs that are not timed. Each pair loads the
file anew for both, since where memory happens to lie is worth a few percent. The ratio of a pair is that of its
medians; printed is the median of all ratios with its 95 % bootstrap interval. A control of two bare blocks a pair shows
what the machine does by itself.

Then an engine that does nothing: what a reported time contains of the harness (the timed section), and what an
inference takes of it in all, warm-up left out (the whole loop, with the reading of the clock that tells).
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from compress.model.load import ModelSpec, check_model
from compress.model.vit import SlicedViT
from device_bench import format
from device_bench.documents.measurement import Sampling
from device_bench.machine.state import machine_state
from device_bench.timing.inputs import random_input
from device_bench.timing.measure import measure_interleaved
from device_bench.timing.stats import median_interval, percentile
from export.formats.onnx import write_onnx
from export.formats.tflite import timing_bytes
from runtime import Progress, open_engine
from runtime.worker.child import Reporter, shared_turn

SPEC = ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1)
WARMUP = 10
IDLE_RUNS = 20_000

Run = Callable[[], object]
Harness = Callable[[Run, int], tuple[float, ...]]
Loader = Callable[[Path, npt.NDArray[Any]], Run]


def main() -> None:
    """Times and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--runs", type=int, default=100, help="timed runs of each block")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lots = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder, Path(folder, "progress").open("w", encoding="utf-8") as stream:
        turn = Path(folder, "turn")
        turn.write_bytes(bytes(64))
        harness = harness_of(Reporter(stream).progress, shared_turn(str(turn)), options.seed)
        print(f"{machine_state().cpu_model}, one thread, {options.pairs} pairs of blocks of {options.runs} runs\n")
        print("| engine | harness | bare | harness / bare [95 %] | bare / bare [95 %] |")
        print("|---|---|---|---|---|")
        for name, file, loader in files(Path(folder)):
            print(row(name, file, loader, harness, options.pairs, options.runs, lots))
        print("\n| of an engine that does nothing | median | p99 |")
        print("|---|---|---|")
        for what, values in idle(harness).items():
            print(f"| {what} | {format.seconds(median(values))} | {format.seconds(percentile(values, 99))} |")


def files(folder: Path) -> tuple[tuple[str, Path, Loader], ...]:
    """Writes the model in both formats."""
    plan = check_model(SPEC, 10)
    tflite, onnx = folder / "vit.tflite", folder / "vit.onnx"
    tflite.write_bytes(timing_bytes(plan, "fp32"))
    torch.manual_seed(0)
    write_onnx(SlicedViT(plan).eval(), onnx)
    return ("LiteRT", tflite, litert), ("ONNX Runtime", onnx, onnxruntime)


def litert(file: Path, image: npt.NDArray[Any]) -> Run:
    """Loads a file with LiteRT's interpreter alone."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    first, last = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run() -> object:
        interpreter.set_tensor(first, image)
        interpreter.invoke()
        return interpreter.get_tensor(last)

    return run


def onnxruntime(file: Path, image: npt.NDArray[Any]) -> Run:
    """Loads a file with ONNX Runtime's session alone."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    first, last = session.get_inputs()[0].name, session.get_outputs()[0].name
    return lambda: session.run([last], {first: image})


def harness_of(progress: Progress, mark: Callable[[int], None], seed: int) -> Harness:
    """Returns what times a runner as ``pocketvit bench`` does."""

    def harness(run: Run, runs: int) -> tuple[float, ...]:
        sampling = Sampling(min_samples=runs, max_samples=runs, max_warmup=WARMUP)
        (latency,) = measure_interleaved(
            {"file": run}, sampling=sampling, seed=seed, progress=progress, turn=lambda name: mark(0)
        )
        return latency.values

    return harness


def bare(run: Run, runs: int) -> tuple[float, ...]:
    """Times a runner with nothing around it."""
    for _ in range(WARMUP):
        run()
    values = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        run()
        values.append((time.perf_counter_ns() - start) * 1e-9)
    return tuple(values)


def row(name: str, file: Path, loader: Loader, harness: Harness, pairs: int, runs: int, lots: random.Random) -> str:
    """Times the pairs of one engine and returns its line of the table."""
    image = random_input(open_engine(file), file.name, 0)
    by_harness = Side(lambda: partial(open_engine(file).run, image), lambda run: harness(run, runs))
    by_hand = Side(lambda: loader(file, image), lambda run: bare(run, runs))
    agree(by_harness.load()(), by_hand.load()())
    ours, control = [], []
    for _ in range(pairs):
        ours.append(pair(by_harness, by_hand, lots))
        control.append(pair(by_hand, by_hand, lots))
    cells = [name, *(format.seconds(median(own)) for own in zip(*ours, strict=True)), interval(ours), interval(control)]
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Side:
    """One side of a pair.

    Attributes:
        load: loads the file and returns what runs it once.
        time: times a block of such runs, s.
    """

    load: Callable[[], Run]
    time: Callable[[Run], tuple[float, ...]]


def pair(one: Side, other: Side, lots: random.Random) -> tuple[float, float]:
    """Returns the medians of a block of each, s: loaded anew and timed in orders by lot, no garbage collected then."""
    sides = (one, other)
    loaded = {number: sides[number].load() for number in lots.sample((0, 1), 2)}
    gc.collect()
    gc.disable()
    try:
        found = {number: median(sides[number].time(loaded[number])) for number in lots.sample((0, 1), 2)}
    finally:
        gc.enable()
    return found[0], found[1]


def interval(pairs: list[tuple[float, float]]) -> str:
    """Returns the median ratio of pairs with its interval, finer than ``format`` has ratios."""
    found = median_interval([one / other for one, other in pairs])
    return f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"


def agree(ours: Any, theirs: Any) -> None:
    """Stops where harness and bare loop do not compute the same: then there is nothing to compare.

    Raises:
        SystemExit: they do not.
    """
    if not np.array_equal(ours, theirs[0] if isinstance(theirs, list) else theirs):
        raise SystemExit("The bare loop answers otherwise than the engine: the times are of different things")


def idle(harness: Harness) -> dict[str, tuple[float, ...]]:
    """Times an engine that does nothing, s: within what is reported as its latency, and from run to run."""
    stamps: list[int] = []

    def stamp(batch: object) -> None:
        stamps.append(time.perf_counter_ns())

    def nothing(batch: object) -> None:
        pass

    gc.collect()
    gc.disable()
    try:
        timed = harness(partial(nothing, None), IDLE_RUNS)
        harness(partial(stamp, None), IDLE_RUNS)
    finally:
        gc.enable()
    loop = np.diff(np.array(stamps[-IDLE_RUNS:])) * 1e-9
    return {"timed section": timed, "whole loop": tuple(loop.tolist())}


if __name__ == "__main__":
    main()
