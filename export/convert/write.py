"""Writes the files of a model without a plan, each in a process of its own, and chooses among integer recipes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.evaluate import logits_of
from compress.model.other import OtherModel
from compress.model.tensors import write_tensors
from export.compare import compare_logits, real_logits
from export.formats import ExportKind
from export.gate.limits import MIN_SQNR_DB, ExportLimits, verdict_on
from export.gate.looks import critical_value
from export.job import ExportJob, images_of, knows_labels, of_choice
from export.quantise.processors import host_processor
from export.written import Written
from runtime import ArtifactError, ModelError, Parity, Progress, Trial, encode
from runtime.worker.parent import Worker, WorkerError, python_module

from .kinds import CONVERTED, ConvertedKind

_COMMAND = python_module("export.convert.child")
_SILENCE_S = 3600.0
"""A large model takes a converter minutes, in which it reports nothing."""

_AIM = 0.985
"""Least agreement of the top-1 on the images of choice with which a file keeps the answers, unless limits are given."""


def convert_file(job: ExportJob, kind: ExportKind, path: Path, progress: Progress) -> Written:
    """Writes the file of ``kind`` to ``path``; float files that several kinds are made from are written once.

    Raises:
        ModelError: the converter cannot write the model, or crashed.
    """
    own = CONVERTED[kind.name]
    source = _float_file(job, own, path.parent, progress)
    if not own.recipes:
        shutil.copyfile(source, path)
        return Written(kind.recipe)
    return _quantised(job, kind, own, source, path, progress)


def _float_file(job: ExportJob, own: ConvertedKind, scratch: Path, progress: Progress) -> Path:
    """Returns the float file of the kind's format, which is written if this export has not written it yet."""
    assert isinstance(job.model, OtherModel)
    folder = scratch / "converted"
    source = folder / f"float.{own.source}"
    if source.is_file():
        return source
    folder.mkdir(exist_ok=True)
    weights = folder / "weights.safetensors"
    if not weights.is_file():
        write_tensors(weights, {name: value.clone() for name, value in job.model.network.state_dict().items()})
    spec, plan = job.model.spec, job.model.plan
    request = {
        "spec": {
            "name": spec.name,
            "img_size": spec.img_size,
            "in_chans": spec.in_chans,
            "overrides": dict(spec.overrides),
        },
        "plan": encode(plan),
        "weights": str(weights),
        "form": own.source,
        "opset": job.settings.opset,
        "path": str(folder / f"unfinished.{own.source}"),
    }
    stage = f"convert to {own.source}"
    progress(stage, 0, 1, own.written_by())
    _in_child("convert", request, plan.architecture, own.written_by())
    (folder / f"unfinished.{own.source}").rename(source)
    progress(stage, 1, 1)
    return source


@dataclass(frozen=True)
class _Tried:
    """One integer file of those that are compared."""

    recipe: str
    file: Path
    parity: Parity

    @property
    def agreement(self) -> float:
        return self.parity.top1_agreement or 0.0

    @property
    def closeness(self) -> tuple[bool, float]:
        """Whether its logits are near enough to the float model's, and the share of images with the same top-1."""
        return (self.parity.sqnr_db or 0.0) >= MIN_SQNR_DB, self.agreement


def _quantised(
    job: ExportJob, kind: ExportKind, own: ConvertedKind, source: Path, path: Path, progress: Progress
) -> Written:
    """Tries the recipes of a kind on held-out images, and takes one that keeps the answers, or else the best.

    Where files may be timed, every recipe of a kind that is chosen by speed is tried, and the fastest of those that
    keep the answers is taken; elsewhere the first of them.
    """
    timer = job.timer if kind.choice == "fastest" and job.settings.made_for == host_processor() else None
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        tried = _files(job, kind, own, source, Path(scratch), timer is not None, progress)
        seconds = timer([one.file for one in tried]) if timer is not None and len(tried) > 1 else [None] * len(tried)
        order = sorted(range(len(tried)), key=lambda number: (seconds[number] or 0.0, number))
        kept = [number for number in order if _keeps(job, kind, tried[number])]
        chosen = kept[0] if kept else max(order, key=lambda number: tried[number].closeness)
        found = tried[chosen].recipe
        progress(f"{kind.name} recipes", len(own.recipes), len(own.recipes), found)
        shutil.copyfile(tried[chosen].file, path)
    return Written(found, tuple(_trial(one, time) for one, time in zip(tried, seconds, strict=True)))


def _keeps(job: ExportJob, kind: ExportKind, one: _Tried) -> bool:
    """Returns whether a file keeps the answers, within the limits of its release; those of fresh weights are chance."""
    limits = job.limits(kind)
    if limits == ExportLimits():
        return True
    aim = _AIM if job.settings.min_agreement is None and job.task.trained else 0.0
    return one.agreement >= aim and verdict_on(one.parity, limits, critical_value((1,))).refusal is None


def _files(
    job: ExportJob, kind: ExportKind, own: ConvertedKind, source: Path, scratch: Path, every: bool, progress: Progress
) -> list[_Tried]:
    """Returns the files of all recipes, or of those up to the first that keeps the answers.

    Raises:
        ModelError: no recipe can be written.
    """
    chosen = of_choice(job, kind)
    images = images_of(job.data, chosen, job.task)
    stage = f"{kind.name} float answers"
    wanted = logits_of(job.model, job.data, chosen, job.task.preprocessing, progress=progress, stage=stage)
    labels = job.data.labels[chosen] if knows_labels(job.task, job.data) else None
    calibration = scratch / "images.npy"
    np.save(calibration, job.calibration_images(kind))
    tried: list[_Tried] = []
    failed: ModelError | None = None
    for number, recipe in enumerate(own.recipes):
        file = scratch / f"{recipe}{source.suffix}"
        progress(f"{kind.name} recipes", number, len(own.recipes), recipe)
        request = {"recipe": recipe, "source": str(source), "images": str(calibration), "path": str(file)}
        try:
            _in_child("quantise", request, _name(job), own.written_by())
            answers = real_logits(file, images)
        except (ModelError, ArtifactError) as error:
            failed = failed or (error if isinstance(error, ModelError) else ModelError(str(error)))
            continue
        tried.append(_Tried(recipe, file, compare_logits(answers, wanted, labels)))
        if not every and _keeps(job, kind, tried[-1]):
            break
    if not tried:
        assert failed is not None
        raise failed
    return tried


def _trial(one: _Tried, seconds: float | None) -> Trial:
    parity = one.parity
    known = parity.top1 is not None and parity.reference_top1 is not None
    drop = 100 * ((parity.reference_top1 or 0.0) - (parity.top1 or 0.0)) if known else None
    return Trial(one.recipe, parity.images, parity.top1_agreement, drop, parity.sqnr_db, seconds)


def _name(job: ExportJob) -> str:
    assert isinstance(job.model, OtherModel)
    return job.model.plan.architecture


def _in_child(step: str, request: Mapping[str, Any], architecture: str, converter: str) -> None:
    """Runs one step in a process of its own, which frees the converter's memory when it ends.

    Raises:
        ModelError: the converter cannot write the model, crashed, or hung.
    """
    with Worker(_COMMAND, silence_s=_SILENCE_S) as worker:
        try:
            worker.run(step, request).checked()
        except WorkerError as failure:
            raise ModelError(
                f"The converter did not finish '{architecture}' ({converter})",
                got=f"it hung for {_SILENCE_S:.0f} s" if failure.hung else f"{failure.how} {failure.last_line}".strip(),
                fix="Leave this kind of file out with --formats; if memory ran out, close other programs",
            ) from None
