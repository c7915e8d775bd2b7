"""What a rewrite of the graph is worth in time: files with it and without it, in turns.

    python benchmarks/rewrite_time.py [--rewrite flat] [--models digits,tiny,small] [--rounds 100] [--repeats 5]

One of the two graphs is the one that ships. Weights are random, since time does not depend on them. Both files are
loaded by one fresh process and run in turns on one thread; that is repeated in further processes, in which memory lies
otherwise. The ratio is of the medians of all rounds, with a 95 % bootstrap interval over rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from compress import ModelSpec, SlicedViT, load_model
from device_bench import format, median_interval, ratio_of_medians, samples_apart
from export import (
    DEFAULT_REWRITES,
    STATIC_ATTENTION,
    Recipe,
    Rewrites,
    full_recipes,
    modes_of,
    observe,
    quantise,
    tflite_bytes,
    vit_graph,
)

MODELS = {
    "digits": ModelSpec(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        in_chans=1,
        overrides={"embed_dim": 96, "depth": 6, "num_heads": 3},
    ),
    "tiny": ModelSpec("vit_tiny_patch16_224"),
    "small": ModelSpec("vit_small_patch16_224"),
}
KINDS: dict[str, Recipe | None] = {"fp32": None, "int8": STATIC_ATTENTION, "int8-full": full_recipes()[0]}
SPEED = {"digits": 20, "tiny": 1, "small": 1}
"""So many times the rounds: runs of a millisecond need more of them."""


def main() -> None:
    """Prints one line for each model and kind of file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rewrite", default="flat", choices=list(vars(DEFAULT_REWRITES)))
    parser.add_argument("--models", default="digits,tiny,small", help="comma-separated")
    parser.add_argument("--kinds", default="fp32,int8,int8-full", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=100, help="of each process")
    parser.add_argument("--repeats", type=int, default=5, help="processes")
    options = parser.parse_args()
    print(f"| model | file | with `{options.rewrite}` | without | without over with |")
    print("|---|---|---:|---:|---:|")
    for name in options.models.split(","):
        model = load_model(MODELS[name], 10, 0).eval()
        for kind in options.kinds.split(","):
            rounds = options.rounds * SPEED[name]
            on, off = times(model, KINDS[kind], options.rewrite, rounds, options.repeats)
            medians = [format.seconds_interval(median_interval(one)) for one in (on, off)]
            ratio = ratio_of_medians(off, on)
            interval = f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
            print(f"| {name} | {kind} | {' | '.join(medians)} | {interval} |", flush=True)


def times(model: SlicedViT, recipe: Recipe | None, rewrite: str, rounds: int, repeats: int) -> list[list[float]]:
    """Returns the seconds of every run of the file with the rewrite, and of the one without."""
    found: list[list[float]] = [[], []]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("with.tflite", "without.tflite")]
        for path, on in zip(paths, (True, False), strict=True):
            path.write_bytes(content(model, recipe, replace(DEFAULT_REWRITES, **{rewrite: on})))
        for _ in range(repeats):
            for seconds, every in zip(samples_apart(paths, rounds=rounds).seconds, found, strict=True):
                every += seconds
    return found


def content(model: SlicedViT, recipe: Recipe | None, rewrites: Rewrites) -> bytes:
    """Returns the file of a model, float or quantised."""
    graph = vit_graph(model, rewrites)
    if recipe is None:
        return tflite_bytes(graph)
    plan = model.plan
    images = np.random.default_rng(0).standard_normal((2, *plan.img_size, plan.in_chans)).astype(np.float32)
    return tflite_bytes(quantise(graph, modes_of(graph, recipe), observe(graph, images), recipe.ranges))


if __name__ == "__main__":
    main()
