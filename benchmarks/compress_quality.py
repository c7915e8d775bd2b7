"""What each way of choosing costs in accuracy: one ViT pruned to the same budget in several ways, over several seeds.

    python benchmarks/compress_quality.py [--seeds 0,1,2] [--methods dfbnb,milp] [--out FOLDER]
    python benchmarks/compress_quality.py --report [--seeds 3,4,5]
    python benchmarks/compress_quality.py --budget macs=0.35 --epochs 0.5      # and --report with both
    python benchmarks/compress_quality.py --ladder macs=0.5,macs=0.4 [--seeds 0,1,2]

ViT-Tiny at 32 px on Fashion-MNIST: a baseline is trained from fresh weights for every seed, pruned by every method,
and what is left recovers on the same number of training images, with the same recipe and the baseline as teacher.
Every pair of seed and method is a cell with a folder of its own: a killed run goes on where it was, and several
processes can share the work (a cell that another one works on is left to it). ``--report`` prints the table of the
cells there are, or of those seeds. ``--ladder`` prunes the baselines there are to other budgets too, and prints what
is left without any recovery, sliced only and reconstructed.

Methods: ``dfbnb``, ``milp`` and ``one-shot`` are this project's on single units, which reconstruct what is left after
slicing, and ``milp-bases`` cuts in the best bases, as runs do by default. ``l2``, ``taylor`` and ``random`` are the
one-shot choice with other importance (``--importance``), sliced and no more.
``torch-pruning`` is that package (``pip install torch-pruning``) with its own recipe for timm's ViTs: group Taylor
importance and widths in multiples of 8, with one ratio for all layers as it recommends, or (``torch-pruning-global``)
with one ranking over all layers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from quality_setting import BASELINE, RECOVER, SPEC, TRAIN, Setting, accuracy, locked, mean_sd, prepare, recover, train
from ways_to_prune import BETWEEN, Cut, choose, pruned

from compress.budget import parse_budget
from compress.model.folder import read_model, save_model
from compress.model.load import load_model
from compress.model.vit import SlicedViT
from runtime import macs, params, write_bytes

BUDGET = "macs=0.745"
METHODS = ("milp", "dfbnb", "l2", "torch-pruning", "random", "one-shot", "taylor", "torch-pruning-global", "milp-bases")


@dataclass(frozen=True)
class Asked:
    """What every method is to do.

    Attributes:
        budget: to prune to.
        epochs: of recovery, all rounds together.
    """

    budget: str = BUDGET
    epochs: float = RECOVER.epochs

    @property
    def suffix(self) -> str:
        """What the folders of these cells end in; nothing for the usual ones."""
        budget = self.budget if self.budget != BUDGET else ""
        epochs = f"epochs={self.epochs:g}" if self.epochs != RECOVER.epochs else ""
        return "".join(f"@{part}" for part in (budget, epochs) if part)


USUAL = Asked()


@dataclass(frozen=True)
class Cell:
    """The outcome of one method with one seed.

    Attributes:
        seed: of splits, weights, order and augmentation.
        method: one of ``METHODS``, or ``baseline``.
        macs: of the model.
        params: of the model.
        macs_share: of the baseline's, 0..1.
        params_share: of the baseline's, 0..1.
        top1_before: on the test images before any recovery; of ``dfbnb`` after its last cut, or None for a baseline.
        top1: on the test images in the end.
        held_out_before: as ``top1_before``, on the held-out images.
        held_out: as ``top1``, on the held-out images.
        search_s: wall time of choosing, all rounds.
        recover_s: wall time of training; less than all of it where a killed run went on.
        rounds: of search and recovery.
        widths: embed_dim, then heads, qk, v and mlp of every block.
    """

    seed: int
    method: str
    macs: int
    params: int
    macs_share: float
    params_share: float
    top1_before: float | None
    top1: float
    held_out_before: float | None
    held_out: float
    search_s: float
    recover_s: float
    rounds: int
    widths: list[Any]


def main() -> None:
    """Works on the cells asked for, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default=None, help="comma-separated; 0,1,2 to work on, all to report")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated; the baseline comes with any")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/compress-quality"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="print the table and do nothing else")
    parser.add_argument("--budget", default=BUDGET, help="what to prune to")
    parser.add_argument("--epochs", type=float, default=float(RECOVER.epochs), help="of recovery")
    parser.add_argument("--ladder", default="", help="budgets, comma-separated: prune to each, without recovery")
    options = parser.parse_args()
    asked = Asked(options.budget, options.epochs)
    seeds = [int(seed) for seed in (options.seeds or "0,1,2").split(",")]
    if options.report:
        cells = read_cells(options.out, asked)
        print(report([cell for cell in cells if options.seeds is None or cell.seed in seeds]))
        return
    torch.set_num_threads(options.threads)
    methods = [method for method in options.methods.split(",") if method]
    if "dfbnb" in methods and not options.ladder and options.epochs <= BETWEEN:
        parser.error(
            f"dfbnb recovers {BETWEEN} epochs after its first round alone; give more --epochs or other --methods"
        )
    if options.ladder:
        for line in ladder(options.out, seeds, [m for m in methods if m != "dfbnb"], options.ladder.split(",")):
            print(line, flush=True)
        return
    work(options.out, [(seed, method) for seed in seeds for method in (BASELINE, *methods)], asked)


def work(out: Path, cells: Sequence[tuple[int, str]], asked: Asked = USUAL) -> None:
    """Makes every cell that is not there, waiting for those that other processes make."""
    while missing := [cell for cell in cells if not (folder_of(out, *cell, asked) / "cell.json").is_file()]:
        for seed, method in missing:
            folder = folder_of(out, seed, method, asked)
            ready = method == BASELINE or (folder_of(out, seed, BASELINE) / "cell.json").is_file()
            if not ready:
                continue
            with locked(folder) as mine:
                if mine and not (folder / "cell.json").is_file():
                    cell = make(out, seed, method, asked)
                    write_bytes(folder / "cell.json", (json.dumps(asdict(cell), indent=1) + "\n").encode())
                    print(json.dumps({k: v for k, v in asdict(cell).items() if k != "widths"}), flush=True)
                    break
        else:
            time.sleep(5)


def folder_of(out: Path, seed: int, method: str, asked: Asked = USUAL) -> Path:
    """Returns where a cell is kept."""
    return out / f"seed-{seed}" / (method if method == BASELINE else f"{method}{asked.suffix}")


def make(out: Path, seed: int, method: str, asked: Asked) -> Cell:
    """Trains a baseline, or prunes one and recovers."""
    setting, folder = prepare(seed), folder_of(out, seed, method, asked)
    if method == BASELINE:
        model, seconds = train(setting, load_model(SPEC, setting.data.num_classes, seed), TRAIN, folder, BASELINE)
        save_model(folder, model, setting.task)
        return outcome(setting, method, model, model, (None, None), Cut(model, 0, 0.0, rounds=0), seconds)
    baseline = read_model(folder_of(out, seed, BASELINE))
    cut = choose(setting, method, baseline, asked.budget, asked.epochs, folder)
    before = (accuracy(setting, cut.model, "test"), accuracy(setting, cut.model, "held_out"))
    model, seconds = recover(setting, cut.model, baseline, cut.epochs, cut.rounds, folder)
    save_model(folder, model, setting.task)
    return outcome(setting, method, baseline, model, before, cut, seconds)


def outcome(
    setting: Setting,
    method: str,
    baseline: SlicedViT,
    model: SlicedViT,
    before: tuple[float | None, float | None],
    cut: Cut,
    seconds: float,
) -> Cell:
    """Puts together what is known of a cell."""
    plan, whole = model.plan, baseline.plan
    return Cell(
        seed=setting.seed,
        method=method,
        macs=macs(plan),
        params=params(plan),
        macs_share=macs(plan) / macs(whole),
        params_share=params(plan) / params(whole),
        top1_before=before[0],
        top1=accuracy(setting, model, "test"),
        held_out_before=before[1],
        held_out=accuracy(setting, model, "held_out"),
        search_s=round(cut.search_s, 1),
        recover_s=round(cut.recover_s + seconds, 1),
        rounds=cut.rounds,
        widths=[plan.embed_dim, *([b.num_heads, b.qk_dim, b.v_dim, b.mlp_dim] for b in plan.blocks)],
    )


def read_cells(out: Path, asked: Asked = USUAL) -> list[Cell]:
    """Reads the cells there are of one budget and recovery, and the baselines."""
    cells = [(path.parent, Cell(**json.loads(path.read_text()))) for path in sorted(out.glob("seed-*/*/cell.json"))]
    return [cell for folder, cell in cells if folder == folder_of(out, cell.seed, cell.method, asked)]


def report(cells: Sequence[Cell]) -> str:
    """Returns the tables: per method over the seeds, and method against method seed by seed."""
    base = {cell.seed: cell for cell in cells if cell.method == BASELINE}
    by = {method: {c.seed: c for c in cells if c.method == method and c.seed in base} for method in METHODS}
    whole = [100 * cell.top1 for cell in base.values()]
    lines = [
        f"Baseline: {mean_sd(whole)} % of the test images, seeds {', '.join(map(str, sorted(base)))}.",
        "",
        "| method | MACs | params | top-1 cut | top-1 recovered | against the baseline, points | search | rounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, own in by.items():
        if own:
            values = own.values()
            change = [100 * (cell.top1 - base[seed].top1) for seed, cell in own.items()]
            cut = [100 * cell.top1_before for cell in values if cell.top1_before is not None]
            lines.append(
                f"| {method} | {statistics.mean(100 * c.macs_share for c in values):.1f} % "
                f"| {statistics.mean(100 * c.params_share for c in values):.1f} % | {mean_sd(cut)} % "
                f"| {mean_sd([100 * c.top1 for c in values])} % | {mean_sd(change, '+')} "
                f"| {statistics.mean(c.search_s for c in values):.0f} s "
                f"| {'/'.join(str(own[seed].rounds) for seed in sorted(own))} |"
            )
    present = [method for method in METHODS if by[method]]
    lines += ["", "Row less column, points of top-1, seed by seed:", ""]
    lines += ["| | " + " | ".join(present) + " |", "|---" * (len(present) + 1) + "|"]
    for row in present:
        lines.append(f"| {row} | " + " | ".join(against(by[row], by[column]) for column in present) + " |")
    return "\n".join(lines)


def ladder(out: Path, seeds: Sequence[int], methods: Sequence[str], budgets: Sequence[str]) -> Iterator[str]:
    """Yields the rows of top-1 without recovery, mean and spread over seeds, and the MACs that are left."""
    yield "| method | " + " | ".join(budgets) + " |"
    yield "|---" * (len(budgets) + 1) + "|"
    settings = [(prepare(seed), read_model(folder_of(out, seed, BASELINE))) for seed in seeds]
    for method, mend in product(methods, (False, True)):
        if mend and method.startswith("torch-pruning"):
            continue
        row = []
        for text in budgets:
            models = [pruned(s, method, base, parse_budget(text, base.plan), mend) for s, base in settings]
            top1 = [100 * accuracy(s, model, "test") for (s, _), model in zip(settings, models, strict=True)]
            share = statistics.mean(macs(m.plan) / macs(b.plan) for (_, b), m in zip(settings, models, strict=True))
            row.append(f"{mean_sd(top1)} % ({100 * share:.1f} % of MACs)")
        yield f"| {method}{', reconstructed' if mend else ''} | " + " | ".join(row) + " |"


def against(ours: dict[int, Cell], theirs: dict[int, Cell]) -> str:
    """Formats the differences in top-1 over the seeds both have."""
    seeds = sorted(ours.keys() & theirs.keys())
    if ours is theirs or not seeds:
        return ""
    return mean_sd([100 * (ours[seed].top1 - theirs[seed].top1) for seed in seeds], "+")


if __name__ == "__main__":
    main()
