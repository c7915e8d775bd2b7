"""What it is worth to prune by time: the same model, data, budget of MACs and recovery, counting MACs or time.

    python benchmarks/compress_quality.py --seeds 0 --methods ""     # trains the model
    python benchmarks/latency_aware.py [--search one-shot] [--budgets macs=0.75] [--precision int8]

Under a model that ``compress_quality.py`` trained (ViT-Tiny, 32 px, Fashion-MNIST), chooses what to prune twice, by
``--cost macs`` and by ``--cost latency@cpu``, down to the same share of the MACs; reconstructs what is left, recovers
both alike, with distillation; exports them and the baseline, and times the files in turns, one thread, in a fresh
process, each time after runs that are not timed, as latency tables are measured. Prints a Markdown table; ratios are
of medians, with 95 % bootstrap intervals. Recovered models are kept in ``--out``, and a second run takes them from
there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from compress_quality import folder_of
from quality_setting import BASELINE, RECOVER, Setting, importance_of, prepare, recover
from ways_to_prune import mended

from compress.budget import Tables, parse_budget, parse_cost
from compress.evaluate import score
from compress.model.folder import read_model, save_model
from compress.model.slicing import keep_all
from compress.model.vit import SlicedViT
from compress.search.milp import solve
from compress.search.one_shot import propose
from device_bench import format
from device_bench.timing.isolated import sample_isolated
from device_bench.timing.stats import median_interval, ratio_of_medians
from export.formats.tflite import write_int8, write_tflite
from pocketvit.pipeline.profiling import profile
from runtime import ArtifactError, encode, macs, params


def main() -> None:
    """Prunes, recovers, exports, times and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("runs/benchmarks/compress-quality"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/latency-aware"))
    parser.add_argument("--profiles", type=Path, default=Path("profiles"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search", choices=("one-shot", "milp"), default="one-shot")
    parser.add_argument("--budgets", default="macs=0.75", help="comma-separated")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="int8")
    parser.add_argument("--epochs", type=float, default=3.0, help="of recovery")
    parser.add_argument("--rounds", type=int, default=2000, help="timed runs of each file")
    parser.add_argument("--threads", type=int, default=1, help="of training; files are timed on one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    setting = prepare(options.seed)
    baseline = read_model(folder_of(options.models, options.seed, BASELINE))
    table, _ = profile(baseline.plan, options.profiles, precision=options.precision)
    tables = {"cpu": table}
    models = {"baseline": baseline}
    for budget in options.budgets.split(","):
        for cost in ("macs", "latency@cpu"):
            made = pruned(setting, baseline, options.search, budget, cost, tables)
            models[f"{budget}, {cost}"] = recovered(setting, made, baseline, options.epochs, options.out)
    latency = parse_cost("latency@cpu", baseline.plan, tables)
    with tempfile.TemporaryDirectory() as folder:
        files = {
            name: write(model, Path(folder) / f"{i}", options.precision)
            for i, (name, model) in enumerate(models.items())
        }
        timed = sample_isolated(list(files.values()), rounds=options.rounds)
    values = dict(zip(files, timed.seconds, strict=True))
    print(f"{options.search}, {options.precision}, LiteRT, one thread, {table.cpu_model}\n")
    print("| model | MACs | parameters | top-1 | predicted | measured | baseline / this | by MACs / this |")
    print("|---|---|---|---|---|---|---|---|")
    whole = baseline.plan
    for name, model in models.items():
        plan, other = model.plan, name.replace("latency@cpu", "macs")
        cells = [
            name,
            format.percent(macs(plan) / macs(whole)),
            format.percent(params(plan) / params(whole)),
            format.percent(score(model, setting.data, setting.data.test, setting.preprocessing).top1),
            format.seconds(latency.of(plan) * 1e-9),
            format.seconds_interval(median_interval(values[name])),
            format.times_interval(ratio_of_medians(values["baseline"], values[name])),
            format.times_interval(ratio_of_medians(values[other], values[name])) if other != name else "",
        ]
        print(f"| {' | '.join(cells)} |")
    print("\n".join(timed.notes))


def pruned(setting: Setting, baseline: SlicedViT, search: str, budget: str, cost: str, tables: Tables) -> SlicedViT:
    """Prunes ``baseline`` to a budget, choosing by a cost; ``milp``, which has one, to the time that the other took."""
    plan, everything = baseline.plan, keep_all(baseline.plan)
    importance = importance_of(setting, "fisher", baseline)
    limit, counted = parse_budget(budget, plan, tables), parse_cost(cost, plan, tables)
    if search == "one-shot":
        return mended(setting, baseline, propose(plan, importance, limit, everything, cost=counted).kept, 1)
    by_macs = solve(plan, importance, limit, everything)
    if cost == limit.cost.name:
        return mended(setting, baseline, by_macs.kept, 1)
    # the least time at which no more importance is lost
    lost = sum(step["importance"] for step in by_macs.steps)
    low, high, best = 0.5 * counted.of(by_macs.plan), float(counted.of(by_macs.plan)), by_macs
    for _ in range(10):
        middle = (low + high) / 2
        tried = solve(plan, importance, parse_budget(f"latency={middle / 1e6:.6f}ms@cpu", plan, tables), everything)
        if sum(step["importance"] for step in tried.steps) <= lost:
            high, best = middle, tried
        else:
            low = middle
    return mended(setting, baseline, best.kept, 1)


def recovered(setting: Setting, model: SlicedViT, baseline: SlicedViT, epochs: float, out: Path) -> SlicedViT:
    """Trains a pruned model, or takes it from ``out``."""
    asked = json.dumps([encode(model.plan), setting.seed, epochs, encode(RECOVER)], sort_keys=True)
    folder = out / hashlib.sha256(asked.encode()).hexdigest()[:12]
    try:
        return read_model(folder)
    except ArtifactError:
        folder.mkdir(parents=True, exist_ok=True)
    made, _ = recover(setting, model, baseline, epochs, 1, folder)
    save_model(folder, made, setting.task)
    return made


def write(model: SlicedViT, stem: Path, precision: str) -> Path:
    """Writes a TFLite file of ``model``."""
    path, plan = stem.with_suffix(".tflite"), model.plan
    if precision == "int8":  # time does not depend on what it is calibrated on
        images = np.random.default_rng(0).normal(size=(4, *plan.img_size, plan.in_chans))
        write_int8(model, path, images.astype(np.float32))
    else:
        write_tflite(model, path)
    return path


if __name__ == "__main__":
    main()
