"""From a model to verified files: written aside, run on real images, and moved into place only when they are right."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from compress import Dataset, SlicedViT, Task, weights_sha256
from runtime import (
    Artifact,
    ArtifactError,
    Engine,
    Parity,
    ParityError,
    Progress,
    Provenance,
    Session,
    TensorSpec,
    manifest_path,
    open_engine,
    read_artifact,
    sha256_of,
    silent,
    storage_errors,
    tool_version,
    write_artifact,
)

from .choose import Timer
from .export_job import RECIPES, ExportSettings, Job, Reference, reference_of
from .gzipped import gzip_size
from .making import Made, make_file
from .micro import check_micro, run_micro
from .verify import check_parity, compare_logits, measure_parity
from .widths import read_widths

_LIBRARIES = ("torch", "timm", "ai-edge-litert", "onnx", "onnxruntime")


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
    """Writes ``model`` as ``folder/NAME.onnx``, ``NAME.fp32.tflite``, … each with its manifest, verified by running it.

    Files that are there already, whole, and of the same weights and recipe, are kept. A file that fails its
    check is moved to ``folder/rejected`` with its manifest.

    Args:
        model: what to export.
        task: its input and classes.
        data: where verification (test split) and calibration (held-out split) images come from.
        folder: where the files go.
        name: what they are called.
        settings: which files, and how they are checked.
        progress: told after every file.
        timer: times files on this machine, for choosing the recipe of ``int8``; without it, and for a family of
            processors other than this machine's, the recipe expected to be fastest is taken.

    Returns:
        The manifests, in the order of ``settings.kinds``.

    Raises:
        ParityError: a file does not compute what the model computes, or its widths are not the plan's; or no way of
            quantising it loses so little as was asked.
        StorageError: there is no space, or no permission to write.
        MissingExtraError: a converter or engine is not installed.
    """
    job = Job(model, task, data, folder, name, settings or ExportSettings(), _provenance(model, task), timer)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    done = {kind: _finished(job, kind) for kind in job.settings.kinds}
    missing = [kind for kind in job.settings.kinds if done[kind] is None]
    if missing:
        reference = reference_of(job)
        with storage_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
            for position, kind in enumerate(missing):
                progress("export", position, len(missing), job.file(kind).name)
                path = Path(scratch) / job.file(kind).name
                made = make_file(job, kind, path, reference, progress)
                artifact = _verified(_describe(job, kind, path, made), path, reference, progress)
                done[kind] = _accept(artifact, path, folder, job)
            progress("export", len(missing), len(missing))
    return [artifact for artifact in done.values() if artifact is not None]


def _describe(job: Job, kind: str, path: Path, made: Made) -> Artifact:
    """Returns the manifest of a file just written; its parity is not measured yet."""
    engine = open_engine(path)
    onnx, pt2 = kind.startswith("onnx"), kind == "torch"
    return Artifact(
        file=path.name,
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        format="onnx" if onnx else "torch" if pt2 else "tflite",
        precision=("fp32" if kind in ("onnx", "torch") else kind.removeprefix("onnx-")),  # type: ignore[arg-type]
        recipe=made.recipe,
        plan=job.model.plan,
        preprocessing=job.task.preprocessing,
        input=_tensor(engine, "input", "NCHW" if onnx or pt2 else "NHWC"),
        output=_tensor(engine, "output", "NC"),
        class_names=job.task.class_names,
        parity=Parity(0, 0.0, 0.0, None, 0.0, None, None, "not run yet"),
        calibration=job.calibration(kind),
        provenance=job.provenance,
        made_for=job.settings.made_for if kind == "int8" else None,
        asked=job.asked(kind),
        trials=made.trials,
        gzip_bytes=gzip_size(path),
    )


def _tensor(engine: Engine, side: str, layout: str) -> TensorSpec:
    scale, zero_point = getattr(engine, f"{side}_qparams") or (None, None)
    return TensorSpec(
        name=getattr(engine, f"{side}_name"),
        shape=getattr(engine, f"{side}_shape"),
        dtype=getattr(engine, f"{side}_dtype").name,
        layout=layout,  # type: ignore[arg-type]
        scale=scale,
        zero_point=zero_point,
    )


def _verified(artifact: Artifact, path: Path, reference: Reference, progress: Progress) -> Artifact:
    if artifact.precision == "tflite-micro":
        run = run_micro(path, reference.inputs, progress)
        parity = compare_logits(run.logits, reference.logits, reference.labels, reference.no_labels_reason)
        return replace(artifact, parity=parity, arena_bytes=run.arena_bytes)
    session = Session(artifact, open_engine(path, threads=torch.get_num_threads()))
    parity = measure_parity(session, reference.inputs, reference.logits, reference.labels, reference.no_labels_reason)
    return replace(artifact, parity=parity)


def _accept(artifact: Artifact, path: Path, folder: Path, job: Job) -> Artifact:
    """Moves a file that passes its checks into ``folder``; one that fails goes to ``folder/rejected``."""
    try:
        found = read_widths(path, artifact.plan)
        if found != artifact.plan:
            raise ParityError(f"{path.name} does not have the widths of its plan", expected=artifact.plan, got=found)
        _check(artifact, job)
    except (ParityError, ArtifactError) as error:
        rejected = folder / "rejected"
        rejected.mkdir(exist_ok=True)
        _place(artifact, path, rejected)
        raise ParityError(f"{error} The file is kept in {rejected} and was not released") from error
    return _place(artifact, path, folder)


def _check(artifact: Artifact, job: Job) -> None:
    check_parity(artifact, job.min_agreement)
    if artifact.arena_bytes is not None:
        check_micro(artifact.file, artifact.size_bytes, artifact.arena_bytes, job.settings.micro)


def _place(artifact: Artifact, path: Path, folder: Path) -> Artifact:
    """Moves file, then manifest; a file without its manifest counts as not there."""
    target = folder / path.name
    manifest_path(target).unlink(missing_ok=True)
    shutil.move(path, target)
    target.chmod(0o644)
    write_artifact(target, artifact)
    return artifact


def _finished(job: Job, kind: str) -> Artifact | None:
    """Returns the manifest of a file that needs no new export, or None."""
    try:
        artifact = read_artifact(job.file(kind))
        _check(artifact, job)
    except (ArtifactError, ParityError):
        return None
    same = (
        artifact.provenance == job.provenance
        and artifact.recipe == RECIPES.get(kind, artifact.recipe)
        and artifact.asked == job.asked(kind)
        and artifact.preprocessing == job.task.preprocessing
        and artifact.class_names == job.task.class_names
        and artifact.calibration == job.calibration(kind)
    )
    return artifact if same else None


def _provenance(model: SlicedViT, task: Task) -> Provenance:
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return Provenance(tool_version(), task.source, weights_sha256(model), versions)
