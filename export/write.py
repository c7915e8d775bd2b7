"""Writes one file of an export, by the recipe of its kind or by the best of several."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from compress.model.other import OtherModel
from compress.model.vit import SlicedViT
from export.convert.write import convert_file
from export.quantise.blocks import weights_left_int8
from export.quantise.calibration_images import check_calibration_images
from export.quantise.candidates import Candidate, CandidateBuilder, Subject
from export.quantise.choose import Timer, Wanted, choose_accurate, choose_fast, trial_of
from export.quantise.processors import host_processor, ordered_recipes
from export.quantise.qat import FloatStart, QatRecipe, train_quantised
from export.quantise.recipes import recipes_for
from runtime import Progress, Trial, macs, message

from .compare import compare_logits, real_logits
from .formats import ExportKind
from .gate.limits import ExportLimits, verdict_on
from .gate.looks import critical_value
from .half_arithmetic import judge_half
from .job import ExportJob, images_of, knows_labels, looks_of, of_choice
from .reference import GrowingReference
from .settings import ExportSettings
from .written import Written

_AIM_COSINE = 0.99
"""Mean cosine of vectors at which that search ends, unless a limit is given."""

_AIM = 0.985
"""Agreement on the images of choice at which the search for a recipe of ``int8`` ends, unless limits are given."""


def write_file(
    job: ExportJob, kind: ExportKind, path: Path, reference: GrowingReference, progress: Progress
) -> Written:
    """Writes the file of ``kind`` to ``path``."""
    if isinstance(job.model, OtherModel):
        return convert_file(job, kind, path, progress)
    if kind.write is None:
        return _quantise(job, kind, path, reference, progress)
    kind.write(job.model, path, **job.options(kind))
    if not kind.half_arithmetic:
        return Written(kind.recipe)
    plan = job.model.plan
    half = judge_half(path, job.range_images(), macs(plan), progress, classes=not plan.is_vector)
    if half.metadata is None:
        message(progress, f"{path.name} float16", half.reason or "")
    else:
        kind.write(job.model, path, arithmetic=half.metadata, **job.options(kind))
    return Written(kind.recipe, half=half)


def _quantise(job: ExportJob, kind: ExportKind, path: Path, reference: GrowingReference, progress: Progress) -> Written:
    """Tries the recipes of ``kind`` on held-out images and writes the best file, accurate enough or not."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        builder = _builder(job, kind, Path(scratch), reference, progress)
        answers: dict[Path, npt.NDArray[np.float32]] = {}
        if recipe := job.recipe(kind):
            chosen, trials = choose_accurate(builder, (recipe,))
        elif kind.choice == "fastest":
            chosen, trials = _fastest(job, kind, builder, reference, answers, progress)
        else:
            chosen, trials = choose_accurate(builder, recipes_for(kind.name))
        if kind.trainable and job.settings.qat_epochs:
            chosen, trials = _trained(job, builder, chosen, trials, progress)
        shutil.copyfile(chosen.path, path)
        return Written(chosen.recipe.name, trials, weights_left_int8(chosen.graph), answers=answers.get(chosen.path))


def _builder(
    job: ExportJob, kind: ExportKind, folder: Path, reference: GrowingReference, progress: Progress
) -> CandidateBuilder:
    """Returns a builder of candidates of ``kind``, with the graphs that a kind of the same form has calibrated."""
    calibration, options = job.calibration(kind), job.options(kind)
    assert kind.form is not None
    assert calibration is not None
    if calibration not in reference.subjects:
        reference.subjects[calibration] = _subject(job, kind, reference, progress)
    key = kind.form, tuple(options.items()), calibration
    if key in reference.builders:
        builder = reference.builders[key].for_kind(kind.name, folder)
    else:
        builder = CandidateBuilder(reference.subjects[calibration], folder, kind.form(**options), kind.name, progress)
    reference.builders[key] = builder
    return builder


def _fastest(
    job: ExportJob,
    kind: ExportKind,
    builder: CandidateBuilder,
    reference: GrowingReference,
    answers: dict[Path, npt.NDArray[np.float32]],
    progress: Progress,
) -> tuple[Candidate, tuple[Trial, ...]]:
    processor = job.settings.made_for
    timer = job.timer if processor == host_processor() else None
    return choose_fast(
        builder,
        ordered_recipes(processor, kind.name),
        wanted_of(job.settings, job.limits(kind), builder.subject),
        _reported(timer, kind, progress) if timer is not None else None,
        lambda file: _holds(job, kind, file, reference, answers, progress),
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
    assert isinstance(job.model, SlicedViT)
    recipe = QatRecipe(job.settings.qat_epochs, begin=job.settings.qat_from)
    graph = train_quantised(
        chosen.graph if recipe.begin == 1 else builder.quantised(chosen.recipe),
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


def _holds(
    job: ExportJob,
    kind: ExportKind,
    path: Path,
    reference: GrowingReference,
    answers: dict[Path, npt.NDArray[np.float32]],
    progress: Progress,
) -> bool:
    """Returns whether a file is not refused by the first of the test images that it will be judged on.

    Its logits go into ``answers``, so that the file that is chosen need not run on these images again.
    """
    limits, looks = job.limits(kind), looks_of(job)
    if limits == ExportLimits():
        return True
    images = reference.take(looks[0])
    count = len(images.inputs)
    found = answers[path] = real_logits(
        path,
        images.inputs,
        lambda done: progress(f"{kind.name} check", done, count, path.stem),
        threads=torch.get_num_threads(),
    )
    parity = compare_logits(found, images.logits, images.labels, classes=not job.model.plan.is_vector)
    return verdict_on(parity, limits, critical_value(looks), len(looks) == 1).refusal is None


def wanted_of(settings: ExportSettings, limits: ExportLimits, subject: Subject) -> Wanted:
    """Returns the accuracy that ends the search for a recipe.

    A limit that was given is the one to reach: an agreement with one standard error on top, since the check uses other
    images than the choice. Without one a file should change hardly any answer, so that a slower recipe is tried before
    a file that is only not refused.

    Args:
        settings: of the export.
        limits: what the file must keep to be released.
        subject: the model, with the images of choice.
    """
    if limits == ExportLimits():
        return Wanted()
    if limits.cosine is not None:
        aim = _AIM_COSINE if settings.min_cosine is None else limits.cosine
        return Wanted(least=limits, cosine=aim)
    most = limits.max_drop if limits.explicit_drop or subject.labels is not None else None
    least = limits.agreement
    if settings.min_agreement is None and not limits.explicit_drop:
        return Wanted(_AIM, most, limits)
    if least is not None:
        least = min(1.0, least + math.sqrt(least * (1 - least) / len(subject.images)))
    return Wanted(least, most, limits)


def _subject(job: ExportJob, kind: ExportKind, reference: GrowingReference, progress: Progress) -> Subject:
    assert isinstance(job.model, SlicedViT)
    images, chosen = job.calibration_images(kind), of_choice(job, kind)
    others = images_of(job.data, chosen, job.task)
    for warning in check_calibration_images(images, others):
        message(progress, f"{kind.name} calibration", warning)
    return Subject(
        job.model,
        images,
        others,
        reference.answers(chosen, others, f"{kind.name} float answers"),
        job.data.labels[chosen] if knows_labels(job.task, job.data) else None,
    )
