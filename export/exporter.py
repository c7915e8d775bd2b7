"""From a model to verified files: written aside, run on real images, and moved into place only when they are right."""

from __future__ import annotations

import math
import platform
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
    Trial,
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

from .calibrate import check_calibration
from .choose import (
    Candidate,
    Kitchen,
    Subject,
    Timer,
    Wanted,
    as_it_is,
    choose_accurate,
    choose_fast,
    drop_of,
    trial_of,
)
from .micro import DEFAULT_LIMITS, MicroLimits, check_micro, micro_graph, run_micro
from .onnx_file import ONNX_DYNAMIC, write_onnx
from .qat import QatRecipe, train_quantised
from .recipes import CPU_RECIPES, Family, full_recipes
from .tflite_file import write_tflite
from .verify import check_parity, compare_logits, measure_parity, real_logits
from .widths import read_widths

KINDS = ("onnx", "onnx-fp16", "onnx-int8", "fp32", "fp16", "int8", "int8-full", "int8-full-16x8", "tflite-micro")
"""What can be exported: ONNX in three precisions, and TFLite in six forms."""

DEFAULT_KINDS = ("onnx", "onnx-int8", "fp32", "int8", "int8-full")
"""What is exported unless something else is asked for."""

_SUFFIX = {
    "onnx": "onnx",
    "onnx-fp16": "fp16.onnx",
    "onnx-int8": "int8.onnx",
    **{kind: f"{kind.removeprefix('tflite-')}.tflite" for kind in KINDS if not kind.startswith("onnx")},
}
_RECIPE = {
    "onnx": "fp32",
    "onnx-fp16": "fp16_weights",
    "onnx-int8": ONNX_DYNAMIC,
    "fp32": "fp32",
    "fp16": "fp16_weights",
}
_QUANTISED = ("int8", "int8-full", "int8-full-16x8", "tflite-micro")
_TRAINABLE = ("int8-full", "tflite-micro")
_VERIFY_MACS = 4e11
_CALIBRATION_MACS = 1e11
_CALIBRATION_IMAGES = (32, 256)
_CHOICE_MACS = 2e11
_CHOICE_IMAGES = (32, 1000)
_LIBRARIES = ("torch", "timm", "ai-edge-litert", "onnx", "onnxruntime")


@dataclass(frozen=True)
class ExportSettings:
    """What to export and how to check it.

    Attributes:
        kinds: some of ``KINDS``.
        calibration_images: held-out images that set integer ranges; 0 takes 32 to 256 of them, more for small models.
        verify_images: test images every file is run on; 0 takes the whole test split, or for a big model an
            evenly spaced part of it, at least 32.
        min_agreement: least share of images on which ``fp16`` and ``int8`` have the float model's top-1, 0..1.
        made_for: family of processors that ``int8`` is chosen for.
        max_drop: most points of top-1 an integer file may lose on held-out images; None holds them to nothing more.
        qat_epochs: of quantisation-aware training of ``int8-full`` and ``tflite-micro``; 0 trains nothing.
        seed: of the choice of calibration images, and of training.
        micro: what ``tflite-micro`` files must fit.

    Raises:
        DataError: a value is out of range.
    """

    kinds: tuple[str, ...] = DEFAULT_KINDS
    calibration_images: int = 0
    verify_images: int = 0
    min_agreement: float = 0.99
    made_for: Family = "x86"
    max_drop: float | None = None
    qat_epochs: int = 0
    seed: int = 0
    micro: MicroLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise DataError("Unknown kind of file", expected=", ".join(KINDS), got=", ".join(unknown) or "none")
        if self.calibration_images == 1 or self.calibration_images < 0:
            raise DataError("Calibration needs at least 2 images", got=self.calibration_images)
        if self.verify_images < 0:
            raise DataError("verify_images must not be negative", got=self.verify_images)
        if not 0 <= self.min_agreement <= 1:
            raise DataError("min_agreement is a share", expected="0 to 1", got=self.min_agreement)
        if self.made_for not in CPU_RECIPES:
            raise DataError("Unknown family of processors", expected=", ".join(CPU_RECIPES), got=self.made_for)
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise DataError("max_drop is in points of top-1", expected="0 to 100", got=self.max_drop)
        if self.qat_epochs < 0:
            raise DataError("qat_epochs must not be negative", got=self.qat_epochs)


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
    job = _Job(model, task, data, folder, name, settings or ExportSettings(), _provenance(model, task), timer)
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
                made = _make(job, kind, path, reference, progress)
                artifact = _verified(_describe(job, kind, path, made), path, reference, progress)
                done[kind] = _accept(artifact, path, folder, job)
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
    timer: Timer | None

    def file(self, kind: str) -> Path:
        return self.folder / f"{self.name}.{_SUFFIX[kind]}"

    def calibration(self, kind: str) -> Calibration | None:
        if kind not in _QUANTISED:
            return None
        least, most = _CALIBRATION_IMAGES
        own = min(max(least, min(most, int(_CALIBRATION_MACS / macs(self.model.plan)))), len(self.data.held_out) // 2)
        images = min(self.settings.calibration_images or own, len(self.data.held_out))
        return Calibration(self.data.name, "held-out", images, self.settings.seed)

    def asked(self, kind: str) -> dict[str, int | float | str]:
        """What the choice of recipe goes by."""
        settings = self.settings
        asked: dict[str, int | float | str] = {}
        if kind in _QUANTISED and settings.max_drop is not None:
            asked["max_drop"] = settings.max_drop
        if kind == "int8":
            asked |= {"made_for": settings.made_for, "min_agreement": settings.min_agreement}
        if kind in _TRAINABLE:
            asked["qat_epochs"] = settings.qat_epochs
        return asked

    @property
    def min_agreement(self) -> float | None:
        """What ``int8`` is held to; weights that were never trained answer by chance and are held to nothing."""
        return self.settings.min_agreement if self.task.trained else None


@dataclass(frozen=True)
class _Made:
    """How a file was made."""

    recipe: str
    trials: tuple[Trial, ...] = ()


def _make(job: _Job, kind: str, path: Path, reference: _Reference, progress: Progress) -> _Made:
    """Writes the file of ``kind`` to ``path``."""
    if kind in _QUANTISED:
        return _quantise(job, kind, path, reference, progress)
    if kind.startswith("onnx"):
        write_onnx(job.model, path, half=kind == "onnx-fp16", int8=kind == "onnx-int8")
    else:
        write_tflite(job.model, path, half=kind == "fp16")
    return _Made(_RECIPE[kind])


def _quantise(job: _Job, kind: str, path: Path, reference: _Reference, progress: Progress) -> _Made:
    """Tries the recipes of ``kind`` on held-out images and writes the best one's file.

    Raises:
        ParityError: no recipe loses so little as was asked.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        prepare = micro_graph if kind == "tflite-micro" else as_it_is
        kitchen = Kitchen(_subject(job, kind), Path(scratch), prepare)
        wanted = Wanted(max_drop=job.settings.max_drop)
        if kind == "int8":
            wanted = Wanted(_with_margin(job, kitchen) if wanted.max_drop is None else None, wanted.max_drop)
            timer = job.timer if job.settings.made_for == host_family() else None
            recipes = CPU_RECIPES[job.settings.made_for]
            chosen, trials = choose_fast(kitchen, recipes, wanted, timer, lambda file: _agrees(job, file, reference))
        else:
            chosen, trials = choose_accurate(kitchen, full_recipes("int16" if kind.endswith("16x8") else "int8"))
        if kind in _TRAINABLE and job.settings.qat_epochs:
            chosen, trials = _trained(job, kitchen, chosen, trials, progress)
        if job.settings.max_drop is not None and not wanted.met_by(chosen.parity):
            raise ParityError(
                f"No recipe of {kind} loses so little",
                expected=f"at most {job.settings.max_drop:g} points of top-1 on {chosen.parity.images} held-out images",
                got=f"{chosen.recipe.name} comes closest and loses {drop_of(chosen.parity) or 0:.2f}",
                fix="Allow more with --max-drop, calibrate on more images, or train under rounding with --qat",
            )
        shutil.copyfile(chosen.path, path)
        return _Made(chosen.recipe.name, trials)


def _trained(
    job: _Job, kitchen: Kitchen, chosen: Candidate, trials: tuple[Trial, ...], progress: Progress
) -> tuple[Candidate, tuple[Trial, ...]]:
    """Trains the chosen candidate under rounding; it is kept as it was where that does not help."""
    recipe = QatRecipe(job.settings.qat_epochs)
    graph = train_quantised(
        chosen.graph,
        job.model,
        job.data,
        job.task.preprocessing,
        recipe,
        seed=job.settings.seed,
        progress=progress,
    )
    after = kitchen.candidate(replace(chosen.recipe, name=f"{chosen.recipe.name}_qat"), graph)
    trials = (*trials, trial_of(after))
    better = after.parity.top1_agreement > chosen.parity.top1_agreement
    if after.parity.top1 is not None and chosen.parity.top1 is not None:
        better = after.parity.top1 > chosen.parity.top1
    return (after if better else chosen), trials


def _agrees(job: _Job, path: Path, reference: _Reference) -> bool:
    """Says whether an ``int8`` file will pass its check."""
    if job.min_agreement is None:
        return True
    found = real_logits(open_engine(path, threads=torch.get_num_threads()), reference.inputs)
    return compare_logits(found, reference.logits, None).top1_agreement >= job.min_agreement


def _with_margin(job: _Job, kitchen: Kitchen) -> float | None:
    """Returns the agreement asked for and a standard error more: the check is on other images than the choice."""
    least = job.min_agreement
    if least is None:
        return None
    return min(1.0, least + math.sqrt(least * (1 - least) / len(kitchen.subject.images)))


def _subject(job: _Job, kind: str) -> Subject:
    calibration = job.calibration(kind)
    assert calibration is not None
    order = np.random.default_rng([calibration.seed, 4]).permutation(job.data.held_out)
    images = _images(job.data, np.sort(order[: calibration.images]), job.task)
    check_calibration(images)
    rest = order[calibration.images :]
    least, most = _CHOICE_IMAGES
    count = min(max(least, min(most, int(_CHOICE_MACS / macs(job.model.plan)))), len(rest))
    chosen = np.sort(rest[:count]) if count >= least else np.sort(order[:least])
    known = job.task.class_names == job.data.class_names
    return Subject(
        job.model,
        images,
        _images(job.data, chosen, job.task),
        logits_of(job.model, job.data, chosen, job.task.preprocessing),
        job.data.labels[chosen] if known else None,
    )


def host_family() -> str:
    """Returns the family of processors this machine's belongs to, or an empty text."""
    return "x86" if platform.machine().lower() in ("x86_64", "amd64") else ""


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


def _describe(job: _Job, kind: str, path: Path, made: _Made) -> Artifact:
    """Returns the manifest of a file just written; its parity is not measured yet."""
    engine = open_engine(path)
    onnx = kind.startswith("onnx")
    return Artifact(
        file=path.name,
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        format="onnx" if onnx else "tflite",
        precision=(kind.removeprefix("onnx-") if kind != "onnx" else "fp32"),  # type: ignore[arg-type]
        recipe=made.recipe,
        plan=job.model.plan,
        preprocessing=job.task.preprocessing,
        input=_tensor(engine, "input", "NCHW" if onnx else "NHWC"),
        output=_tensor(engine, "output", "NC"),
        class_names=job.task.class_names,
        parity=Parity(0, 0.0, 0.0, None, 0.0, None, None, "not run yet"),
        calibration=job.calibration(kind),
        provenance=job.provenance,
        made_for=job.settings.made_for if kind == "int8" else None,
        asked=job.asked(kind),
        trials=made.trials,
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


def _verified(artifact: Artifact, path: Path, reference: _Reference, progress: Progress) -> Artifact:
    if artifact.precision == "tflite-micro":
        run = run_micro(path, reference.inputs, progress)
        parity = compare_logits(run.logits, reference.logits, reference.labels, reference.no_labels_reason)
        return replace(artifact, parity=parity, arena_bytes=run.arena_bytes)
    session = Session(artifact, open_engine(path, threads=torch.get_num_threads()))
    parity = measure_parity(session, reference.inputs, reference.logits, reference.labels, reference.no_labels_reason)
    return replace(artifact, parity=parity)


def _accept(artifact: Artifact, path: Path, folder: Path, job: _Job) -> Artifact:
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


def _check(artifact: Artifact, job: _Job) -> None:
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


def _finished(job: _Job, kind: str) -> Artifact | None:
    """Returns the manifest of a file that needs no new export, or None."""
    try:
        artifact = read_artifact(job.file(kind))
        _check(artifact, job)
    except (ArtifactError, ParityError):
        return None
    same = (
        artifact.provenance == job.provenance
        and artifact.recipe == _RECIPE.get(kind, artifact.recipe)
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
