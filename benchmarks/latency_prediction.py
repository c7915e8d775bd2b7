"""How well a latency table predicts: random plans, each exported for real and timed, beside what the table says.

    python benchmarks/latency_prediction.py [--plans 20]

Under a ViT-Tiny at 32 px (embed_dim 192, 12 blocks, 3 heads, patch 8, 10 classes). Tables are taken from ``--profiles``
or measured; the plans are others than those they were fitted to and checked on. Files are written as those that ship,
int8 ones calibrated on random images, and timed in turns, one thread, in a fresh process, each time after a run that is
not timed: a model that comes after twenty others finds its weights cold, and takes half as long again. Prints a
Markdown table of medians.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from compress import ModelSpec, SlicedViT, check_model
from device_bench import format, random_plans, time_apart
from export import write_int8, write_tflite
from pocketvit.profiling import profile
from runtime import LatencyPrecision, ShapePlan, latency_of

SPEC = ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1)
PRECISIONS: tuple[LatencyPrecision, ...] = ("fp32", "int8")


def main() -> None:
    """Predicts, exports, times and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=Path, default=Path("profiles"))
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--rounds", type=int, default=100, help="timed runs of each file")
    options = parser.parse_args()
    plan = check_model(SPEC, 10)
    tables = {name: profile(plan, options.profiles, precision=name)[0] for name in PRECISIONS}
    plans = random_plans(plan, options.plans, options.seed)
    errors: dict[LatencyPrecision, list[float]] = {name: [] for name in PRECISIONS}
    with tempfile.TemporaryDirectory() as folder:
        files = [write(one, Path(folder) / str(n)) for n, one in enumerate(plans)]
        medians = {
            name: time_apart([pair[name] for pair in files], rounds=options.rounds, percent=50) for name in PRECISIONS
        }
    print(f"LiteRT, one thread, {tables['fp32'].cpu_model}\n")
    print("| fp32 predicted | measured | off by | int8 predicted | measured | off by |")
    print("|---|---|---|---|---|---|")
    for number, one in enumerate(plans):
        cells = []
        for name in PRECISIONS:
            predicted, taken = latency_of(tables[name])(one) * 1e-9, medians[name][number]
            errors[name].append(abs(predicted - taken) / taken)
            cells += [format.seconds(predicted), format.seconds(taken), format.percent(errors[name][-1])]
        print(f"| {' | '.join(cells)} |")
    for precision, own in errors.items():
        print(f"\n{precision}: median error {format.percent(median(own))}, largest {format.percent(max(own))}.")


def write(plan: ShapePlan, stem: Path) -> dict[LatencyPrecision, Path]:
    """Writes TFLite files of a model of ``plan`` with fresh weights."""
    plain, small = stem.with_suffix(".fp32.tflite"), stem.with_suffix(".int8.tflite")
    model = SlicedViT(plan).eval()
    images = np.random.default_rng(0).normal(size=(4, *plan.img_size, plan.in_chans)).astype(np.float32)
    write_tflite(model, plain)
    write_int8(model, small, images)
    return {"fp32": plain, "int8": small}


if __name__ == "__main__":
    main()
