"""How well a latency table predicts: plans exported for real and timed, beside what the table says.

    python benchmarks/latency_prediction.py [--plans 20]

Under a ViT-Tiny at 32 px (embed_dim 192, 12 blocks, 3 heads, patch 8, 10 classes). Tables are taken from ``--profiles``
or measured. First the error on the random plans that a table holds out itself, timed in the same minutes. Then two
more kinds of plan, timed now, none of those that a table was fitted to or checked on: random ones, and ones that
``one-shot`` finds with that table and random importance, choosing by time, down to shares of the MACs: a search
goes where a table errs in its favour. Files are written as those that ship, int8 ones calibrated on random images, and
timed in turns, one thread, in a fresh process, each time after runs that are not timed: a model that comes after twenty
others finds its weights cold, and takes half as long again. The model itself is timed beside them: a table holds the
speed of the hour it was measured in, and a shared machine has another in the next, but how many times faster than the
model a plan is changes less. Prints Markdown tables of medians.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from compress.budget import parse_budget, parse_cost
from compress.importance.units import BlockImportance, Importance
from compress.model.load import ModelSpec, check_model
from compress.model.slicing import keep_all
from compress.model.vit import SlicedViT
from compress.search.one_shot import propose
from device_bench import format
from device_bench.latency_table.files import random_plans
from device_bench.timing.isolated import sample_isolated
from export.formats.tflite import write_int8, write_tflite
from pocketvit.pipeline.profiling import profile
from runtime import BlockPlan, LatencyPrecision, LatencyTable, ShapePlan, latency_of, macs

SPEC = ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1)
PRECISIONS: tuple[LatencyPrecision, ...] = ("fp32", "int8")
SHARES = (0.75, 0.5, 0.35, 0.25)
"""Of the MACs, for plans that a search finds; five of each."""


def main() -> None:
    """Predicts, exports, times and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=Path, default=Path("profiles"))
    parser.add_argument("--plans", type=int, default=20, help="random ones")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--rounds", type=int, default=100, help="timed runs of each file")
    options = parser.parse_args()
    plan = check_model(SPEC, 10)
    print("| plans | precision | median error | largest | median error of the speed-up | largest |")
    print("|---|---|---|---|---|---|")
    rows: list[str] = []
    for precision in PRECISIONS:
        table, _ = profile(plan, options.profiles, precision=precision)
        kinds = {
            "random": random_plans(plan, options.plans, options.seed),
            "found by a search": found_plans(plan, table, options.seed),
        }
        checked = [check.predicted_ns / check.measured_ns for check in table.checks]
        print(f"| {len(checked)} of the table's own | {precision} | {errors(checked)} | | |")
        predict = latency_of(table)
        for kind, plans in kinds.items():
            (whole, *seconds), notes = timed((plan, *plans), precision, options.rounds)
            ratios = [predict(one) * 1e-9 / taken for one, taken in zip(plans, seconds, strict=True)]
            faster = [ratio * whole / (predict(plan) * 1e-9) for ratio in ratios]
            print(f"| {kind} | {precision} | {errors(ratios)} | {errors(faster)} |")
            for one, taken, ratio, other in zip(plans, seconds, ratios, faster, strict=True):
                cells = [
                    format.percent(macs(one) / macs(plan)),
                    format.seconds(predict(one) * 1e-9),
                    format.seconds(taken),
                    f"{ratio:.3f}",
                    format.times(whole / taken),
                    f"{1 / other:.3f}",
                ]
                rows.append(f"| {kind} | {precision} | {' | '.join(cells)} |")
            rows += notes
    names = "plan | precision | MACs | predicted | measured | predicted / measured | speed-up | predicted / measured"
    print(f"\n| {names} |\n{'|---' * 8}|")
    print("\n".join(rows))


def errors(ratios: Sequence[float]) -> str:
    """Formats the median and the largest distance from 1."""
    values = [abs(ratio - 1) for ratio in ratios]
    return f"{format.percent(median(values))} | {format.percent(max(values))}"


def found_plans(plan: ShapePlan, table: LatencyTable, seed: int) -> tuple[ShapePlan, ...]:
    """Returns what choosing by time finds within budgets of MACs, where importance is random."""
    rng, tables = np.random.default_rng(seed), {"cpu": table}
    cost = parse_cost("latency@cpu", plan, tables)

    def found(share: float) -> ShapePlan:
        importance = random_importance(plan, rng)
        return propose(plan, importance, parse_budget(f"macs={share}", plan), keep_all(plan), cost=cost).plan

    return tuple(found(share) for share in SHARES for _ in range(5))


def random_importance(plan: ShapePlan, rng: np.random.Generator) -> Importance:
    """Returns importance of which every width of every block has a size of its own, and units vary around it."""

    def drawn(*shape: int) -> npt.NDArray[np.float64]:
        return rng.lognormal(rng.normal(0, 1.5), 1.0, shape)

    def block(widths: BlockPlan) -> BlockImportance:
        heads = widths.num_heads
        return BlockImportance(drawn(heads, widths.qk_dim), drawn(heads, widths.v_dim), drawn(widths.mlp_dim))

    return Importance(5 * drawn(plan.embed_dim), tuple(block(widths) for widths in plan.blocks))


def timed(plans: Sequence[ShapePlan], precision: LatencyPrecision, rounds: int) -> tuple[list[float], tuple[str, ...]]:
    """Returns the median latency of a model of each plan, s, and what disturbed the machine."""
    with tempfile.TemporaryDirectory() as folder:
        files = [write(one, precision, Path(folder) / f"{number}.tflite") for number, one in enumerate(plans)]
        samples = sample_isolated(files, rounds=rounds)
    return [median(own) for own in samples.seconds], samples.notes


def write(plan: ShapePlan, precision: LatencyPrecision, path: Path) -> Path:
    """Writes the TFLite file of a model of ``plan`` with fresh weights."""
    model = SlicedViT(plan).eval()
    if precision == "int8":
        images = np.random.default_rng(0).normal(size=(4, *plan.img_size, plan.in_chans)).astype(np.float32)
        write_int8(model, path, images)
    else:
        write_tflite(model, path)
    return path


if __name__ == "__main__":
    main()
