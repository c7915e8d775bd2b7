"""Writes the files of a model without a plan, each in a process of its own, and chooses among integer recipes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.evaluate import logits_of
from compress.model.other import OtherModel
from compress.model.tensors import write_tensors
from export.compare import compare_logits, real_logits
from export.formats import ExportKind
from export.job import ExportJob, images_of, knows_labels, of_choice
from export.written import Written
from runtime import ModelError, Parity, Progress, Trial, encode
from runtime.worker.parent import Worker, WorkerError, python_module

from .kinds import CONVERTED, ConvertedKind

_COMMAND = python_module("export.convert.child")
_SILENCE_S = 3600.0
"""A large model takes a converter minutes, in which it reports nothing."""

_AIM = 0.985
"""Agreement of the top-1 on the images of choice at which the first recipe is taken without trying others."""


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


def _quantised(
    job: ExportJob, kind: ExportKind, own: ConvertedKind, source: Path, path: Path, progress: Progress
) -> Written:
    """Tries the recipes of a kind on held-out images, and takes the first that keeps the answers, or else the best."""
    chosen = of_choice(job, kind)
    images = images_of(job.data, chosen, job.task)
    stage = f"{kind.name} float answers"
    wanted = logits_of(job.model, job.data, chosen, job.task.preprocessing, progress=progress, stage=stage)
    labels = job.data.labels[chosen] if knows_labels(job.task, job.data) else None
    trials: list[Trial] = []
    best: tuple[float, str] | None = None
    failed: ModelError | None = None
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        calibration = Path(scratch) / "images.npy"
        np.save(calibration, job.calibration_images(kind))
        for recipe in own.recipes:
            file = Path(scratch) / f"{recipe}{path.suffix}"
            progress(f"{kind.name} recipes", len(trials), len(own.recipes), recipe)
            request = {"recipe": recipe, "source": str(source), "images": str(calibration), "path": str(file)}
            try:
                _in_child("quantise", request, _name(job), own.written_by())
            except ModelError as error:
                failed = failed or error
                continue
            parity = _parity(file, images, wanted, labels)
            trials.append(_trial(recipe, parity))
            agreement = parity.top1_agreement or 0.0
            if best is None or agreement > best[0]:
                best = agreement, recipe
            if agreement >= _AIM or not job.task.trained:
                break
        if best is None:
            assert failed is not None
            raise failed
        progress(f"{kind.name} recipes", len(own.recipes), len(own.recipes), best[1])
        shutil.copyfile(Path(scratch) / f"{best[1]}{path.suffix}", path)
    return Written(best[1], tuple(trials))


def _parity(
    file: Path,
    images: npt.NDArray[np.float32],
    wanted: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | None,
) -> Parity:
    return compare_logits(real_logits(file, images), wanted, labels)


def _trial(recipe: str, parity: Parity) -> Trial:
    known = parity.top1 is not None and parity.reference_top1 is not None
    drop = 100 * ((parity.reference_top1 or 0.0) - (parity.top1 or 0.0)) if known else None
    return Trial(recipe, parity.images, parity.top1_agreement, drop, parity.sqnr_db)


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
