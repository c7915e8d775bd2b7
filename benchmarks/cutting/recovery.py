"""Recovery of a cut model without labels, within so many minutes: it learns the whole model's answers and features."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import torch

from compress.data.augment import augmentation_for
from compress.data.dataset import Dataset
from compress.distill.settings import Distillation
from compress.evaluate import logits_of
from compress.model.coordinates import Coordinates
from compress.model.vit import SlicedViT
from compress.recipe import TrainRecipe
from compress.train.fit import bf16_helps, fit
from pocketvit.pipeline.label_free import without_labels
from runtime import DataError, Progress, silent

from .cut_model import CutModel
from .pictures import Pictures

RECIPE = TrainRecipe(epochs=1, batch_size=32, lr=1e-5, head_lr=1e-5, warmup=0.1, clip_norm=1.0)
_HELD_OUT, _TRIAL_STEPS, _WARM_STEPS = 256, 6, 2


def recover(cut: CutModel, whole: SlicedViT, pictures: Pictures, minutes: float, seed: int) -> tuple[SlicedViT, int]:
    """Returns the recovered model and the number of images it has learnt from.

    As in a run without labels, the student's loss is the divergence of its answers from the whole model's, and the
    relative squared error of its last tokens; labels weigh nothing. The epoch whose answers agree most with the whole
    model's on held-out images is kept.

    Args:
        cut: the cut model; it is not changed.
        whole: the model to learn from.
        pictures: the set whose training images are learnt from.
        minutes: wall time of it all; the first steps are timed, and as many images are taken as fit.
        seed: seed of the choice of images, their order and augmentation.

    Raises:
        DataError: there are fewer training images than two steps take.
    """
    if len(pictures.data.train) < 2 * RECIPE.batch_size:
        raise DataError(
            "There are too few training images to recover on",
            expected=f"{2 * RECIPE.batch_size} or more",
            got=len(pictures.data.train),
        )
    deadline = time.monotonic() + 60 * minutes
    data = _as_the_whole_answers(whole, pictures, seed)
    count = max(RECIPE.batch_size, _images_until(deadline, cut, whole, pictures, data, seed))
    epochs = math.ceil(count / len(data.train))
    share = np.random.default_rng([seed, 17]).permutation(data.train)[: math.ceil(count / epochs)]
    recipe = replace(RECIPE, epochs=epochs, patience=epochs)
    part = replace(data, train=np.sort(share))
    return _fit(cut, whole, pictures, part, recipe, seed), epochs * len(share)


def _as_the_whole_answers(whole: SlicedViT, pictures: Pictures, seed: int) -> Dataset:
    """Returns the data with the whole model's answers as labels of a few held-out images, and class 0 for the rest."""
    data = pictures.data
    held_out = np.sort(np.random.default_rng([seed, 18]).permutation(data.held_out)[:_HELD_OUT])
    labels = np.zeros(len(data.labels), np.int64)
    labels[held_out] = logits_of(whole, data, held_out, pictures.spec).argmax(1)
    return replace(data, labels=labels, held_out=held_out)


def _images_until(
    deadline: float, cut: CutModel, whole: SlicedViT, pictures: Pictures, data: Dataset, seed: int
) -> int:
    """Returns how many images can be learnt from until a moment of the monotonic clock, by timing a few steps."""
    trial = replace(data, train=data.train[: RECIPE.batch_size * _TRIAL_STEPS])
    moments: list[float] = []

    def clock(stage: str, done: int, total: int, note: str = "") -> None:
        moments.append(time.monotonic())

    _fit(cut, whole, pictures, trial, RECIPE, seed, clock)
    ended = time.monotonic()
    steps = moments[: len(trial.train) // RECIPE.batch_size]
    warm = min(_WARM_STEPS, len(steps) - 2)
    step_s = (steps[-1] - steps[warm]) / (len(steps) - 1 - warm)
    scoring_s = ended - steps[-1]
    return int(RECIPE.batch_size * (deadline - ended - scoring_s) / step_s)


def _fit(
    cut: CutModel,
    whole: SlicedViT,
    pictures: Pictures,
    data: Dataset,
    recipe: TrainRecipe,
    seed: int,
    progress: Progress = silent,
) -> SlicedViT:
    back = None
    if cut.back is not None:
        back = Coordinates(cut.back, torch.zeros(cut.back.shape[1]) if cut.offset is None else cut.offset)
    return fit(
        cut.model,
        data,
        pictures.spec,
        recipe,
        augmentation=augmentation_for(data),
        seed=seed,
        bf16=bf16_helps(whole.plan),
        teacher=whole,
        distillation=without_labels(Distillation()),
        back=back,
        progress=progress,
    ).model
