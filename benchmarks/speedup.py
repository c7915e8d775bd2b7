"""What slicing buys in time on this CPU: one fresh ViT, whole and sliced to shares of its MACs, timed in turns.

    python benchmarks/speedup.py [--model vit_small_patch16_224] [--img-size 224] [--shares 0.75,0.5] [--seconds 10]

Weights are random, since time does not depend on them; what to slice is chosen by their Fisher importance on the
digits, as in a run. Prints a Markdown table. Ratios are of medians within one interleaved run, with 95 %
bootstrap intervals.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from compress.budget import parse_budget
from compress.data.augment import augmentation_for
from compress.data.batches import training_batches
from compress.data.load import load_data
from compress.data.splits import search_set
from compress.importance.scores import fisher_scores
from compress.importance.units import group_importance
from compress.model.load import ModelSpec, load_model
from compress.model.slicing import keep_all, slice_vit
from compress.model.vit import SlicedViT
from compress.search.one_shot import propose
from device_bench import format
from device_bench.documents.measurement import Sampling
from device_bench.targets.bench import bench
from device_bench.timing.stats import median_interval, ratio_of_medians
from export.formats.tflite import write_int8, write_tflite
from runtime import Preprocessing, macs


def main() -> None:
    """Builds, slices, exports, times and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--shares", default="0.75,0.5", help="of the MACs, comma-separated")
    parser.add_argument("--seconds", type=float, default=10.0, help="measuring time per file")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    whole = load_model(ModelSpec(options.model, img_size=options.img_size), num_classes=10)
    models = {"whole": whole} | {f"{share} of MACs": cut(whole, share) for share in options.shares.split(",")}
    with tempfile.TemporaryDirectory() as folder:
        files = [path for name, model in models.items() for path in write(model, name, Path(folder))]
        sampling = Sampling(seconds=options.seconds, min_samples=20)
        result = bench(files, "cpu", threads=options.threads, sampling=sampling)
    print(f"{options.model}, {options.img_size} px, LiteRT, {options.threads} thread(s), {result.before.cpu_model}\n")
    print("| file | MACs | median [95 % CI] | whole / this, same precision |")
    print("|---|---|---|---|")
    for path in files:
        name, precision = path.stem.rsplit(".", 1)
        latency, reference = (result.of(file).latency for file in (path.name, f"whole.{precision}.tflite"))
        assert latency is not None
        assert reference is not None
        ratio = format.times_interval(ratio_of_medians(reference.values, latency.values)) if name != "whole" else "1"
        time = format.seconds_interval(median_interval(latency.values))
        print(f"| {name}, {precision} | {format.count(macs(models[name].plan))} | {time} | {ratio} |")


def cut(model: SlicedViT, share: str) -> SlicedViT:
    """Slices ``model`` to a share of its MACs."""
    data, plan = load_data("digits"), model.plan
    spec = Preprocessing(*plan.img_size, plan.in_chans, (0.5,) * plan.in_chans, (0.5,) * plan.in_chans)
    images = search_set(data, 3, seed=0)
    batches = training_batches(data, images, spec, augmentation_for(data), batch_size=10, seed=0, epoch=0)
    importance = group_importance(plan, fisher_scores(model, batches))
    budget = parse_budget(f"macs={share}", plan)
    return slice_vit(model, propose(plan, importance, budget, keep_all(plan)).kept)


def write(model: SlicedViT, name: str, folder: Path) -> list[Path]:
    """Writes float32 and int8 TFLite files of ``model``."""
    plain, small = folder / f"{name}.fp32.tflite", folder / f"{name}.int8.tflite"
    images = np.random.default_rng(0).normal(size=(4, *model.plan.img_size, model.plan.in_chans))
    write_tflite(model, plain)
    write_int8(model, small, images.astype(np.float32))
    return [plain, small]


if __name__ == "__main__":
    main()
