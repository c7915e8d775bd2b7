"""What a teacher is worth: a ViT-Tiny trained alone, and taught by a ResNet-18, on 4,000 images, over several seeds.

    python benchmarks/distill_quality.py [--seeds 0,1,2] [--methods alone,response,...] [--out FOLDER]
    python benchmarks/distill_quality.py --report
    python benchmarks/distill_quality.py --small --seeds 0        # hardly any work, to see that it runs

Fashion-MNIST. Of the training images 4,000 have labels, and 8,000 more are used without theirs. The teacher is trained
from fresh weights on the 4,000 at 64 px; the student reads 32 px. Every student starts from the same weights of its
seed, and takes as many steps of as many images with the same recipe, but for the last three methods, which take three
times as many: ``unlabelled`` as many epochs as the others, of three times as many images, and ``alone-longer`` and
``response-longer`` as many steps as that on the labelled images alone, so that longer training, a teacher and more
images can be told apart. The epoch that is kept is the best on 2,000 held-out images; the figures are of the 10,000
test images.

Methods: ``alone`` (labels only), ``response`` (T = 4, weight 0.9), ``feature`` (labels and hidden states),
``alone-longer`` (``alone`` for longer), ``response-longer`` and ``unlabelled`` (``response`` on the labelled and on all
12,000 images); and where asked for
``unlabelled-even`` (all images, as many steps as ``response``), ``response-t2`` (T = 2, weight 0.8),
``relation``, ``self``, ``online`` (a teacher of fresh weights trained together with the student) and ``all``
(``response``, ``feature`` and ``relation`` at once).

Every pair of seed and method is a cell with a folder of its own: a killed run goes on where it was, and several
processes can share the work. ``--report`` prints the table of the cells there are.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from compress_quality import folder_of
from quality_setting import locked, mean_sd

from compress.data.augment import Augmentation, augmentation_for
from compress.data.dataset import UNLABELLED, Dataset
from compress.data.load import load_data
from compress.distill.settings import Distillation
from compress.distill.teacher_folder import record_of, save_teacher, trained_teacher
from compress.distill.teachers import Teacher, TimmSpec, teacher_score, timm_teacher
from compress.evaluate import score
from compress.model.load import ModelSpec, load_model, weights_metadata
from compress.model.vit import SlicedViT
from compress.recipe import TrainRecipe
from compress.train.fit import fit, fit_network
from runtime import Preprocessing, write_bytes

RESPONSE_T4, RESPONSE_T2 = Distillation(), Distillation(weight=0.8, temperature=2.0)
DATA = "fashion-mnist"
SPEC = ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1)
TEACHER_SPEC = TimmSpec("resnet18", img_size=64, in_chans=1)
TEACHER, ALONE = "teacher", "alone"
LESSONS: dict[str, Distillation | None] = {
    ALONE: None,
    "response": RESPONSE_T4,
    "feature": Distillation(methods=("feature",)),
    "alone-longer": None,
    "response-longer": RESPONSE_T4,
    "unlabelled": RESPONSE_T4,
    "unlabelled-even": RESPONSE_T4,
    "response-t2": RESPONSE_T2,
    "relation": Distillation(methods=("relation",)),
    "self": Distillation(methods=("self",)),
    "online": replace(RESPONSE_T4, online=True),
    "all": Distillation(methods=("response", "feature", "relation")),
}
ASKED = (ALONE, "response", "feature", "alone-longer", "response-longer", "unlabelled")
WITHOUT_LABELS = ("unlabelled", "unlabelled-even")
LONGER = ("alone-longer", "response-longer", "unlabelled")
UNTAUGHT = (ALONE, "alone-longer", "self")

STUDENT_RECIPE = TrainRecipe(epochs=1, batch_size=64, lr=1e-3, head_lr=1e-3, warmup=0.1, patience=1, clip_norm=1.0)
TEACHER_RECIPE = replace(STUDENT_RECIPE, weight_decay=0.05)


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        labelled: training images with labels.
        unlabelled: further ones without.
        held_out: images to choose the epoch by.
        teacher: epochs of the teacher.
        student: epochs of the student on the labelled images; what is longer takes as many of all images.
    """

    labelled: int
    unlabelled: int
    held_out: int
    teacher: int
    student: int


FULL, SMALL = Sizes(4_000, 8_000, 2_000, 12, 15), Sizes(400, 800, 500, 4, 3)


@dataclass(frozen=True)
class Setting:
    """What all cells of one seed share.

    Attributes:
        seed: of splits, weights, order and augmentation.
        data: whose training split has labels.
        more: the same with unlabelled images in its training split.
        student: the student's input.
        augmentation: of training images.
    """

    seed: int
    data: Dataset
    more: Dataset
    student: Preprocessing
    augmentation: Augmentation


@dataclass(frozen=True)
class Cell:
    """The outcome of one method with one seed.

    Attributes:
        seed: of splits, weights, order and augmentation.
        method: one of ``LESSONS``, or ``teacher``.
        images: in the training split, with and without labels.
        steps: of the optimiser.
        top1: on the test images, 0..1.
        held_out: on the held-out images.
        train_s: wall time; less than all of it where a killed run went on.
    """

    seed: int
    method: str
    images: int
    steps: int
    top1: float
    held_out: float
    train_s: float


def main() -> None:
    """Makes the cells asked for, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--methods", default=",".join(ASKED), help=f"comma-separated, of {', '.join(LESSONS)}")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="hardly any work, to see that it runs")
    parser.add_argument("--report", action="store_true", help="print the table and do nothing else")
    options = parser.parse_args()
    base = Path("runs/benchmarks")
    out = options.out or base / ("distill-quality-small" if options.small else "distill-quality")
    methods = options.methods.split(",")
    if unknown := sorted(set(methods) - set(LESSONS)):
        parser.error(f"unknown methods: {', '.join(unknown)}")
    if not options.report:
        torch.set_num_threads(options.threads)
        sizes = SMALL if options.small else FULL
        for seed, method in product(map(int, options.seeds.split(",")), methods):
            work(out, sizes, seed, method)
    print(report(read_cells(out)))


def work(out: Path, sizes: Sizes, seed: int, method: str) -> None:
    """Makes one cell where it is not there; one that another process makes is left to it, a teacher waited for."""
    folder = folder_of(out, seed, method)
    while not (folder / "cell.json").is_file():
        with locked(folder) as mine:
            if mine and not (folder / "cell.json").is_file():
                if method not in (TEACHER, *UNTAUGHT, "online"):
                    work(out, sizes, seed, TEACHER)
                cell = (teach if method == TEACHER else learn)(prepare(sizes, seed), out, sizes, method)
                write_bytes(folder / "cell.json", (json.dumps(asdict(cell), indent=1) + "\n").encode())
                print(json.dumps(asdict(cell)), flush=True)
        if not mine and method != TEACHER:
            return
        if not mine:
            time.sleep(5)


def prepare(sizes: Sizes, seed: int) -> Setting:
    """Loads the data and takes the labels off some of it."""
    whole = load_data(DATA, seed=seed)
    labelled = load_data(DATA, seed=seed, train_limit=sizes.labelled)
    generator = np.random.default_rng([seed, 61])
    held_out = np.sort(generator.permutation(whole.held_out)[: sizes.held_out])
    rest = generator.permutation(np.setdiff1d(whole.train, labelled.train))[: sizes.unlabelled]
    labels = labelled.labels.copy()
    labels[rest] = UNLABELLED
    data = replace(labelled, held_out=held_out)
    train = np.sort(np.concatenate([data.train, rest]))
    more = replace(data, name=f"{data.name}+unlabelled", labels=labels, train=train)
    stats = weights_metadata(SPEC)
    spec = Preprocessing(SPEC.img_size or 0, SPEC.img_size or 0, 1, stats.mean, stats.std, "bilinear", "stretch")
    return Setting(seed, data, more, spec, augmentation_for(data))


def teach(setting: Setting, out: Path, sizes: Sizes, method: str) -> Cell:
    """Trains the teacher on the labels."""
    folder, started = folder_of(out, setting.seed, method), time.monotonic()
    teacher = fresh_teacher(setting)
    network, epochs = fit_network(
        teacher.network,  # type: ignore[type-var]
        setting.data,
        teacher.preprocessing,
        replace(TEACHER_RECIPE, epochs=sizes.teacher, patience=sizes.teacher),
        augmentation=setting.augmentation,
        seed=setting.seed,
        state_path=folder / "training.safetensors",
        stage=method,
    )
    teacher = replace(teacher, network=network)
    scores = (
        teacher_score(teacher, setting.data, setting.data.test),
        teacher_score(teacher, setting.data, setting.data.held_out),
    )
    save_teacher(folder, record_of(teacher, setting.data, scores, epochs=epochs, kept=True), teacher.network)
    (folder / "training.safetensors").unlink(missing_ok=True)
    count, seconds = len(setting.data.train), time.monotonic() - started
    steps = sizes.teacher * -(-count // TEACHER_RECIPE.batch_size)
    return Cell(setting.seed, method, count, steps, scores[0].top1, scores[1].top1, round(seconds, 1))


def fresh_teacher(setting: Setting) -> Teacher:
    """Returns the teacher before it has learnt anything."""
    return timm_teacher(TEACHER_SPEC, setting.data, setting.student, seed=setting.seed, learns=True)


def learn(setting: Setting, out: Path, sizes: Sizes, method: str) -> Cell:
    """Trains the student, alone or with a teacher."""
    folder, started = folder_of(out, setting.seed, method), time.monotonic()
    data = setting.more if method in WITHOUT_LABELS else setting.data
    seen = len((setting.more if method in LONGER else setting.data).train)
    epochs = max(1, round(sizes.student * seen / len(data.train)))
    trained = fit(
        load_model(SPEC, data.num_classes, setting.seed),
        data,
        setting.student,
        replace(STUDENT_RECIPE, epochs=epochs, patience=epochs),
        augmentation=setting.augmentation,
        seed=setting.seed,
        bf16=True,
        teacher=teacher_for(setting, out, method),
        distillation=LESSONS[method],
        state_path=folder / "training.safetensors",
        stage=method,
    )
    top1, held_out = (accuracy(setting, trained.model, split) for split in (data.test, data.held_out))
    (folder / "training.safetensors").unlink(missing_ok=True)
    steps = epochs * -(-len(data.train) // STUDENT_RECIPE.batch_size)
    return Cell(setting.seed, method, len(data.train), steps, top1, held_out, round(time.monotonic() - started, 1))


def teacher_for(setting: Setting, out: Path, method: str) -> Teacher | None:
    """Returns who teaches by a method."""
    if method in UNTAUGHT:
        return None
    if method == "online":
        return fresh_teacher(setting)
    return trained_teacher(folder_of(out, setting.seed, TEACHER), setting.data)


def accuracy(setting: Setting, model: SlicedViT, indices: np.ndarray) -> float:
    """Returns top-1 on some of the images, 0..1, in bfloat16 as in training."""
    return score(model, setting.data, indices, setting.student, bf16=True).top1


def read_cells(out: Path) -> list[Cell]:
    """Reads the cells there are."""
    return [Cell(**json.loads(path.read_text())) for path in sorted(out.glob("seed-*/*/cell.json"))]


def report(cells: Sequence[Cell]) -> str:
    """Returns the table: per method over the seeds, and against the student alone with as many steps, seed by seed."""
    by = {method: {c.seed: c for c in cells if c.method == method} for method in (TEACHER, *LESSONS)}
    lines = [
        "| method | seeds | images | steps | top-1 | held-out | more than alone as long, points | seeds ahead | time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method, own in by.items():
        if not own:
            continue
        alone = by["alone-longer" if method in LONGER else ALONE]
        values = [own[seed] for seed in sorted(own)]
        ahead = [100 * (own[seed].top1 - alone[seed].top1) for seed in sorted(own.keys() & alone.keys())]
        against = [mean_sd(ahead, "+"), f"{sum(points > 0 for points in ahead)}/{len(ahead)}"]
        figures = [
            method,
            ", ".join(str(cell.seed) for cell in values),
            f"{values[0].images:,}",
            f"{values[0].steps:,}",
            f"{mean_sd([100 * cell.top1 for cell in values])} %",
            f"{mean_sd([100 * cell.held_out for cell in values])} %",
            *(against if ahead and own is not alone else ["", ""]),
            f"{sum(cell.train_s for cell in values) / len(values):.0f} s",
        ]
        lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
