"""What learnt widths are worth: a ViT pruned by TAS, against the same ViT scaled evenly to as many FLOPs.

    python benchmarks/tas_quality.py [--seeds 6,7,8] [--out FOLDER] [--baselines FOLDER]
    python benchmarks/tas_quality.py --report
    python benchmarks/tas_quality.py --epochs 6               # of transfer; and --report with it
    python benchmarks/tas_quality.py --lr 5e-4                # of transfer, likewise
    python benchmarks/tas_quality.py --no-reconstruct         # likewise
    python benchmarks/tas_quality.py --exact                  # likewise: odds learnt as published
    python benchmarks/tas_quality.py --with hot=10            # likewise: one setting of the search another
    python benchmarks/tas_quality.py --small --seeds 0        # a tenth of the work, to see that it runs

ViT-Tiny at 32 px on Fashion-MNIST. The baselines are those of ``compress_quality.py``, and trained where they are not
there. TAS learns widths and depth for 0.6 of the baseline's FLOPs, at most 5 % below. Everything after that is equal:
units are kept by the same importance, what is left is reconstructed on the same images, as runs do, and recovers by
the recipe of ``compress_quality.py``, in the same order, with the same augmentation and teacher. The weights of the
search are trained by that recipe too. A search is kept, and serves every kind of transfer.

Seeds 0, 1, 3, 4 and 5 were looked at while the usual settings were chosen; 6, 7 and 8 were not.

Methods: ``tas``; ``uniform``, every width of every block scaled by the same share, to the FLOPs of that seed's TAS or
up to 1 % more; and ``uniform-longer``, the same model recovering for as many more epochs as the search took.

Every pair of seed and method is a cell with a folder of its own: a killed run goes on where it was, and several
processes can share the work. ``--report`` prints the table of the cells there are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compress_quality import folder_of
from quality_setting import (
    BASELINE,
    RECOVER,
    TRAIN,
    Setting,
    accuracy,
    importance_of,
    locked,
    mean_sd,
    prepare,
    train,
)
from ways_to_prune import mended

from compress.budget import COUNTS, parse_budget
from compress.importance.units import Importance
from compress.model.folder import read_model, save_model
from compress.model.load import ModelSpec, load_model
from compress.model.slicing import KeptUnits, slice_vit
from compress.model.vit import SlicedViT
from compress.recipe import TrainRecipe
from compress.search.tas.search import TAS_STATE, search_tas
from compress.search.tas.settings import ODDS_AS_PUBLISHED, OddsRecipe
from compress.search.uniform import even_plan, most_important
from runtime import decode, encode, macs, params, write_bytes

SPEC = ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1)
BUDGET, TOLERANCE = "macs=0.6", 0.05
TAS, PUBLISHED = OddsRecipe(tolerance=TOLERANCE), replace(ODDS_AS_PUBLISHED, tolerance=TOLERANCE)
LONGER = "uniform-longer"
METHODS = ("tas", "uniform", LONGER)
SEARCH = "search"
SPREAD = 1.01
"""Most FLOPs of the evenly scaled model, as a share of those of TAS; widths are multiples of 8 and cannot be equal."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        images: of the training split that are used, at most.
        test: of the test split, at most.
        train: epochs of the baseline, where it is not there yet.
        search: epochs of the search, of half the images for the weights and half for the odds.
        recover: epochs of recovery.
    """

    images: int
    test: int
    train: int
    search: int
    recover: int


FULL, SMALL = Sizes(12_000, 10_000, TRAIN.epochs, 6, 1), Sizes(1_200, 2_000, 3, 2, 1)


@dataclass(frozen=True)
class Asked:
    """What is asked of every method.

    Attributes:
        out: where cells are kept.
        baselines: where baselines are.
        sizes: how much of everything.
        lr: learning rate of recovery.
        mend: reconstruct what is left after slicing.
        tas: how odds are learnt.
        kind: what the folder of the search ends in; nothing for the usual one.
        suffix: what the folders of these cells end in; nothing for the usual ones.
    """

    out: Path
    baselines: Path
    sizes: Sizes
    lr: float
    mend: bool
    tas: OddsRecipe
    kind: str
    suffix: str

    def folder(self, seed: int, method: str) -> Path:
        """Returns where a cell is kept."""
        return folder_of(self.out, seed, f"{method}{self.suffix}")


@dataclass(frozen=True)
class Cell:
    """The outcome of one method with one seed.

    Attributes:
        seed: of splits, weights, order, augmentation and samples.
        method: one of ``METHODS``.
        macs: of the model.
        macs_share: of the baseline's, 0..1.
        params_share: of the baseline's, 0..1.
        baseline_top1: of the baseline on the test images, 0..1.
        top1_before: before any recovery.
        top1: in the end.
        search_s: wall time of choosing; less than all of it where a killed run went on.
        recover_s: wall time of recovery, likewise.
        epochs: of recovery.
        plan: its shape.
    """

    seed: int
    method: str
    macs: int
    macs_share: float
    params_share: float
    baseline_top1: float
    top1_before: float
    top1: float
    search_s: float
    recover_s: float
    epochs: int
    plan: dict[str, Any]


def main() -> None:
    """Makes the cells asked for, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="6,7,8", help="comma-separated")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--baselines", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=None, help="of transfer")
    parser.add_argument("--lr", type=float, default=RECOVER.lr, help="of transfer")
    parser.add_argument("--exact", action="store_true", help="learn the odds as published")
    parser.add_argument(
        "--with", dest="changes", action="append", default=[], metavar="NAME=VALUE", help="of the search, repeatable"
    )
    parser.add_argument("--reconstruct", action=argparse.BooleanOptionalAction, default=True, help="after slicing")
    parser.add_argument("--small", action="store_true", help="a tenth of the work")
    parser.add_argument("--report", action="store_true", help="print the table and do nothing else")
    options = parser.parse_args()
    for change in options.changes:
        if change.partition("=")[0] not in encode(TAS):
            parser.error(f"--with takes one of {', '.join(encode(TAS))}, as NAME=VALUE; got {change}")
    asked = asked_for(options)
    if not options.report:
        torch.set_num_threads(options.threads)
        for seed, method in product(map(int, options.seeds.split(",")), options.methods.split(",")):
            work(asked, seed, method)
    print(report(read_cells(asked)))


def asked_for(options: argparse.Namespace) -> Asked:
    """Reads the options."""
    usual = SMALL if options.small else FULL
    out = options.out or Path("runs/benchmarks/tas-quality-small" if options.small else "runs/benchmarks/tas-quality")
    baselines = options.baselines or (out if options.small else Path("runs/benchmarks/compress-quality"))
    sizes = usual if options.epochs is None else replace(usual, recover=options.epochs)
    tas, kind = PUBLISHED if options.exact else TAS, "@exact" if options.exact else ""
    for change in sorted(options.changes):
        name, _, value = change.partition("=")
        tas = replace(tas, **{name: type(getattr(tas, name))(value)})
        kind += f"@{change}"
    rate = "" if options.lr == RECOVER.lr else f"@lr={options.lr:g}"
    told = (kind, "" if sizes == usual else f"@epochs={sizes.recover}", rate, "" if options.reconstruct else "@sliced")
    return Asked(out, baselines, sizes, options.lr, options.reconstruct, tas, kind, "".join(told))


def work(asked: Asked, seed: int, method: str) -> None:
    """Makes one cell, where it is not there and nobody else is at it."""
    folder = asked.folder(seed, method)
    with locked(folder) as mine:
        if not mine or (folder / "cell.json").is_file():
            return
        setting = shrunk(prepare(seed), asked.sizes)
        baseline = baseline_of(setting, folder_of(asked.baselines, seed, BASELINE), asked.sizes)
        target = None
        if method != "tas":
            work(asked, seed, "tas")
            target = json.loads((asked.folder(seed, "tas") / "cell.json").read_text())["macs"]
        cell = make(setting, asked, baseline, method, target)
        write_bytes(folder / "cell.json", (json.dumps(asdict(cell), indent=1) + "\n").encode())
        print(json.dumps({k: v for k, v in asdict(cell).items() if k != "plan"}), flush=True)


def shrunk(setting: Setting, sizes: Sizes) -> Setting:
    """Returns the setting with at most so many images to train and to test on."""
    data, generator = setting.data, np.random.default_rng([setting.seed, 41])
    train, test = (
        np.sort(generator.permutation(part)[:most])
        for part, most in ((data.train, sizes.images), (data.test, sizes.test))
    )
    return replace(setting, data=replace(data, train=train, test=test))


def baseline_of(setting: Setting, folder: Path, sizes: Sizes) -> SlicedViT:
    """Returns the baseline in ``folder``, which is trained there where it is missing."""
    if not (folder / "plan.json").is_file():
        recipe = replace(TRAIN, epochs=sizes.train, patience=max(1, sizes.train))
        fresh = load_model(SPEC, setting.data.num_classes, setting.seed)
        model, _ = train(setting, fresh, recipe, folder, BASELINE)
        save_model(folder, model, setting.task)
    return read_model(folder)


def make(setting: Setting, asked: Asked, baseline: SlicedViT, method: str, target: int | None) -> Cell:
    """Chooses, slices, reconstructs and recovers."""
    importance, sizes = importance_of(setting, method, baseline), asked.sizes
    if target is None:
        kept, search_s = searched(setting, asked, baseline, importance)
    else:
        plan = even_plan(baseline.plan, COUNTS["macs"], target, int(SPREAD * target))
        assert plan is not None, "no multiples of 8 come near these FLOPs"
        kept, search_s = most_important(baseline.plan, importance, plan), 0.0
    model = mended(setting, baseline, kept, 1) if asked.mend else slice_vit(baseline, kept)
    before, folder = accuracy(setting, model, "test"), asked.folder(setting.seed, method)
    epochs = sizes.recover + (sizes.search if method == LONGER else 0)
    recipe = recipe_of(epochs, asked.lr)
    model, recover_s = train(setting, model, recipe, folder, f"recover {method}", baseline, shift=1)
    save_model(folder, model, setting.task)
    return Cell(
        seed=setting.seed,
        method=method,
        macs=macs(model.plan),
        macs_share=macs(model.plan) / macs(baseline.plan),
        params_share=params(model.plan) / params(baseline.plan),
        baseline_top1=accuracy(setting, baseline, "test"),
        top1_before=before,
        top1=accuracy(setting, model, "test"),
        search_s=round(search_s, 1),
        recover_s=round(recover_s, 1),
        epochs=epochs,
        plan=encode(model.plan),
    )


def recipe_of(epochs: int, lr: float) -> TrainRecipe:
    """Returns the recipe of recovery, and of the search's weights, for so many epochs at that rate."""
    return replace(RECOVER, epochs=epochs, patience=max(1, epochs), lr=lr, head_lr=lr)


def searched(setting: Setting, asked: Asked, baseline: SlicedViT, importance: Importance) -> tuple[KeptUnits, float]:
    """Returns what TAS keeps, and the seconds it took; goes on where a killed search stood, and keeps what it found."""
    folder = folder_of(asked.out, setting.seed, f"{SEARCH}{asked.kind}")
    known, started = folder / "kept.json", time.monotonic()
    if not known.is_file():
        found = search_tas(
            baseline,
            importance,
            parse_budget(BUDGET, baseline.plan),
            setting.data,
            setting.preprocessing,
            recipe_of(asked.sizes.search, RECOVER.lr),
            asked.tas,
            augmentation=setting.augmentation,
            seed=setting.seed,
            bf16=True,
            folder=folder,
            progress=told,
        )
        write_bytes(known, json.dumps({"kept": encode(found.kept), "seconds": time.monotonic() - started}).encode())
        (folder / TAS_STATE).unlink(missing_ok=True)
    record = json.loads(known.read_text())
    return decode(KeptUnits, record["kept"], str(known)), record["seconds"]


def told(stage: str, done: int, total: int, note: str = "") -> None:
    """Says every so often where a search is."""
    if done % max(1, total // 20) == 0:
        print(f"{stage} {done}/{total}: {note}", flush=True)


def read_cells(asked: Asked) -> list[Cell]:
    """Reads the cells there are of what is asked for."""
    cells = [
        (path.parent, Cell(**json.loads(path.read_text()))) for path in sorted(asked.out.glob("seed-*/*/cell.json"))
    ]
    return [cell for folder, cell in cells if folder == asked.folder(cell.seed, cell.method)]


def report(cells: Sequence[Cell]) -> str:
    """Returns the tables: per method over the seeds, and what TAS chose."""
    by = {method: {c.seed: c for c in cells if c.method == method} for method in METHODS}
    ours = by["tas"]
    base = [100 * cell.baseline_top1 for cell in ours.values()]
    lines = [
        f"Baseline: {mean_sd(base)} % of the test images, seeds {', '.join(map(str, sorted(ours)))}.",
        "",
        "| method | MACs | params | top-1 cut | top-1 recovered | TAS less this, points | search | epochs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, own in by.items():
        if own:
            values = own.values()
            ahead = [100 * (ours[seed].top1 - own[seed].top1) for seed in sorted(own.keys() & ours.keys())]
            lines.append(
                f"| {method} | {mean_sd([100 * c.macs_share for c in values])} % "
                f"| {statistics.mean(100 * c.params_share for c in values):.1f} % "
                f"| {mean_sd([100 * c.top1_before for c in values])} % | {mean_sd([100 * c.top1 for c in values])} % "
                f"| {mean_sd(ahead, '+') if own is not ours else ''} "
                f"| {statistics.mean(c.search_s for c in values):.0f} s | {max(c.epochs for c in values)} |"
            )
    lines += ["", "| seed | method | embed_dim | blocks | heads | mlp_dim |", "|---|---|---|---|---|---|"]
    for cell in sorted(cells, key=lambda cell: (cell.seed, METHODS.index(cell.method))):
        if cell.method != LONGER:
            blocks = cell.plan["blocks"]
            heads, mlps = (" ".join(str(block[name]) for block in blocks) for name in ("num_heads", "mlp_dim"))
            lines.append(
                f"| {cell.seed} | {cell.method} | {cell.plan['embed_dim']} | {len(blocks)} | {heads} | {mlps} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
