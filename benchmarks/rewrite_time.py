"""What a rewrite of the graph is worth in time: files with it and without it, in turns.

    python benchmarks/rewrite_time.py [--rewrite flat] [--models digits,tiny,small] [--rounds 100] [--repeats 5]
    python benchmarks/rewrite_time.py --models digits --cores pi4,pi5

One of the two graphs is the one that ships. Weights are random, since time does not depend on them. Both files are
loaded by one fresh process and run in turns on one thread; that is repeated in further processes, in which memory lies
otherwise. The ratio is of the medians of all rounds, with a 95 % bootstrap interval over rounds.

With ``--cores`` executed instructions are counted on emulated boards instead, which no other work here disturbs.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np

from compress.model.load import ModelSpec, load_model
from compress.model.vit import SlicedViT
from device_bench import format
from device_bench.targets.emulated import CORES, count_instructions
from device_bench.timing.isolated import sample_isolated
from device_bench.timing.stats import median_interval, ratio_of_medians
from export.graph.build import vit_graph
from export.graph.rewrites import DEFAULT_REWRITES, Rewrites
from export.quantise.calibrate import observe
from export.quantise.integer import quantise_graph
from export.quantise.recipes import STATIC_ATTENTION, Recipe, modes_of, recipes_for
from export.writers.tflite import tflite_bytes

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
KINDS: dict[str, Recipe | None] = {"fp32": None, "int8": STATIC_ATTENTION, "int8-full": recipes_for("int8-full")[0]}
SPEED = {"digits": 20, "tiny": 1, "small": 1}
"""So many times the rounds: runs of a millisecond need more of them."""


def main() -> None:
    """Prints one line for each model and kind of file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rewrite", default="flat", choices=list(vars(DEFAULT_REWRITES)))
    parser.add_argument("--models", default="digits,tiny,small", help="comma-separated")
    parser.add_argument("--kinds", default="fp32,int8,int8-full", help="comma-separated")
    parser.add_argument("--cores", default="", help="count on pi4, pi5 instead, comma-separated")
    parser.add_argument("--rounds", type=int, default=100, help="of each process")
    parser.add_argument("--repeats", type=int, default=5, help="processes")
    options = parser.parse_args()
    cores = [core for core in options.cores.split(",") if core]
    what = f"| with `{options.rewrite}` | without | without over with |"
    print(f"| model | file {'| core ' if cores else ''}{what}")
    print(f"|---|---|{'---|' if cores else ''}---:|---:|---:|")
    for name in options.models.split(","):
        model = load_model(MODELS[name], 10, 0).eval()
        for kind in options.kinds.split(","):
            with tempfile.TemporaryDirectory() as folder:
                paths = write_both(model, KINDS[kind], options.rewrite, Path(folder))
                for core in cores:
                    print(f"| {name} | {kind} | {core} | {counted(paths, core)} |", flush=True)
                if not cores:
                    rounds = options.rounds * SPEED[name]
                    print(f"| {name} | {kind} | {timed(paths, rounds, options.repeats)} |", flush=True)


def write_both(model: SlicedViT, recipe: Recipe | None, rewrite: str, folder: Path) -> list[Path]:
    """Writes the file with the rewrite, and the one without."""
    paths = [folder / name for name in ("with.tflite", "without.tflite")]
    for path, on in zip(paths, (True, False), strict=True):
        path.write_bytes(content(model, recipe, replace(DEFAULT_REWRITES, **{rewrite: on})))
    return paths


def timed(paths: list[Path], rounds: int, repeats: int) -> str:
    """Returns the medians of both files and the second over the first, as cells."""
    found: list[list[float]] = [[], []]
    for _ in range(repeats):
        for seconds, every in zip(sample_isolated(paths, rounds=rounds).seconds, found, strict=True):
            every += seconds
    medians = [format.seconds_interval(median_interval(one)) for one in found]
    ratio = ratio_of_medians(found[1], found[0])
    return " | ".join([*medians, f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"])


def counted(paths: list[Path], core: str) -> str:
    """Returns the instructions of both files, millions, and the second over the first, as cells."""
    found = count_instructions(CORES[core].name, paths)
    on, off = (fmean(found[path.name].all) for path in paths)
    return f"{on / 1e6:.3f} M | {off / 1e6:.3f} M | {off / on:.4f}"


def content(model: SlicedViT, recipe: Recipe | None, rewrites: Rewrites) -> bytes:
    """Returns the file of a model, float or quantised."""
    graph = vit_graph(model, rewrites)
    if recipe is None:
        return tflite_bytes(graph)
    plan = model.plan
    images = np.random.default_rng(0).standard_normal((2, *plan.img_size, plan.in_chans)).astype(np.float32)
    return tflite_bytes(quantise_graph(graph, modes_of(graph, recipe), observe(graph, images), recipe.ranges))


if __name__ == "__main__":
    main()
