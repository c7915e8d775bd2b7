"""What benchmarks of accuracy share: the model, its data, how it is trained, and folders that one process has."""

from __future__ import annotations

import fcntl
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from compress.data.augment import Augmentation, augmentation_for
from compress.data.batches import training_batches
from compress.data.dataset import Dataset
from compress.data.load import load_data
from compress.data.splits import search_set
from compress.evaluate import score
from compress.importance import CRITERIA
from compress.importance.base import ImportanceInputs
from compress.importance.units import Importance
from compress.model.folder import Task
from compress.model.load import ModelSpec, weights_metadata
from compress.model.vit import SlicedViT
from compress.recipe import TrainRecipe
from compress.train.fit import fit
from runtime import Preprocessing

SPEC = ModelSpec("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1)
DATA, TRAIN_LIMIT, HELD_OUT = "fashion-mnist", 12_000, 2_000
BASELINE = "baseline"

TRAIN = TrainRecipe(epochs=24, batch_size=64, lr=1e-3, head_lr=1e-3, warmup=0.1, patience=24, clip_norm=1.0)
RECOVER = TrainRecipe(epochs=3, batch_size=64, lr=1e-4, head_lr=1e-4, warmup=0.1, patience=3, clip_norm=1.0)

PER_CLASS, GRADIENT_BATCH = 25, 16


@dataclass(frozen=True)
class Setting:
    """What all cells of one seed share."""

    seed: int
    data: Dataset
    preprocessing: Preprocessing
    augmentation: Augmentation
    task: Task


def prepare(seed: int) -> Setting:
    """Loads the data and says how pictures enter the model."""
    whole = load_data(DATA, seed=seed, train_limit=TRAIN_LIMIT)
    held_out = np.sort(np.random.default_rng([seed, 11]).permutation(whole.held_out)[:HELD_OUT])
    data, stats = replace(whole, held_out=held_out), weights_metadata(SPEC)
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
    return CRITERIA[criterion].importance(ImportanceInputs(model, batches, seed=setting.seed, bf16=True))


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


def mean_sd(values: Sequence[float], sign: str = "") -> str:
    """Formats mean and sample standard deviation, the latter where there are two values or more.

    >>> mean_sd([1.0, 2.0, 3.0], "+")
    '+2.00 ± 1.00'
    """
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.2f}{spread}"
