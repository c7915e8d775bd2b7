"""Makes one file of an export, by the recipe that its kind has or that proves best."""

from __future__ import annotations

import math
import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from compress.evaluate import logits_of
from export.formats.micro import micro_graph
from export.formats.onnx import ONNX_RECIPES, onnx_modes, onnx_rewrites, write_onnx
from export.formats.tflite import write_tflite
from export.formats.torch import write_torch
from export.quantise.calibrate import check_calibration
from export.quantise.choose import (
    Candidate,
    Form,
    Kitchen,
    Subject,
    Timer,
    Wanted,
    choose_accurate,
    choose_fast,
    trial_of,
)
from export.quantise.qat import Before, QatRecipe, train_quantised
from export.quantise.recipes import CPU_RECIPES, INT8_RECIPES, full_recipes
from export.writers.onnx import onnx_bytes
from runtime import Progress, Trial, macs, open_engine

from .job import QUANTISED, RECIPES, TRAINABLE, Job, Reference, images_of
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
        write_onnx(job.model, path, half=kind == "onnx-fp16", opset=job.settings.opset)
    elif kind == "torch":
        write_torch(job.model, path)
    else:
        write_tflite(job.model, path, half=kind == "fp16")
    return Made(RECIPES[kind])


def _quantise(job: Job, kind: str, path: Path, reference: Reference, progress: Progress) -> Made:
    """Tries the recipes of ``kind`` on held-out images and writes the best one's file, good enough or not."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        kitchen = Kitchen(_subject(job, kind, progress), Path(scratch), _form(job, kind), kind, progress)
        wanted = Wanted(max_drop=job.settings.max_drop)
        if kind == "int8" and job.settings.int8_recipe:
            chosen, trials = choose_accurate(kitchen, (INT8_RECIPES[job.settings.int8_recipe],))
        elif kind == "int8":
            wanted = Wanted(_with_margin(job, kitchen) if wanted.max_drop is None else None, wanted.max_drop)
            timer = job.timer if job.settings.made_for == host_family() else None
            timer = _told(timer, progress) if timer is not None else None
            recipes = CPU_RECIPES[job.settings.made_for]
            chosen, trials = choose_fast(
                kitchen,
                recipes,
                wanted,
                timer,
                lambda file: _agrees(job, file, reference, progress),
                job.settings.made_for,
            )
        elif kind == "onnx-int8":
            chosen, trials = choose_accurate(kitchen, ONNX_RECIPES)
        else:
            chosen, trials = choose_accurate(kitchen, full_recipes("int16" if kind.endswith("16x8") else "int8"))
        if kind in TRAINABLE and job.settings.qat_epochs:
            chosen, trials = _trained(job, kitchen, chosen, trials, progress)
        shutil.copyfile(chosen.path, path)
        return Made(chosen.recipe.name, trials)


def _form(job: Job, kind: str) -> Form:
    """Returns how candidates of ``kind`` are written."""
    opset = job.settings.opset
    if kind == "onnx-int8":
        return Form(
            ".onnx",
            lambda graph: onnx_bytes(graph, opset=opset),
            lambda model: onnx_rewrites(model, opset),
            modes=onnx_modes,
        )
    return Form(prepare=micro_graph) if kind == "tflite-micro" else Form()


def _told(timer: Timer, progress: Progress) -> Timer:
    """Returns ``timer`` with word of when it times, and of what it found."""

    def timed(files: Sequence[Path]) -> Sequence[float]:
        progress("int8 times", 0, len(files), "timed in turns: " + ", ".join(file.stem for file in files))
        seconds = timer(files)
        found = (f"{file.stem} {1e3 * own:.3g} ms" for file, own in zip(files, seconds, strict=True))
        progress("int8 times", len(files), len(files), ", ".join(found))
        return seconds

    return timed


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


def _agrees(job: Job, path: Path, reference: Reference, progress: Progress) -> bool:
    """Says whether an ``int8`` file will pass its check."""
    if job.min_agreement is None:
        return True
    count, engine = len(reference.inputs), open_engine(path, threads=torch.get_num_threads())
    found = real_logits(engine, reference.inputs, lambda done: progress("int8 check", done, count, path.stem))
    return compare_logits(found, reference.logits, None).top1_agreement >= job.min_agreement


def _with_margin(job: Job, kitchen: Kitchen) -> float | None:
    """Returns the agreement asked for and a standard error more: the check is on other images than the choice."""
    least = job.min_agreement
    if least is None:
        return None
    return min(1.0, least + math.sqrt(least * (1 - least) / len(kitchen.subject.images)))


def _subject(job: Job, kind: str, progress: Progress) -> Subject:
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
        logits_of(
            job.model, job.data, chosen, job.task.preprocessing, progress=progress, stage=f"{kind} float answers"
        ),
        job.data.labels[chosen] if known else None,
    )


def host_family() -> str:
    """Returns the family of processors this machine's belongs to, or an empty text."""
    return "x86" if platform.machine().lower() in ("x86_64", "amd64") else ""
