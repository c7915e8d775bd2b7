"""Writes one file of an export, by the recipe of its kind or by the best of several."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from compress.evaluate import logits_of
from export.quantise.blocks import weights_left_int8
from export.quantise.calibrate import check_calibration
from export.quantise.candidates import Candidate, CandidateBuilder, Subject
from export.quantise.choose import Timer, Wanted, choose_accurate, choose_fast, trial_of
from export.quantise.processors import host_processor, ordered_recipes
from export.quantise.qat import FloatStart, QatRecipe, train_quantised
from export.quantise.recipes import recipes_for
from runtime import Progress, Trial, macs

from .compare import compare_logits, real_logits
from .formats import ExportKind
from .job import ExportJob, Reference, images_of, knows_labels

_CHOICE_MACS = 1e12
_CHOICE_IMAGES = (32, 1000)


@dataclass(frozen=True)
class Written:
    """How a file was written.

    Attributes:
        recipe: its name.
        trials: every recipe that was tried.
        int8_weights: names of the weights that stay int8 in a file with weights of 4 bits.
    """

    recipe: str
    trials: tuple[Trial, ...] = ()
    int8_weights: tuple[str, ...] = ()


def write_file(job: ExportJob, kind: ExportKind, path: Path, reference: Reference, progress: Progress) -> Written:
    """Writes the file of ``kind`` to ``path``."""
    if kind.write is None:
        return _quantise(job, kind, path, reference, progress)
    kind.write(job.model, path, **job.options(kind))
    return Written(kind.recipe)


def _quantise(job: ExportJob, kind: ExportKind, path: Path, reference: Reference, progress: Progress) -> Written:
    """Tries the recipes of ``kind`` on held-out images and writes the best file, accurate enough or not."""
    assert kind.form is not None
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        form = kind.form(**job.options(kind))
        builder = CandidateBuilder(_subject(job, kind, progress), Path(scratch), form, kind.name, progress)
        if recipe := job.recipe(kind):
            chosen, trials = choose_accurate(builder, (recipe,))
        elif kind.choice == "fastest":
            chosen, trials = _fastest(job, kind, builder, reference, progress)
        else:
            chosen, trials = choose_accurate(builder, recipes_for(kind.name))
        if kind.trainable and job.settings.qat_epochs:
            chosen, trials = _trained(job, builder, chosen, trials, progress)
        shutil.copyfile(chosen.path, path)
        return Written(chosen.recipe.name, trials, weights_left_int8(chosen.graph))


def _fastest(
    job: ExportJob, kind: ExportKind, builder: CandidateBuilder, reference: Reference, progress: Progress
) -> tuple[Candidate, tuple[Trial, ...]]:
    processor, max_drop = job.settings.made_for, job.settings.max_drop
    timer = job.timer if processor == host_processor() else None
    return choose_fast(
        builder,
        ordered_recipes(processor, kind.name),
        Wanted(_with_margin(job, builder) if max_drop is None else None, max_drop),
        _reported(timer, kind, progress) if timer is not None else None,
        lambda file: _agrees(job, kind, file, reference, progress),
        processor,
    )


def _reported(timer: Timer, kind: ExportKind, progress: Progress) -> Timer:
    """Returns ``timer`` so that it reports when it starts and the times it found."""

    def timed(files: Sequence[Path]) -> Sequence[float]:
        progress(f"{kind.name} times", 0, len(files), "timed in turns: " + ", ".join(file.stem for file in files))
        seconds = timer(files)
        found = (f"{file.stem} {1e3 * own:.3g} ms" for file, own in zip(files, seconds, strict=True))
        progress(f"{kind.name} times", len(files), len(files), ", ".join(found))
        return seconds

    return timed


def _trained(
    job: ExportJob, builder: CandidateBuilder, chosen: Candidate, trials: tuple[Trial, ...], progress: Progress
) -> tuple[Candidate, tuple[Trial, ...]]:
    """Trains the chosen candidate under rounding, and returns the better of the two."""
    recipe = QatRecipe(job.settings.qat_epochs, begin=job.settings.qat_from)
    graph = train_quantised(
        chosen.graph,
        job.model,
        job.data,
        job.task.preprocessing,
        recipe,
        before=FloatStart(builder.graph(chosen.recipe)[0], partial(builder.quantised_from, chosen.recipe)),
        seed=job.settings.seed,
        progress=progress,
    )
    after = builder.candidate(replace(chosen.recipe, name=f"{chosen.recipe.name}_qat"), graph)
    trials = (*trials, trial_of(after))
    better = (after.parity.top1_agreement or 0.0) > (chosen.parity.top1_agreement or 0.0)
    if after.parity.top1 is not None and chosen.parity.top1 is not None:
        better = after.parity.top1 > chosen.parity.top1
    return (after if better else chosen), trials


def _agrees(job: ExportJob, kind: ExportKind, path: Path, reference: Reference, progress: Progress) -> bool:
    """Returns whether a file will pass its check on the test images."""
    if job.min_agreement is None:
        return True
    count = len(reference.inputs)
    found = real_logits(
        path,
        reference.inputs,
        lambda done: progress(f"{kind.name} check", done, count, path.stem),
        threads=torch.get_num_threads(),
    )
    return (compare_logits(found, reference.logits, None).top1_agreement or 0.0) >= job.min_agreement


def _with_margin(job: ExportJob, builder: CandidateBuilder) -> float | None:
    """Returns the least agreement plus one standard error, since the check uses other images than the choice."""
    least = job.min_agreement
    if least is None:
        return None
    return min(1.0, least + math.sqrt(least * (1 - least) / len(builder.subject.images)))


def _subject(job: ExportJob, kind: ExportKind, progress: Progress) -> Subject:
    images = job.calibration_images(kind)
    check_calibration(images)
    order, used = job.held_out(kind)
    rest = order[used:]
    least, most = _CHOICE_IMAGES
    count = min(max(least, min(most, int(_CHOICE_MACS / macs(job.model.plan)))), len(rest))
    chosen = np.sort(rest[:count]) if count >= least else np.sort(order[:least])
    return Subject(
        job.model,
        images,
        images_of(job.data, chosen, job.task),
        logits_of(
            job.model, job.data, chosen, job.task.preprocessing, progress=progress, stage=f"{kind.name} float answers"
        ),
        job.data.labels[chosen] if knows_labels(job.task, job.data) else None,
    )
