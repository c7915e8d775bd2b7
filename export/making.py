"""Makes one file of an export, by the recipe that its kind has or that proves best."""

from __future__ import annotations

import math
import platform
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from compress import logits_of
from runtime import ParityError, Progress, Trial, macs, open_engine

from .calibrate import check_calibration
from .choose import (
    Candidate,
    Kitchen,
    Subject,
    Wanted,
    as_it_is,
    choose_accurate,
    choose_fast,
    drop_of,
    trial_of,
)
from .export_job import QUANTISED, RECIPES, TRAINABLE, Job, Reference, images_of
from .micro import micro_graph
from .onnx_file import write_onnx
from .qat import Before, QatRecipe, train_quantised
from .recipes import CPU_RECIPES, INT8_RECIPES, full_recipes
from .tflite_file import write_tflite
from .torch_file import write_torch
from .verify import compare_logits, real_logits

_CHOICE_MACS = 1e12
_CHOICE_IMAGES = (32, 1000)


@dataclass(frozen=True)
class Made:
    """How a file was made."""

    recipe: str
    trials: tuple[Trial, ...] = ()


def make_file(job: Job, kind: str, path: Path, reference: Reference, progress: Progress) -> Made:
    """Writes the file of ``kind`` to ``path``."""
    if kind in QUANTISED:
        return _quantise(job, kind, path, reference, progress)
    if kind.startswith("onnx"):
        write_onnx(job.model, path, half=kind == "onnx-fp16", int8=kind == "onnx-int8")
    elif kind == "torch":
        write_torch(job.model, path)
    else:
        write_tflite(job.model, path, half=kind == "fp16")
    return Made(RECIPES[kind])


def _quantise(job: Job, kind: str, path: Path, reference: Reference, progress: Progress) -> Made:
    """Tries the recipes of ``kind`` on held-out images and writes the best one's file.

    Raises:
        ParityError: no recipe loses so little as was asked.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        prepare = micro_graph if kind == "tflite-micro" else as_it_is
        kitchen = Kitchen(_subject(job, kind), Path(scratch), prepare)
        wanted = Wanted(max_drop=job.settings.max_drop)
        if kind == "int8" and job.settings.int8_recipe:
            chosen, trials = choose_accurate(kitchen, (INT8_RECIPES[job.settings.int8_recipe],))
        elif kind == "int8":
            wanted = Wanted(_with_margin(job, kitchen) if wanted.max_drop is None else None, wanted.max_drop)
            timer = job.timer if job.settings.made_for == host_family() else None
            recipes = CPU_RECIPES[job.settings.made_for]
            chosen, trials = choose_fast(
                kitchen, recipes, wanted, timer, lambda file: _agrees(job, file, reference), job.settings.made_for
            )
        else:
            chosen, trials = choose_accurate(kitchen, full_recipes("int16" if kind.endswith("16x8") else "int8"))
        if kind in TRAINABLE and job.settings.qat_epochs:
            chosen, trials = _trained(job, kitchen, chosen, trials, progress)
        if job.settings.max_drop is not None and not wanted.met_by(chosen.parity):
            raise ParityError(
                f"No recipe of {kind} loses so little",
                expected=f"at most {job.settings.max_drop:g} points of top-1 on {chosen.parity.images} held-out images",
                got=f"{chosen.recipe.name} comes closest and loses {drop_of(chosen.parity) or 0:.2f}",
                fix="Allow more with --max-drop, calibrate on more images, or train under rounding with --qat",
            )
        shutil.copyfile(chosen.path, path)
        return Made(chosen.recipe.name, trials)


def _trained(
    job: Job, kitchen: Kitchen, chosen: Candidate, trials: tuple[Trial, ...], progress: Progress
) -> tuple[Candidate, tuple[Trial, ...]]:
    """Trains the chosen candidate under rounding; it is kept as it was where that does not help."""
    recipe = QatRecipe(job.settings.qat_epochs, begin=job.settings.qat_from)
    graph = train_quantised(
        chosen.graph,
        job.model,
        job.data,
        job.task.preprocessing,
        recipe,
        before=Before(kitchen.graph(chosen.recipe.equalised)[0], partial(kitchen.quantised_from, chosen.recipe)),
        seed=job.settings.seed,
        progress=progress,
    )
    after = kitchen.candidate(replace(chosen.recipe, name=f"{chosen.recipe.name}_qat"), graph)
    trials = (*trials, trial_of(after))
    better = after.parity.top1_agreement > chosen.parity.top1_agreement
    if after.parity.top1 is not None and chosen.parity.top1 is not None:
        better = after.parity.top1 > chosen.parity.top1
    return (after if better else chosen), trials


def _agrees(job: Job, path: Path, reference: Reference) -> bool:
    """Says whether an ``int8`` file will pass its check."""
    if job.min_agreement is None:
        return True
    found = real_logits(open_engine(path, threads=torch.get_num_threads()), reference.inputs)
    return compare_logits(found, reference.logits, None).top1_agreement >= job.min_agreement


def _with_margin(job: Job, kitchen: Kitchen) -> float | None:
    """Returns the agreement asked for and a standard error more: the check is on other images than the choice."""
    least = job.min_agreement
    if least is None:
        return None
    return min(1.0, least + math.sqrt(least * (1 - least) / len(kitchen.subject.images)))


def _subject(job: Job, kind: str) -> Subject:
    calibration = job.calibration(kind)
    assert calibration is not None
    order = np.random.default_rng([calibration.seed, 4]).permutation(job.data.held_out)
    images = images_of(job.data, np.sort(order[: calibration.images]), job.task)
    check_calibration(images)
    rest = order[calibration.images :]
    least, most = _CHOICE_IMAGES
    count = min(max(least, min(most, int(_CHOICE_MACS / macs(job.model.plan)))), len(rest))
    chosen = np.sort(rest[:count]) if count >= least else np.sort(order[:least])
    known = job.task.class_names == job.data.class_names
    return Subject(
        job.model,
        images,
        images_of(job.data, chosen, job.task),
        logits_of(job.model, job.data, chosen, job.task.preprocessing),
        job.data.labels[chosen] if known else None,
    )


def host_family() -> str:
    """Returns the family of processors this machine's belongs to, or an empty text."""
    return "x86" if platform.machine().lower() in ("x86_64", "amd64") else ""
