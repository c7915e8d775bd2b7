"""Exports a model as verified files: each is run on real images before it is moved into place."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from compress.data.dataset import Dataset
from compress.model.folder import Task, weights_sha256
from compress.model.other import OtherModel
from compress.model.vit import SlicedViT
from export.convert.kinds import CONVERTED, check_convertible
from export.inspect.gzipped import gzip_size
from export.inspect.readers import READERS
from export.inspect.widths import read_widths
from export.quantise.choose import Timer
from runtime import (
    Artifact,
    ArtifactError,
    CountedModel,
    DataError,
    MissingExtraError,
    OutputKind,
    Parity,
    ParityError,
    Progress,
    Provenance,
    Session,
    ShapePlan,
    encode,
    message,
    open_engine,
    read_artifact,
    sha256_of,
    silent,
    storage_errors,
    tool_version,
)
from runtime.engines import ENGINES
from runtime.formats import FORMATS, app_file_of
from runtime.gpu.drivers import gpu_allowed

from .app.make import files_for_apps
from .formats import KINDS, ExportKind
from .gate.limits import Verdict, is_note, verdict_on
from .gate.looks import critical_value
from .gpu.check import checked_on_gpu
from .job import ExportJob, calibration_pictures, looks_of
from .placing import REJECTED, discard, place, tensor_spec
from .reference import GrowingReference
from .settings import ExportSettings
from .verify import VerifiedFile, check_parity
from .write import write_file
from .writers.onnx_metadata import with_metadata
from .written import Written

_DESCRIBED = {"onnx": with_metadata}
"""How a file of a format is told what it is."""

_LIBRARIES = ("torch", "timm", "ai-edge-litert", "onnx", "onnxruntime")


@dataclass(frozen=True)
class ExportOutcome:
    """The files of one export.

    Attributes:
        accepted: manifests of the released files, in the order of the settings.
        refused: manifests of the refused files, with the reason; the files are in the folder ``rejected``.
    """

    accepted: tuple[Artifact, ...]
    refused: tuple[Artifact, ...]


class RefusedFilesError(ParityError):
    """Some files were refused; all others were released.

    Attributes:
        accepted: manifests of the released files.
        refused: manifests of the refused files, with the reason.
    """

    def __init__(self, outcome: ExportOutcome, folder: Path) -> None:
        reasons = " ".join(str(artifact.refused) for artifact in outcome.refused)
        kept = "The file is" if len(outcome.refused) == 1 else "The files are"
        super().__init__(f"{reasons} {kept} kept in {folder / REJECTED} and not released")
        self.accepted, self.refused = outcome.accepted, outcome.refused


def export_model(
    model: SlicedViT,
    task: Task,
    data: Dataset,
    folder: Path,
    name: str,
    settings: ExportSettings | None = None,
    progress: Progress = silent,
    timer: Timer | None = None,
) -> list[Artifact]:
    """Writes ``model`` as ``folder/NAME.onnx``, ``NAME.fp32.tflite``, …, each with its manifest and verified by a run.

    Whole files of the same weights and recipe are kept. A file that fails its check is moved to ``folder/rejected``
    with its manifest, and the other kinds are still written.

    Args:
        model: the model to export.
        task: its input and classes.
        data: source of the images for verification (test split) and calibration (held-out split).
        folder: of the files.
        name: of the files, without suffix.
        settings: which kinds to write, and how to check them.
        progress: called at every step and every file.
        timer: times files on this machine, to choose the recipe of ``int8``. Without it, and for another family of
            processors than this machine's, the recipe with the fewest counted instructions is taken.

    Returns:
        The manifests, in the order of ``settings.kinds``.

    Raises:
        RefusedFilesError: a file does not compute the same as the model, has other widths than the plan, or loses more
            accuracy than allowed with every recipe. It is raised after every kind was tried.
        StorageError: there is no space, or no permission to write.
        MissingExtraError: a converter or engine is not installed; raised before any file is written.
    """
    return released(export_each(model, task, data, folder, name, settings, progress, timer), folder)


def released(outcome: ExportOutcome, folder: Path) -> list[Artifact]:
    """Returns the manifests of the released files.

    Raises:
        RefusedFilesError: some files were refused.
    """
    if outcome.refused:
        raise RefusedFilesError(outcome, folder)
    return list(outcome.accepted)


def export_each(
    model: SlicedViT | OtherModel,
    task: Task,
    data: Dataset,
    folder: Path,
    name: str,
    settings: ExportSettings | None = None,
    progress: Progress = silent,
    timer: Timer | None = None,
    whole: SlicedViT | None = None,
) -> ExportOutcome:
    """Exports as ``export_model`` does, and returns the refused files too.

    The first error that is not a failed check is raised after every kind was tried. Of a model that answers with
    vectors, files are also compared with ``whole``, the model that it was cut from.

    Raises:
        StorageError: there is no space, or no permission to write.
        MissingExtraError: a converter or engine is not installed; raised before any file is written.
        UnsupportedTargetError: ``POCKETVIT_GPU`` has an unknown value; raised before any file is written.
        DataError: a limit is for another kind of output than the model has.
    """
    folder = Path(folder)
    settings = settings or ExportSettings()
    check_extras(settings.kinds)
    if isinstance(model, OtherModel):
        check_convertible(settings, model.plan.architecture)
    _check_limits(settings, model.plan.output_kind)
    gpu_allowed()  # an unknown value of the variable is an error before any file is written
    pictures = calibration_pictures(settings.calibration_data, progress)
    job = ExportJob(model, task, data, folder, name, settings, _provenance(model, task), timer, pictures, whole)
    kinds = [KINDS[name] for name in job.settings.kinds]
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    done = {kind.name: _finished(job, kind) or _refused_before(job, kind) for kind in kinds}
    # float files come first: once one is verified, it answers in the place of the slower torch model
    missing = sorted((kind for kind in kinds if done[kind.name] is None), key=lambda kind: kind.held_to != "logits")
    errors: list[Exception] = []
    job = job.in_half_range(progress) if missing else job
    reference = GrowingReference(job, progress)
    if missing:
        reference.take(looks_of(job)[0])
        with storage_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
            for position, kind in enumerate(missing):
                progress("export", position, len(missing), job.file(kind).name)
                try:
                    if kind.held_to != "logits" and reference.exact is None:
                        reference.exact = _exact(job, kinds, done)
                    done[kind.name] = _export(job, kind, Path(scratch), reference, progress)
                except (OSError, MissingExtraError):
                    raise
                except Exception as error:
                    errors.append(error)
            progress("export", len(missing), len(missing))
        new = [artifact for kind in missing if (artifact := done[kind.name]) is not None and artifact.refused is None]
        for note in dict.fromkeys(own.unproven for own in new if own.unproven and is_note(own.unproven)):
            message(progress, "verify", note)
    if errors:
        raise errors[0]
    made = [artifact for artifact in done.values() if artifact is not None]
    accepted = tuple(artifact for artifact in made if artifact.refused is None)
    refused = tuple(artifact for artifact in made if artifact.refused is not None)
    if settings.gpu_check:
        accepted = checked_on_gpu(accepted, folder, reference.take, progress)
    if settings.app:
        apps = files_for_apps(job, accepted, reference, progress)
        accepted += tuple(own for own in apps if own.refused is None)
        refused += tuple(own for own in apps if own.refused is not None)
    return ExportOutcome(accepted, refused)


def _exact(job: ExportJob, kinds: Sequence[ExportKind], done: Mapping[str, Artifact | None]) -> Session | None:
    """Returns the first float file, loaded, whether it was kept or written now: figures must not depend on that."""
    for kind in kinds:
        artifact = done[kind.name]
        if kind.held_to == "logits" and artifact is not None and artifact.refused is None:
            return Session(artifact, open_engine(job.file(kind), threads=torch.get_num_threads()))
    return None


def _check_limits(settings: ExportSettings, kind: OutputKind) -> None:
    """Refuses settings for another kind of output than the model has.

    Raises:
        DataError: a limit, or a training under rounding, is for classes or for vectors alone.
    """
    of_classes = {"--min-agreement": settings.min_agreement, "--max-drop": settings.max_drop}
    of_classes |= {"--qat": settings.qat_epochs or None}
    given = {"--min-cosine": settings.min_cosine} if kind == "classes" else of_classes
    if kind == "grid":
        given |= {"--app": settings.app or None}
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise DataError(
            f"The model answers with {'classes' if kind == 'classes' else f'a {kind}'}",
            expected=f"no {' and no '.join(named)}",
            fix="Give --min-agreement" if kind == "classes" else "Give --min-cosine",
        )


def check_extras(kinds: Sequence[str]) -> None:
    """Checks that the packages that write and run files of ``kinds`` are installed.

    Raises:
        MissingExtraError: a package is not installed.
    """
    for kind in (KINDS[name] for name in kinds):
        engine = ENGINES[FORMATS[kind.format].engine]
        for package in (*kind.packages, engine.module.partition(".")[0]):
            if find_spec(package) is None:
                raise MissingExtraError(package.replace("_", "-"), "export")


def _export(
    job: ExportJob, kind: ExportKind, scratch: Path, reference: GrowingReference, progress: Progress
) -> Artifact:
    """Writes, verifies and places the file of ``kind``; a refused file's manifest has the reason."""
    path = scratch / job.file(kind).name
    written = write_file(job, kind, path, reference, progress)
    if kind.format in _DESCRIBED:
        path.write_bytes(_DESCRIBED[kind.format](path.read_bytes(), _description(job, kind, written)))
    verified = _opened(_describe(job, kind, path, written), kind, path, written.answers, progress)
    artifact, verdict = verified.judged(reference.take, looks_of(job), job.limits(kind))
    try:
        _judge(artifact, kind, path, job, verdict)
    except ParityError as error:
        progress(f"{path.name} refused", 1, 1, str(error))
        rejected = job.folder / REJECTED
        rejected.mkdir(exist_ok=True)
        # a file released earlier under this name has other settings or other weights
        discard(job.file(kind))
        discard(app_file_of(job.file(kind)))
        return place(replace(artifact, refused=str(error)), path, rejected)
    if verdict.unproven and not is_note(verdict.unproven):
        message(progress, f"{path.name} released with a warning", verdict.unproven)
    discard(app_file_of(job.file(kind)))  # it was made from the file that goes now
    discard(job.folder / REJECTED / path.name)
    return place(artifact, path, job.folder)


def _description(job: ExportJob, kind: ExportKind, written: Written) -> dict[str, str]:
    """Returns what a file says of itself; its manifest, which has the file's digest, cannot be in it."""
    return {
        "labels": json.dumps(job.task.class_names, ensure_ascii=False),
        "preprocessing": json.dumps(encode(job.task.preprocessing)),
        "precision": kind.precision,
        "recipe": written.recipe,
        "weights_sha256": job.provenance.weights_sha256,
        "tool_version": job.provenance.tool_version,
    }


def _describe(job: ExportJob, kind: ExportKind, path: Path, written: Written) -> Artifact:
    """Returns the manifest of a new file, without its parity."""
    engine, plan = open_engine(path), job.model.plan
    return Artifact(
        file=path.name,
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        format=kind.format,
        precision=kind.precision,
        recipe=written.recipe,
        plan=plan if isinstance(plan, ShapePlan) else None,
        preprocessing=job.task.preprocessing,
        input=tensor_spec(engine, "input", FORMATS[kind.format].layout),
        output=tensor_spec(engine, "output", "NHWC" if job.model.plan.output_kind == "grid" else "NC"),
        class_names=job.task.class_names,
        parity=Parity(0, 0.0, 0.0, None, 0.0, None, None, "not run yet"),
        output_kind=job.model.plan.output_kind,
        calibration=job.calibration(kind),
        provenance=job.provenance,
        made_for=job.settings.made_for if kind.choice == "fastest" else None,
        asked=job.asked(kind),
        trials=written.trials,
        gzip_bytes=gzip_size(path),
        int8_weights=written.int8_weights,
        half=written.half,
        counted=replace(plan, converter=CONVERTED[kind.name].written_by()) if isinstance(plan, CountedModel) else None,
    )


def _opened(
    artifact: Artifact, kind: ExportKind, path: Path, known: npt.NDArray[np.float32] | None, progress: Progress
) -> VerifiedFile:
    """Returns the file of ``kind``, ready to be run on images; ``known`` are its logits on the first ones."""
    if kind.run is not None:
        return VerifiedFile(artifact, run=partial(kind.run, path), progress=progress)
    session = Session(artifact, open_engine(path, threads=torch.get_num_threads()))
    return VerifiedFile(artifact, session, progress=progress, known=known)


def _judge(artifact: Artifact, kind: ExportKind, path: Path, job: ExportJob, verdict: Verdict) -> None:
    """Checks that a file may be released.

    Raises:
        ParityError: it has other widths than its plan, or fails a check of ``_check``.
    """
    try:
        plan = job.model.plan
        found = read_widths(path, plan) if isinstance(plan, ShapePlan) and kind.format in READERS else plan
        if found != plan:
            raise ParityError(f"{path.name} does not have the widths of its plan", expected=plan, got=found)
        _check(artifact, kind, job, verdict)
    except ArtifactError as error:
        raise ParityError(str(error)) from error


def _check(artifact: Artifact, kind: ExportKind, job: ExportJob, verdict: Verdict) -> None:
    check_parity(artifact, job.task.trained)
    if verdict.refusal is not None:
        raise verdict.refusal
    if kind.check is not None:
        kind.check(artifact, job.settings)


def _verdict(artifact: Artifact, kind: ExportKind, job: ExportJob) -> Verdict:
    """Returns what an earlier manifest says under the limits of this export."""
    return verdict_on(artifact.parity, job.limits(kind), critical_value(looks_of(job)), file=artifact.file)


def _finished(job: ExportJob, kind: ExportKind) -> Artifact | None:
    """Returns the manifest of an earlier file that is still right, or None."""
    try:
        artifact = read_artifact(job.file(kind))
        _check(artifact, kind, job, _verdict(artifact, kind, job))
    except (ArtifactError, ParityError):
        return None
    return artifact if _same(artifact, job, kind) else None


def _refused_before(job: ExportJob, kind: ExportKind) -> Artifact | None:
    """Returns the manifest of an earlier refused file that would be refused again, or None."""
    path = job.folder / REJECTED / job.file(kind).name
    try:
        artifact = read_artifact(path)
    except ArtifactError:
        return None
    if artifact.refused is None or not _same(artifact, job, kind) or artifact.parity.images not in looks_of(job):
        return None
    try:
        _judge(artifact, kind, path, job, _verdict(artifact, kind, job))
    except ParityError as error:
        return replace(artifact, refused=str(error))
    return None


def _same(artifact: Artifact, job: ExportJob, kind: ExportKind) -> bool:
    """Returns whether a file was written from the same model with the same settings."""
    return (
        artifact.provenance == job.provenance
        and artifact.recipe == (kind.recipe or artifact.recipe)
        and artifact.asked == job.asked(kind)
        and artifact.preprocessing == job.task.preprocessing
        and artifact.class_names == job.task.class_names
        and artifact.calibration == job.calibration(kind)
        and (artifact.half is not None) == (kind.half_arithmetic and artifact.counted is None)
    )


def _provenance(model: SlicedViT | OtherModel, task: Task) -> Provenance:
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return Provenance(
        tool_version(), task.source, weights_sha256(model), versions, origin=task.origin, licence=task.licence
    )
