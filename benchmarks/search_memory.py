"""What the tree search takes of memory and time on a large model: ViT-S/16 at 224 px, a Search Set of 2,500 images.

    python benchmarks/search_memory.py [--classes 100] [--per-class 25] [--evaluate 100]

The Search Set is held whole; importance is taken and nodes are evaluated on ``--evaluate`` of its images, since neither
memory nor the pace depends on how many, and the time of a node on all of them follows from the pace. Weights and images
are random. Prints the largest resident size of the process and the time per node.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from compress.data.search_images import SearchImages
from compress.evaluate import evaluating
from compress.importance.scores import fisher_scores
from compress.importance.units import group_importance
from compress.model.load import ModelSpec, load_model
from compress.model.slicing import keep_all, slice_vit
from compress.search.base import GroupSizes
from compress.search.one_shot import removals
from compress.search.tree.settings import TreeEffort
from compress.train.fit import bf16_helps
from runtime import Preprocessing


def main() -> None:
    """Takes importance, slices and evaluates children, and prints what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--per-class", type=int, default=25)
    parser.add_argument("--evaluate", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(ModelSpec(options.model), options.classes)
    plan, bf16 = model.plan, bf16_helps(model.plan)
    spec = Preprocessing(*plan.img_size, plan.in_chans, (0.5,) * plan.in_chans, (0.5,) * plan.in_chans)
    rng, count = np.random.default_rng(0), options.classes * options.per_class
    pixels = rng.integers(0, 256, (count, *plan.img_size, plan.in_chans), np.uint8)
    images = SearchImages(pixels, np.repeat(np.arange(options.classes), options.per_class), spec)
    some = images.spread(options.evaluate)
    started = time.monotonic()
    importance = group_importance(plan, fisher_scores(model, some.batches(16), bf16=bf16))
    gradient = (time.monotonic() - started) / len(some)
    child = next(iter(removals(plan, importance, keep_all(plan), GroupSizes())))
    started = time.monotonic()
    smaller = slice_vit(model, child.kept)
    sliced = time.monotonic() - started
    started = time.monotonic()
    with evaluating(smaller), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for pictures, _labels in some.batches(25):
            smaller(pictures)
    forward = (time.monotonic() - started) / len(some)
    each = TreeEffort().gradient_share * count * gradient
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{options.model}, {count:,} images, {options.threads} threads, bf16 gradients {'on' if bf16 else 'off'}\n")
    print("| | |")
    print("|---|---|")
    print(f"| largest resident size | {resident / 2**30:.2f} GiB |")
    print(f"| gradients | {gradient * 1e3:.0f} ms an image, {each:.0f} s each time |")
    print(f"| slicing a child | {sliced * 1e3:.0f} ms |")
    print(f"| evaluating a child | {forward * 1e3:.0f} ms an image, at most {forward * count:.0f} s |")


if __name__ == "__main__":
    main()
