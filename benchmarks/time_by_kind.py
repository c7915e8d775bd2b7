"""Where the time of a ViT's int8 or float32 file goes, operator by operator, against what its products must take.

    python benchmarks/time_by_kind.py [--precision int8] [--model vit_small_patch16_224] [--img-size 224] [--rounds 60]
    python benchmarks/time_by_kind.py --precision fp32 --beside runs/…/litert-torch.tflite

LiteRT has no profiler for Python, so every kind of operator of a block is timed by itself, in its own shapes: a chain
of a few of them and a longer one run in turns, and the difference of their medians, divided by how many more there
are, is the time of one. The file itself runs in the same turns, with fresh weights and made up ranges, and so does a
file named with ``--beside``, such as another tool's of the same model. One thread.

The bound of int8: an AVX-512 core multiplies 64 pairs of 8-bit integers (``VPDPBUSD``) in the instruction with which it
multiplies 16 pairs of floats. So the products cannot take less than a quarter of the time they take in float32 at the
best rate that float32 Linears reach here.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress.model.load import ModelSpec, load_model
from device_bench import format
from device_bench.timing.isolated import sample_isolated
from device_bench.timing.stats import median_interval, ratio_of_medians
from export.formats.tflite import write_int8
from export.graph.build import vit_graph
from export.graph.ir import Builder, Graph
from export.quantise.calibrate import observe
from export.quantise.integer import quantise_graph
from export.quantise.recipes import DYNAMIC_ATTENTION, modes_of
from export.writers.tflite import tflite_bytes
from runtime import ShapePlan, macs

SHORT, LONG = 4, 12
INT8_ADVANTAGE = 4
"""Pairs of 8-bit integers per instruction over pairs of floats."""

WHOLE, BESIDE, FLOAT = "whole file", "the file beside it", "fc1 and fc2, float32"


@dataclass(frozen=True)
class Kind:
    """One kind of work.

    Attributes:
        name: in the table.
        count: how often it is done in the blocks that compute every token.
        macs: multiply-accumulates of one.
        chain: makes a float graph that does it so many times.
        integer: in a file of integers it is quantised as that is.
    """

    name: str
    count: int
    macs: int
    chain: Callable[[int], Graph]
    integer: bool = True


def main() -> None:
    """Times chains and file in turns, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8")
    parser.add_argument("--beside", type=Path, help="a .tflite file to time in the same turns")
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    model = load_model(ModelSpec(options.model, img_size=options.img_size), num_classes=10)
    plan, kinds, integers = model.plan, kinds_of(model.plan), options.precision == "int8"
    with tempfile.TemporaryDirectory() as folder:
        files: dict[tuple[str, int], Path] = {}
        for kind in kinds:
            for count in (SHORT, LONG):
                files[kind.name, count] = Path(folder) / f"{len(files)}.tflite"
                files[kind.name, count].write_bytes(written(kind, count, integers))
        files[WHOLE, 1] = Path(folder) / "whole.tflite"
        if integers:
            images = np.random.default_rng(0).normal(size=(4, *plan.img_size, plan.in_chans))
            write_int8(model, files[WHOLE, 1], images.astype(np.float32), DYNAMIC_ATTENTION)
        else:
            files[WHOLE, 1].write_bytes(tflite_bytes(vit_graph(model)))
        if options.beside is not None:
            files[BESIDE, 1] = options.beside
        values = sample_isolated(list(files.values()), rounds=options.rounds).seconds
    seconds = dict(zip(files, values, strict=True))
    recipe = DYNAMIC_ATTENTION.name if integers else "fp32"
    print(f"{options.model}, {options.img_size} px, {recipe}, LiteRT, one thread\n")
    print("\n".join([*table(kinds, seconds), "", *(bound(plan, kinds, seconds) if integers else [])]))


def kinds_of(plan: ShapePlan) -> list[Kind]:
    """Returns the work of the blocks; the last one of a model with a class token does next to nothing of it."""
    n, c, block = plan.num_tokens, plan.embed_dim, plan.blocks[0]
    heads, width, hidden = block.num_heads, block.qk_dim, block.mlp_dim
    blocks = len(plan.blocks) - (plan.pooling == "token")

    def chained(shape: tuple[int, ...], step: Callable[[Builder, str, int], str]) -> Callable[[int], Graph]:
        def chain(count: int) -> Graph:
            g = Builder((1, *shape, *(1,) * (3 - len(shape))))
            x = g.op("reshape", ["image"], "start", shape=shape)
            for i in range(count):
                x = step(g, x, i)
            return g.graph(x)

        return chain

    def square(g: Builder, x: str, i: int) -> str:
        return g.linear(x, weights(c, c, i), None, f"linear.{i}")

    def mlp(g: Builder, x: str, i: int) -> str:
        return g.linear(g.linear(x, weights(hidden, c, i), None, f"fc1.{i}"), weights(c, hidden, i), None, f"fc2.{i}")

    def products(g: Builder, x: str, i: int) -> str:
        if i == 0:
            g.op("mul", [x, x], "keys")
            g.op("add", [x, x], "values")
        scores = g.op("batch_matmul", [x, "keys"], f"scores.{i}", adj_y=True)
        return g.op("batch_matmul", [scores, "values"], f"mixed.{i}")

    def norm(g: Builder, x: str, i: int) -> str:
        mean = g.op("mean", [g.op("mul", [x, x], f"square.{i}")], f"mean.{i}", axis=(-1,))
        root = g.op("rsqrt", [g.op("add", [mean, g.constant("eps", np.full((1, 1), 1e-6))], f"eps.{i}")], f"rsqrt.{i}")
        return g.op("mul", [x, root], f"normed.{i}")

    def gelu(g: Builder, x: str, i: int) -> str:
        return g.op("gelu", [x], f"gelu.{i}", approximate=False)

    def added(g: Builder, x: str, i: int) -> str:
        return g.op("add", [x, "start"], f"sum.{i}")

    def moved(g: Builder, x: str, i: int) -> str:
        perm = (1, 0, 2)
        return g.op("transpose", [g.op("transpose", [x], f"heads.{i}", perm=perm)], f"tokens.{i}", perm=perm)

    rows, apart = (n, c), (heads, n, width)
    return [
        Kind("query, key, value and projection", 4 * blocks, n * c * c, chained(rows, square)),
        Kind("fc1 and fc2", blocks, 2 * n * c * hidden, chained(rows, mlp)),
        Kind("both products of attention", blocks, 2 * heads * n * n * width, chained(apart, products)),
        Kind("softmax", blocks, 0, chained((heads, n, n), lambda g, x, i: g.op("softmax", [x], f"softmax.{i}"))),
        Kind(
            "GELU", blocks, 0, chained((n, hidden), lambda g, x, i: g.op("gelu", [x], f"gelu.{i}", approximate=False))
        ),
        Kind("RMSNorm", 2 * blocks, 0, chained(rows, norm)),
        Kind("transposing to heads and back", 2 * blocks, 0, chained((n, heads, width), moved)),
        Kind(
            "adding to the stream", 2 * blocks, 0, chained(rows, lambda g, x, i: g.op("add", [x, "start"], f"sum.{i}"))
        ),
        Kind(FLOAT, 0, 2 * n * c * hidden, chained(rows, mlp), integer=False),
    ]


def weights(outputs: int, inputs: int, seed: int) -> npt.NDArray[np.float64]:
    """Returns random weights that keep what goes through them about as large as it was."""
    return np.random.default_rng(seed).normal(scale=inputs**-0.5, size=(outputs, inputs))


def written(kind: Kind, count: int, integers: bool) -> bytes:
    """Returns the file of a chain."""
    graph = kind.chain(count)
    if integers and kind.integer:
        images = np.random.default_rng(0).normal(size=(2, *graph.shapes[graph.input][1:])).astype(np.float32)
        graph = quantise_graph(
            graph, modes_of(graph, DYNAMIC_ATTENTION), observe(graph, images, batch=1), DYNAMIC_ATTENTION.ranges
        )
    return tflite_bytes(graph)


Seconds = Mapping[tuple[str, int], Sequence[float]]
"""Of every chain by kind and length, and of the whole file."""


def one_of(kind: Kind, seconds: Seconds) -> float:
    """Returns the time of one of a kind, in seconds."""
    return float(np.median(seconds[kind.name, LONG]) - np.median(seconds[kind.name, SHORT])) / (LONG - SHORT)


def table(kinds: list[Kind], seconds: Seconds) -> list[str]:
    """Returns the table, with a last column where there is a file beside."""
    base = seconds.get((BESIDE, 1))
    whole = float(np.median(seconds[WHOLE, 1]))

    def row(name: str, times: object, one: str, shown: str, spent: float, rate: str) -> str:
        cells = [name, str(times), one, shown, f"{100 * spent / whole:.1f} %", rate]
        return f"| {' | '.join(cells + ([] if base is None else [f'{spent / float(np.median(base)):.3f}']))} |"

    heads = ["work", "times", "one", "all", "of the file", "GMAC/s", *([] if base is None else ["of the file beside"])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    known = 0.0
    for kind in kinds:
        if kind.count:
            one = one_of(kind, seconds)
            spent = kind.count * one
            known += spent
            rate = f"{kind.macs / one / 1e9:.0f}" if kind.macs else ""
            lines.append(row(kind.name, kind.count, format.seconds(one), format.seconds(spent), spent, rate))
    rest = whole - known
    lines.append(row("the rest: patches, last block, head, caches", "", "", format.seconds(rest), rest, ""))
    lines.append(row("**whole file**", "", "", format.seconds_interval(median_interval(seconds[WHOLE, 1])), whole, ""))
    if base is not None:
        ratio, shown = ratio_of_medians(seconds[WHOLE, 1], base), format.seconds_interval(median_interval(base))
        lines += [
            "",
            f"The file beside it takes {shown}; ours {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of it.",
        ]
    return lines


def bound(plan: ShapePlan, kinds: list[Kind], seconds: Seconds) -> list[str]:
    """Returns what int8 products cannot be faster than."""
    whole = float(np.median(seconds[WHOLE, 1]))
    reached = next(kind for kind in kinds if kind.name == FLOAT)
    float_rate = reached.macs / one_of(reached, seconds)
    products = sum(kind.count * kind.macs for kind in kinds)
    least = products / (INT8_ADVANTAGE * float_rate)
    return [
        f"float32 Linears reach {float_rate / 1e9:.0f} GMAC/s here, so int8 products could reach "
        f"{INT8_ADVANTAGE * float_rate / 1e9:.0f} GMAC/s.",
        f"The {products / 1e9:.2f} GMAC above ({100 * products / macs(plan):.0f} % of the model's) cannot take less "
        f"than {format.seconds(least)}: {100 * least / whole:.0f} % of the file's time.",
    ]


if __name__ == "__main__":
    main()
