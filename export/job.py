"""One export: what is asked for, of which model, with which images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.data.splits import stratified
from compress.evaluate import logits_of
from compress.model.folder import Task
from compress.model.vit import SlicedViT
from export.formats.micro import DEFAULT_LIMITS, MicroLimits
from export.quantise.choose import Timer
from export.quantise.recipes import CPU_RECIPES, INT8_RECIPES, Family
from export.writers.onnx import OPSET, OPSETS
from runtime import Calibration, DataError, Progress, Provenance, check_fields, macs, silent

KINDS = (
    "onnx",
    "onnx-fp16",
    "onnx-int8",
    "torch",
    "fp32",
    "fp16",
    "int8",
    "int8-full",
    "int8-full-16x8",
    "tflite-micro",
)
"""What can be exported: ONNX in three precisions, torch in one, and TFLite in six forms."""

DEFAULT_KINDS = ("onnx", "onnx-int8", "fp32", "int8", "int8-full")
"""What is exported unless something else is asked for."""

_SUFFIX = {
    "onnx": "onnx",
    "onnx-fp16": "fp16.onnx",
    "onnx-int8": "int8.onnx",
    **{kind: f"{kind.removeprefix('tflite-')}.tflite" for kind in KINDS if not kind.startswith("onnx")},
    "torch": "pt2",
}
RECIPES = {
    "onnx": "fp32",
    "onnx-fp16": "fp16_weights",
    "torch": "fp32",
    "fp32": "fp32",
    "fp16": "fp16_weights",
}
QUANTISED = ("onnx-int8", "int8", "int8-full", "int8-full-16x8", "tflite-micro")
TRAINABLE = ("int8-full", "tflite-micro")
_VERIFY_MACS = 4e11
_CALIBRATION_MACS = 1e11
_CALIBRATION_IMAGES = (32, 256)
_CHOICE_MACS = 2e11
_CHOICE_IMAGES = (32, 1000)


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
        int8_recipe: of ``INT8_RECIPES``, what ``int8`` is made by; empty chooses.
        qat_epochs: of quantisation-aware training of ``int8-full`` and ``tflite-micro``; 0 trains nothing.
        qat_from: the first of these epochs, counted from 1, that rounds; those before train in float.
        seed: of the choice of calibration images, and of training.
        micro: what ``tflite-micro`` files must fit.
        opset: version of ONNX's operators that ``onnx`` files are written with, 17 to 23.

    Raises:
        DataError: a value is out of range.
    """

    kinds: tuple[str, ...] = DEFAULT_KINDS
    calibration_images: int = 0
    verify_images: int = 0
    min_agreement: float = 0.99
    made_for: Family = "x86"
    max_drop: float | None = None
    int8_recipe: str = ""
    qat_epochs: int = 0
    qat_from: int = 1
    seed: int = 0
    micro: MicroLimits = DEFAULT_LIMITS
    opset: int = OPSET

    def __post_init__(self) -> None:
        check_fields(self)
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
        if self.opset not in OPSETS:
            raise DataError(
                "ONNX files cannot be written with this version of ONNX's operators",
                expected=f"an opset of {OPSETS[0]} to {OPSETS[-1]}",
                got=self.opset,
                fix=f"Leave it out for {OPSET}, which the most engines read",
            )
        if self.qat_epochs < 0:
            raise DataError("qat_epochs must not be negative", got=self.qat_epochs)
        if not 1 <= self.qat_from <= max(1, self.qat_epochs):
            raise DataError(
                "Rounding begins at an epoch of the training under rounding, counted from 1",
                expected=f"--qat-from 1 to {self.qat_epochs}" if self.qat_epochs else "--qat-from only with --qat",
                got=self.qat_from,
            )
        if self.int8_recipe and self.int8_recipe not in INT8_RECIPES:
            raise DataError("Unknown recipe of int8", expected=", ".join(INT8_RECIPES), got=repr(self.int8_recipe))
        if self.int8_recipe and "int8" not in self.kinds:
            raise DataError(
                "A recipe of int8 was named, and no int8 file asked for",
                expected="int8 among --formats",
                got=", ".join(self.kinds),
            )


@dataclass(frozen=True)
class Reference:
    """The images every file is run on, and what the torch model says of them."""

    inputs: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    no_labels_reason: str | None


@dataclass(frozen=True)
class Job:
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
        """Returns where the file of ``kind`` goes."""
        return self.folder / f"{self.name}.{_SUFFIX[kind]}"

    def calibration(self, kind: str) -> Calibration | None:
        """Returns which images set its integer ranges, or None where there are none."""
        if kind not in QUANTISED:
            return None
        least, most = _CALIBRATION_IMAGES
        own = min(max(least, min(most, int(_CALIBRATION_MACS / macs(self.model.plan)))), len(self.data.held_out) // 2)
        images = min(self.settings.calibration_images or own, len(self.data.held_out))
        return Calibration(self.data.name, "held-out", images, self.settings.seed)

    def asked(self, kind: str) -> dict[str, int | float | str]:
        """What the choice of recipe goes by."""
        settings = self.settings
        asked: dict[str, int | float | str] = {}
        if kind in QUANTISED and settings.max_drop is not None:
            asked["max_drop"] = settings.max_drop
        if kind.startswith("onnx"):
            asked["opset"] = settings.opset
        if kind == "int8":
            asked |= {"made_for": settings.made_for, "min_agreement": settings.min_agreement}
            asked |= {"recipe": settings.int8_recipe} if settings.int8_recipe else {}
        if kind in TRAINABLE:
            asked["qat_epochs"] = settings.qat_epochs
            asked |= {"qat_from": settings.qat_from} if settings.qat_from > 1 else {}
        return asked

    @property
    def min_agreement(self) -> float | None:
        """What ``int8`` is held to; weights that were never trained answer by chance and are held to nothing."""
        return self.settings.min_agreement if self.task.trained else None


def images_of(data: Dataset, indices: npt.NDArray[np.int64], task: Task) -> npt.NDArray[np.float32]:
    """Returns preprocessed images, ``(N, H, W, C)``."""
    batches = [images.numpy() for images, _ in plain_batches(data, indices, task.preprocessing)]
    return np.ascontiguousarray(np.concatenate(batches).transpose(0, 2, 3, 1))


def verified_on(job: Job) -> int:
    """Returns on how many test images files are verified."""
    wanted = job.settings.verify_images or max(32, int(_VERIFY_MACS / macs(job.model.plan)))
    return min(wanted, len(job.data.test))


def reference_of(job: Job, progress: Progress = silent) -> Reference:
    """Returns the test images that files are verified on, and what the torch model says of them."""
    model, task, data = job.model, job.task, job.data
    # no evenly spaced part: where classes come in turns, that could hold a few of them alone
    indices = np.sort(stratified(data.labels, data.test, verified_on(job), np.random.default_rng(0)))
    logits = logits_of(model, data, indices, task.preprocessing, progress=progress, stage="float answers")
    same = task.class_names == data.class_names
    reason = None if same else f"the model has {len(task.class_names)} classes of its own, {data.name} has others"
    return Reference(images_of(data, indices, task), logits, data.labels[indices] if same else None, reason)
