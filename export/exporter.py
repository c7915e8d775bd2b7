"""From a model to verified files: written aside, run on real images, and moved into place only when they are right."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from compress import Dataset, SlicedViT, Task, logits_of, plain_batches, weights_sha256
from runtime import (
    Artifact,
    ArtifactError,
    Calibration,
    DataError,
    Engine,
    Parity,
    ParityError,
    Progress,
    Provenance,
    Session,
    TensorSpec,
    macs,
    manifest_path,
    open_engine,
    read_artifact,
    sha256_of,
    silent,
    storage_errors,
    tool_version,
    write_artifact,
)

from .onnx_file import write_onnx
from .quantise import DYNAMIC, STATIC, write_quantised
from .tflite_file import write_tflite
from .verify import check_parity, measure_parity
from .widths import read_widths

KINDS = ("onnx", "fp32", "int8", "int8-full")
"""What can be exported: ONNX float32, and TFLite float32, int8 and int8-full."""

_SUFFIX = {"onnx": "onnx", "fp32": "fp32.tflite", "int8": "int8.tflite", "int8-full": "int8-full.tflite"}
_RECIPE = {"onnx": "fp32", "fp32": "fp32", "int8": DYNAMIC, "int8-full": STATIC}
_VERIFY_MACS = 4e11
_LIBRARIES = (
    "torch",
    "timm",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "onnx",
    "onnxscript",
    "onnxruntime",
)


@dataclass(frozen=True)
class ExportSettings:
    """What to export and how to check it.

    Attributes:
        kinds: some of ``KINDS``.
        calibration_images: held-out images that set the ranges of ``int8-full``.
        verify_images: test images every file is run on; 0 takes the whole test split, or for a big model an
            evenly spaced part of it, at least 32.
        min_agreement: least share of images on which ``int8`` has the float model's top-1, 0..1.
        seed: of the choice of calibration images.

    Raises:
        DataError: a value is out of range.
    """

    kinds: tuple[str, ...] = KINDS
    calibration_images: int = 32
    verify_images: int = 0
    min_agreement: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise DataError("Unknown kind of file", expected=", ".join(KINDS), got=", ".join(unknown) or "none")
        if self.calibration_images < 2:
            raise DataError("Calibration needs at least 2 images", got=self.calibration_images)
        if self.verify_images < 0:
            raise DataError("verify_images must not be negative", got=self.verify_images)
        if not 0 <= self.min_agreement <= 1:
            raise DataError("min_agreement is a share", expected="0 to 1", got=self.min_agreement)


@dataclass(frozen=True)
class _Reference:
    """The images every file is run on, and what the torch model says of them."""

    inputs: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    no_labels_reason: str | None


def export_model(
    model: SlicedViT,
    task: Task,
    data: Dataset,
    folder: Path,
    name: str,
    settings: ExportSettings | None = None,
    progress: Progress = silent,
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

    Returns:
        The manifests, in the order of ``settings.kinds``.

    Raises:
        ParityError: a file does not compute what the model computes, or its widths are not the plan's.
        StorageError: there is no space, or no permission to write.
        MissingExtraError: a converter or engine is not installed.
    """
    job = _Job(model, task, data, folder, name, settings or ExportSettings(), _provenance(model, task))
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    done = {kind: _finished(job, kind) for kind in job.settings.kinds}
    missing = [kind for kind in job.settings.kinds if done[kind] is None]
    if missing:
        reference = _reference(job)
        with storage_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
            for position, kind in enumerate(missing):
                progress("export", position, len(missing), job.file(kind).name)
                path = Path(scratch) / job.file(kind).name
                _write(job, kind, path)
                artifact = _verified(_describe(job, kind, path), path, reference)
                done[kind] = _accept(artifact, path, folder, job.min_agreement)
            progress("export", len(missing), len(missing))
    return [artifact for artifact in done.values() if artifact is not None]


@dataclass(frozen=True)
class _Job:
    """What is exported, from what, to where."""

    model: SlicedViT
    task: Task
    data: Dataset
    folder: Path
    name: str
    settings: ExportSettings
    provenance: Provenance

    def file(self, kind: str) -> Path:
        return self.folder / f"{self.name}.{_SUFFIX[kind]}"

    def calibration(self, kind: str) -> Calibration | None:
        if kind != "int8-full":
            return None
        images = min(self.settings.calibration_images, len(self.data.held_out))
        return Calibration(self.data.name, "held-out", images, self.settings.seed)

    @property
    def min_agreement(self) -> float | None:
        """What ``int8`` is held to; weights that were never trained answer by chance and are held to nothing."""
        return self.settings.min_agreement if self.task.trained else None


def _write(job: _Job, kind: str, path: Path) -> None:
    if kind == "onnx":
        write_onnx(job.model, path)
    elif kind == "fp32":
        write_tflite(job.model, path)
    else:
        source = job.file("fp32")
        if _finished(job, "fp32") is None:
            source = path.parent / "float.tflite"
            if not source.exists():
                write_tflite(job.model, source)
        write_quantised(source, path, _RECIPE[kind], _calibration_images(job, kind))


def _calibration_images(job: _Job, kind: str) -> npt.NDArray[np.float32] | None:
    calibration = job.calibration(kind)
    if calibration is None:
        return None
    generator = np.random.default_rng([calibration.seed, 4])
    chosen = np.sort(generator.permutation(job.data.held_out)[: calibration.images])
    return _images(job.data, chosen, job.task)


def _images(data: Dataset, indices: npt.NDArray[np.int64], task: Task) -> npt.NDArray[np.float32]:
    batches = [images.numpy() for images, _ in plain_batches(data, indices, task.preprocessing)]
    return np.ascontiguousarray(np.concatenate(batches).transpose(0, 2, 3, 1))


def _reference(job: _Job) -> _Reference:
    model, task, data = job.model, job.task, job.data
    wanted = job.settings.verify_images or max(32, int(_VERIFY_MACS / macs(model.plan)))
    count = min(wanted, len(data.test))
    indices = data.test[np.linspace(0, len(data.test) - 1, count).round().astype(np.int64)]
    logits = logits_of(model, data, indices, task.preprocessing)
    same = task.class_names == data.class_names
    reason = None if same else f"the model has {len(task.class_names)} classes of its own, {data.name} has others"
    return _Reference(_images(data, indices, task), logits, data.labels[indices] if same else None, reason)


def _describe(job: _Job, kind: str, path: Path) -> Artifact:
    """Returns the manifest of a file just written; its parity is not measured yet."""
    engine = open_engine(path)
    onnx = kind == "onnx"
    return Artifact(
        file=path.name,
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        format="onnx" if onnx else "tflite",
        precision="fp32" if onnx else kind,  # type: ignore[arg-type]
        recipe=_RECIPE[kind],
        plan=job.model.plan,
        preprocessing=job.task.preprocessing,
        input=_tensor(engine, "input", "NCHW" if onnx else "NHWC"),
        output=_tensor(engine, "output", "NC"),
        class_names=job.task.class_names,
        parity=Parity(0, 0.0, 0.0, None, 0.0, None, None, "not run yet"),
        calibration=job.calibration(kind),
        provenance=job.provenance,
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


def _verified(artifact: Artifact, path: Path, reference: _Reference) -> Artifact:
    session = Session(artifact, open_engine(path, threads=torch.get_num_threads()))
    parity = measure_parity(session, reference.inputs, reference.logits, reference.labels, reference.no_labels_reason)
    return replace(artifact, parity=parity)


def _accept(artifact: Artifact, path: Path, folder: Path, min_agreement: float | None) -> Artifact:
    """Moves a file that passes its checks into ``folder``; one that fails goes to ``folder/rejected``."""
    try:
        found = read_widths(path, artifact.plan)
        if found != artifact.plan:
            raise ParityError(f"{path.name} does not have the widths of its plan", expected=artifact.plan, got=found)
        check_parity(artifact, min_agreement)
    except (ParityError, ArtifactError) as error:
        rejected = folder / "rejected"
        rejected.mkdir(exist_ok=True)
        _place(artifact, path, rejected)
        raise ParityError(f"{error} The file is kept in {rejected} and was not released") from error
    return _place(artifact, path, folder)


def _place(artifact: Artifact, path: Path, folder: Path) -> Artifact:
    """Moves file, then manifest; a file without its manifest counts as not there."""
    target = folder / path.name
    manifest_path(target).unlink(missing_ok=True)
    shutil.move(path, target)
    target.chmod(0o644)
    write_artifact(target, artifact)
    return artifact


def _finished(job: _Job, kind: str) -> Artifact | None:
    """Returns the manifest of a file that needs no new export, or None."""
    try:
        artifact = read_artifact(job.file(kind))
        check_parity(artifact, job.min_agreement)
    except (ArtifactError, ParityError):
        return None
    same = (
        artifact.provenance == job.provenance
        and artifact.recipe == _RECIPE[kind]
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
