"""How well a latency table predicts: random plans, each exported for real and timed, beside what the table says.

    python benchmarks/latency_prediction.py [--precision fp32] [--plans 20]

Under a ViT-Tiny at 32 px (embed_dim 192, 12 blocks, 3 heads, patch 8, 10 classes). The table is taken from
``--profiles`` or measured; the plans are others than those it was fitted to and checked on. Files are written by the
exporter, not resized, and timed in turns, one thread, in a fresh process. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from compress import ModelSpec, SlicedViT, check_model
from device_bench import Sampling, bench_apart, format, random_plans
from export import DYNAMIC, write_quantised, write_tflite
from pocketvit.profiling import profile
from runtime import ShapePlan, latency_of

SPEC = ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1)


def main() -> None:
    """Predicts, exports, times and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=Path, default=Path("profiles"))
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time per file")
    options = parser.parse_args()
    plan = check_model(SPEC, 10)
    table, _ = profile(plan, options.profiles, precision=options.precision)
    latency = latency_of(table)
    plans = random_plans(plan, options.plans, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        files = [write(one, Path(folder) / str(n), options.precision) for n, one in enumerate(plans)]
        result = bench_apart(files, sampling=Sampling(seconds=options.seconds, max_samples=10_000))
    print(f"{options.precision}, LiteRT, one thread, {result.before.cpu_model}\n")
    print("| predicted | measured | off by |")
    print("|---|---|---|")
    errors = []
    for one, measured in zip(plans, result.files, strict=True):
        assert measured.latency is not None
        predicted, taken = latency(one) * 1e-9, median(measured.latency.values)
        errors.append(abs(predicted - taken) / taken)
        print(f"| {format.seconds(predicted)} | {format.seconds(taken)} | {format.percent(errors[-1])} |")
    print(f"\nMedian error {format.percent(median(errors))}, largest {format.percent(max(errors))}.")


def write(plan: ShapePlan, stem: Path, precision: str) -> Path:
    """Writes a TFLite file of a model of ``plan`` with fresh weights."""
    path = stem.with_suffix(".tflite")
    write_tflite(SlicedViT(plan).eval(), path)
    if precision == "int8":
        small = stem.with_suffix(".int8.tflite")
        write_quantised(path, small, DYNAMIC)
        return small
    return path


if __name__ == "__main__":
    main()
