"""What each way of choosing costs in accuracy: one ViT pruned to the same budget in several ways, over several seeds.

    python benchmarks/compress_quality.py [--seeds 0,1,2] [--methods dfbnb,milp] [--out FOLDER]
    python benchmarks/compress_quality.py --report
    python benchmarks/compress_quality.py --budget macs=0.35 --epochs 0.5      # and --report with both
    python benchmarks/compress_quality.py --ladder macs=0.5,macs=0.4 [--seeds 0,1,2]

ViT-Tiny at 32 px on Fashion-MNIST: a baseline is trained from fresh weights for every seed, pruned by every method,
and what is left recovers on the same number of training images, with the same recipe and the baseline as teacher.
Every pair of seed and method is a cell with a folder of its own: a killed run goes on where it was, and several
processes can share the work (a cell that another one works on is left to it). ``--report`` prints the table of the
cells there are. ``--ladder`` prunes the baselines there are to other budgets too, and prints what is left without any
recovery, sliced only and reconstructed.

Methods: ``dfbnb``, ``milp`` and ``one-shot`` are this project's, which reconstruct what is left after slicing. ``l2``,
``taylor`` and ``random`` are the one-shot choice with other importance (``--importance``), sliced and no more.
``torch-pruning`` is that package (``pip install torch-pruning``)
with its own recipe for timm's ViTs: group Taylor importance and widths in multiples of 8, with one ratio for all
layers as it recommends, or (``torch-pruning-global``) with one ranking over all layers.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_pruned import timm_of, torch_pruned

from compress import (
    CRITERIA,
    Augmentation,
    Budget,
    Dataset,
    GroupSizes,
    Importance,
    Kept,
    ModelSpec,
    SlicedViT,
    Task,
    TrainRecipe,
    TreeJournal,
    TreeSettings,
    augmentation_for,
    draw_search_images,
    fit,
    input_stats,
    keep_all,
    load_data,
    load_model,
    parse_budget,
    propose,
    read_model,
    reconstruct,
    save_model,
    score,
    search_set,
    search_tree,
    slice_vit,
    solve,
    training_batches,
    unit_importance,
    weights_sha256,
)
from runtime import Preprocessing, encode, macs, params, write_bytes

SPEC = ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1)
DATA, TRAIN_LIMIT, HELD_OUT = "fashion-mnist", 12_000, 2_000
BUDGET = "macs=0.745"
METHODS = ("milp", "dfbnb", "l2", "torch-pruning", "random", "one-shot", "taylor", "torch-pruning-global")
OURS = ("milp", "dfbnb", "one-shot")
BASELINE = "baseline"

TRAIN = TrainRecipe(epochs=24, batch_size=64, lr=1e-3, head_lr=1e-3, warmup=0.1, patience=24, clip_norm=1.0)
RECOVER = TrainRecipe(epochs=3, batch_size=64, lr=1e-4, head_lr=1e-4, warmup=0.1, patience=3, clip_norm=1.0)

PER_CLASS, GRADIENT_BATCH = 25, 16
TREE = TreeSettings(depth=6, sizes=GroupSizes(mlp=128, qk=16, v=16, embed=8), gradient_batch=GRADIENT_BATCH)
ROUNDS = 12
BETWEEN = 0.25
"""Epochs of recovery after every round of ``dfbnb`` but the last, which has what is left of the total."""

TAYLOR_BATCHES, TAYLOR_BATCH = 10, 64


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
class Setting:
    """What all cells of one seed share."""

    seed: int
    data: Dataset
    preprocessing: Preprocessing
    augmentation: Augmentation
    task: Task


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


@dataclass(frozen=True)
class Cut:
    """A pruned model that has not had its last recovery.

    Attributes:
        model: the model.
        epochs: of recovery it has left.
        search_s: wall time of choosing.
        recover_s: wall time of recovery so far.
        rounds: this one included.
    """

    model: SlicedViT
    epochs: float
    search_s: float
    recover_s: float = 0.0
    rounds: int = 1


def main() -> None:
    """Works on the cells asked for, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated; the baseline comes with any")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/compress-quality"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="print the table and do nothing else")
    parser.add_argument("--budget", default=BUDGET, help="what to prune to")
    parser.add_argument("--epochs", type=float, default=float(RECOVER.epochs), help="of recovery")
    parser.add_argument("--ladder", default="", help="budgets, comma-separated: prune to each, without recovery")
    options = parser.parse_args()
    asked = Asked(options.budget, options.epochs)
    if options.report:
        print(report(read_cells(options.out, asked)))
        return
    torch.set_num_threads(options.threads)
    seeds = [int(seed) for seed in options.seeds.split(",")]
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


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Says whether this process has the cell to itself; the lock goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def make(out: Path, seed: int, method: str, asked: Asked) -> Cell:
    """Trains a baseline, or prunes one and recovers."""
    setting, folder = prepare(seed), folder_of(out, seed, method, asked)
    if method == BASELINE:
        model, seconds = train(setting, load_model(SPEC, setting.data.num_classes, seed), TRAIN, folder, BASELINE)
        save_model(folder, model, setting.task)
        return outcome(setting, method, model, model, (None, None), Cut(model, 0, 0.0, rounds=0), seconds)
    baseline = read_model(folder_of(out, seed, BASELINE))
    cut = choose(setting, method, baseline, asked, folder)
    before = (accuracy(setting, cut.model, "test"), accuracy(setting, cut.model, "held_out"))
    model, seconds = recover(setting, cut.model, baseline, cut.epochs, cut.rounds, folder)
    save_model(folder, model, setting.task)
    return outcome(setting, method, baseline, model, before, cut, seconds)


def prepare(seed: int) -> Setting:
    """Loads the data and says how pictures enter the model."""
    whole = load_data(DATA, seed=seed, train_limit=TRAIN_LIMIT)
    held_out = np.sort(np.random.default_rng([seed, 11]).permutation(whole.held_out)[:HELD_OUT])
    data, stats = replace(whole, held_out=held_out), input_stats(SPEC)
    size = (SPEC.img_size or 0, SPEC.img_size or 0)
    preprocessing = Preprocessing(*size, SPEC.in_chans, stats.mean, stats.std, "bilinear", "stretch")
    source = f"timm {SPEC.name}, fresh weights, seed {seed}"
    task = Task(DATA, seed, TRAIN_LIMIT, preprocessing, data.class_names, source, trained=True)
    return Setting(seed, data, preprocessing, augmentation_for(data), task)


def train(
    setting: Setting,
    model: SlicedViT,
    recipe: TrainRecipe,
    folder: Path,
    name: str,
    teacher: SlicedViT | None = None,
    shift: int = 0,
) -> tuple[SlicedViT, float]:
    """Returns the trained model, and the seconds it took; goes on where a killed training stood."""
    started, state = time.monotonic(), folder / "training.safetensors"
    trained = fit(
        model,
        setting.data,
        setting.preprocessing,
        recipe,
        augmentation=setting.augmentation,
        seed=setting.seed + shift,
        bf16=True,
        teacher=teacher,
        state_path=state,
        stage=name,
    )
    state.unlink(missing_ok=True)
    top1 = " ".join(f"{record.held_out_top1:.4f}" for record in trained.epochs)
    print(f"seed {setting.seed} {folder.name} {name}: held-out {top1}", flush=True)
    return trained.model, time.monotonic() - started


def recover(
    setting: Setting, model: SlicedViT, baseline: SlicedViT, epochs: float, number: int, folder: Path
) -> tuple[SlicedViT, float]:
    """Trains a pruned model for ``epochs``; of a broken number each epoch sees a share of the training images."""
    whole = max(1, math.ceil(epochs))
    count = round(len(setting.data.train) * epochs / whole)
    chosen = np.random.default_rng([setting.seed, 13, number]).permutation(setting.data.train)[:count]
    part = replace(setting, data=replace(setting.data, train=np.sort(chosen)))
    recipe = replace(RECOVER, epochs=whole, patience=whole)
    return train(part, model, recipe, folder, f"recover {number}", baseline, number)


def accuracy(setting: Setting, model: SlicedViT, split: str) -> float:
    """Returns top-1 on the ``test`` or ``held_out`` images, 0..1, in bfloat16 as in training."""
    indices = getattr(setting.data, split)
    return score(model, setting.data, indices, setting.preprocessing, bf16=True).top1


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


def choose(setting: Setting, method: str, baseline: SlicedViT, asked: Asked, folder: Path) -> Cut:
    """Prunes ``baseline`` to the budget."""
    budget = parse_budget(asked.budget, baseline.plan)
    if method == "dfbnb":
        return rounds(setting, baseline, budget, asked.epochs, folder)
    started = time.monotonic()
    model = pruned(setting, method, baseline, budget, mend=method in OURS)
    return Cut(model, asked.epochs, time.monotonic() - started)


def pruned(setting: Setting, method: str, baseline: SlicedViT, budget: Budget, mend: bool) -> SlicedViT:
    """Prunes ``baseline`` to the budget at once, and reconstructs what is left where that is asked for."""
    if method.startswith("torch-pruning"):
        gradients = taylor_gradients(setting, baseline)
        return torch_pruned(baseline, SPEC, budget, gradients, ranked=method == "torch-pruning-global")
    importance = importance_of(setting, method, baseline)
    select = solve if method == "milp" else propose
    kept = select(baseline.plan, importance, budget, keep_all(baseline.plan)).kept
    return mended(setting, baseline, kept, 1) if mend else slice_vit(baseline, kept)


def mended(setting: Setting, whole: SlicedViT, kept: Kept, number: int) -> SlicedViT:
    """Cuts a model as a run does: sliced, then reconstructed on training images of its own."""
    images = draw_search_images(
        setting.data,
        setting.preprocessing,
        setting.augmentation,
        per_class=PER_CLASS,
        seed=setting.seed,
        iteration=10_000 + number,
    )
    return reconstruct(slice_vit(whole, kept), whole, kept, (pixels for pixels, _ in images.batches(GRADIENT_BATCH)))


def importance_of(setting: Setting, method: str, model: SlicedViT) -> Importance:
    """Returns importance by the method's criterion: Fisher's, unless the method is called by another's name."""
    images = search_set(setting.data, PER_CLASS, setting.seed)
    batches = training_batches(
        setting.data,
        images,
        setting.preprocessing,
        setting.augmentation,
        batch_size=GRADIENT_BATCH,
        seed=setting.seed,
        epoch=0,
    )
    criterion = next((one for one in CRITERIA if one == method), "fisher")
    return unit_importance(criterion, model, batches, seed=setting.seed, bf16=True)


def rounds(setting: Setting, baseline: SlicedViT, budget: Budget, epochs: float, folder: Path) -> Cut:
    """Searches, slices and recovers round after round, up to the last slice; what a round made is kept."""
    model, searched, recovered = baseline, 0.0, 0.0
    for number in range(1, ROUNDS + 1):
        place = folder / f"round-{number:02}"
        known, asked = place / "seconds.json", {"weights": weights_sha256(model), "tree": encode(TREE)}
        images = draw_search_images(
            setting.data,
            setting.preprocessing,
            setting.augmentation,
            per_class=PER_CLASS,
            seed=setting.seed,
            iteration=number,
        )
        started, journal = time.monotonic(), TreeJournal(place / "journal.jsonl", asked)
        total = budget.of(baseline.plan)
        found = search_tree(
            model, images, budget.cost, total, TREE, budget=budget, bf16=True, journal=journal
        ).best_smaller
        assert found is not None, "the groups are larger than the model"
        seconds = json.loads(known.read_text()) if known.is_file() else {"search": time.monotonic() - started}
        write_bytes(known, json.dumps(seconds).encode())
        searched += seconds["search"]
        path = " ".join(f"{step.action}{step.block}" for step in found.path)
        print(f"seed {setting.seed} round {number}: {found.cost / total:.4f} of the MACs, {path}", flush=True)
        model = mended(setting, model, found.kept, number)
        left = epochs - BETWEEN * (number - 1)
        if budget.of(model.plan) <= budget.limit:
            return Cut(model, left, searched, recovered, number)
        if not (place / "plan.json").is_file():
            assert left > BETWEEN, "the rounds have used up all epochs of recovery"
            model, seconds["recover"] = recover(setting, model, baseline, BETWEEN, number, place)
            save_model(place, model, setting.task)
            write_bytes(known, json.dumps(seconds).encode())
        model = read_model(place)
        recovered += json.loads(known.read_text())["recover"]
    raise AssertionError(f"the budget is not met after {ROUNDS} rounds")


def taylor_gradients(setting: Setting, baseline: SlicedViT) -> dict[str, torch.Tensor]:
    """Returns gradients summed over batches, by timm's names."""
    model, count = timm_of(baseline, SPEC), TAYLOR_BATCHES * TAYLOR_BATCH
    images = np.random.default_rng([setting.seed, 19]).permutation(setting.data.train)[:count]
    for pictures, labels in training_batches(
        setting.data,
        images,
        setting.preprocessing,
        setting.augmentation,
        batch_size=TAYLOR_BATCH,
        seed=setting.seed,
        epoch=0,
    ):
        torch.nn.functional.cross_entropy(model(pictures), labels).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


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


def mean_sd(values: Sequence[float], sign: str = "") -> str:
    """Formats mean and sample standard deviation, the latter where there are two values or more.

    >>> mean_sd([1.0, 2.0, 3.0], "+")
    '+2.00 ± 1.00'
    """
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.2f}{spread}"


if __name__ == "__main__":
    main()
