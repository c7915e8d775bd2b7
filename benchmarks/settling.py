"""How long a file's turn must be until it runs as one that runs again and again: the time of each run after others'.

    python benchmarks/settling.py [--shares 1,0.5,0.15] [--precision fp32]

A ViT-Tiny at 32 px (embed_dim 192, 12 blocks, 3 heads, patch 8) and smaller ones, all widths scaled alike to a share
of its MACs, fresh weights, LiteRT, one thread. The files take turns in an order drawn anew for each round; a turn is so
many runs, and each is timed. Prints a Markdown table of medians by the number of the run; in ``alone``, of runs of
that file and no other. Benches and latency tables leave out what ``device_bench.timing.measure.settle`` runs first.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from latency_prediction import SPEC, write

from compress.budget import COUNTS
from compress.model.load import check_model
from compress.search.uniform import even_plan
from device_bench import format
from device_bench.timing.inputs import random_input
from runtime import macs, open_engine

RUNS = (1, 2, 3, 4, 6, 8, 12, 16)


def main() -> None:
    """Times and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", default="1,0.5,0.15", help="of the MACs, comma-separated")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    whole = check_model(SPEC, 10)
    plans = []
    for share in map(float, options.shares.split(",")):
        limit = round(share * macs(whole))
        plan = whole if share == 1 else even_plan(whole, COUNTS["macs"], round(0.9 * limit), limit)
        assert plan is not None, "no multiples of 8 come near this share"
        plans.append(plan)
    with tempfile.TemporaryDirectory() as folder:
        files = [write(plan, options.precision, Path(folder) / f"{number}.tflite") for number, plan in enumerate(plans)]
        runners = [runner(file) for file in files]
        taken = by_turn(runners, options.rounds)
        alone = [median(by_turn([one], 1, 20 + options.rounds)[0][0][20:]) for one in runners]
        sizes = [file.stat().st_size for file in files]
    print(f"| file | {' | '.join(f'run {number}' for number in RUNS)} | alone |")
    print("|---" * (len(RUNS) + 2) + "|")
    for size, turns, steady in zip(sizes, taken, alone, strict=True):
        times = [format.seconds(median(turn[number - 1] for turn in turns)) for number in RUNS]
        print(f"| {format.size(size)} | {' | '.join(times)} | {format.seconds(steady)} |")


def runner(file: Path) -> Callable[[], object]:
    """Loads a file and returns what runs it once."""
    engine = open_engine(file, threads=1)
    return partial(engine.run, random_input(engine, file.name, 0))


def by_turn(runners: Sequence[Callable[[], object]], rounds: int, runs: int = RUNS[-1]) -> list[list[list[float]]]:
    """Returns the seconds of every run of every turn of each."""
    order, taken = random.Random(0), [list[list[float]]() for _ in runners]
    for _ in range(rounds):
        for number in order.sample(range(len(runners)), len(runners)):
            turn = []
            for _ in range(runs):
                start = time.perf_counter_ns()
                runners[number]()
                turn.append((time.perf_counter_ns() - start) * 1e-9)
            taken[number].append(turn)
    return taken


if __name__ == "__main__":
    main()
