"""The settings, the model and the images of one export."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.batches import plain_batches
from compress.data.data_list import data_digest
from compress.data.dataset import Dataset
from compress.data.splits import stratified
from compress.data.unlabelled import unlabelled_folder
from compress.evaluate import logits_of
from compress.model.folder import Task
from compress.model.vit import SlicedViT
from export.quantise.choose import Timer
from export.quantise.recipes import Recipe, recipes_for
from runtime import Calibration, Progress, Provenance, macs, silent

from .formats import ExportKind
from .settings import ExportSettings

_VERIFY_MACS = 4e11
_CALIBRATION_MACS = 1e11
_CALIBRATION_IMAGES = (32, 256)


@dataclass(frozen=True)
class Reference:
    """The images that every file is verified on, with the torch model's outputs.

    Attributes:
        inputs: preprocessed images ``(N, H, W, C)`` float32.
        logits: of the torch model, ``(N, classes)`` float32.
        labels: true classes ``(N,)``, or None.
        no_labels_reason: why there are no labels.
    """

    inputs: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    no_labels_reason: str | None


@dataclass(frozen=True)
class ExportJob:
    """One model to export to one folder.

    Attributes:
        model: the model.
        task: its input and classes.
        data: source of images.
        folder: of the files.
        name: of the files, without suffix.
        settings: which kinds to write.
        provenance: origin of the files.
        timer: times files on this machine; None where it may not.
        pictures: those to calibrate on in place of held-out ones of ``data``; None takes the latter.
    """

    model: SlicedViT
    task: Task
    data: Dataset
    folder: Path
    name: str
    settings: ExportSettings
    provenance: Provenance
    timer: Timer | None
    pictures: Dataset | None = None

    def file(self, kind: ExportKind) -> Path:
        """Returns the path of the file of ``kind``."""
        return self.folder / f"{self.name}{kind.suffix}"

    def options(self, kind: ExportKind) -> dict[str, Any]:
        """Returns the settings that a file of ``kind`` is written with."""
        return {name: getattr(self.settings, name) for name in kind.options}

    def calibration(self, kind: ExportKind) -> Calibration | None:
        """Returns which images set the integer ranges of a kind, or None for a float kind."""
        if kind.form is None:
            return None
        least, most = _CALIBRATION_IMAGES
        own = max(least, min(most, int(_CALIBRATION_MACS / macs(self.model.plan))))
        if self.pictures is not None:
            images = min(self.settings.calibration_images or own, len(self.pictures.train))
            return Calibration(self.pictures.name, "all", images, self.settings.seed)
        own = min(own, len(self.data.held_out) // 2)
        images = min(self.settings.calibration_images or own, len(self.data.held_out))
        return Calibration(self.data.name, "held-out", images, self.settings.seed)

    def held_out(self, kind: ExportKind) -> tuple[npt.NDArray[np.int64], int]:
        """Returns the held-out indices in a random order, and how many of the first ones calibrate a kind."""
        calibration = self.calibration(kind)
        assert calibration is not None
        order = np.random.default_rng([calibration.seed, 4]).permutation(self.data.held_out)
        return order, calibration.images if self.pictures is None else 0

    def calibration_images(self, kind: ExportKind) -> npt.NDArray[np.float32]:
        """Returns the preprocessed images ``(N, H, W, C)`` that calibrate a kind."""
        calibration, (order, count) = self.calibration(kind), self.held_out(kind)
        assert calibration is not None
        if self.pictures is None:
            return images_of(self.data, np.sort(order[:count]), self.task)
        drawn = np.random.default_rng([calibration.seed, 4]).permutation(self.pictures.train)
        return images_of(self.pictures, np.sort(drawn[: calibration.images]), self.task)

    def recipe(self, kind: ExportKind) -> Recipe | None:
        """Returns the recipe that was asked for, or None where it is to be chosen."""
        if kind.choice != "fastest":
            return None
        return next((one for one in recipes_for(kind.name) if one.name == self.settings.int8_recipe), None)

    def asked(self, kind: ExportKind) -> dict[str, int | float | str]:
        """Returns the settings that a file of ``kind`` depends on, as its manifest keeps them."""
        settings = self.settings
        asked: dict[str, int | float | str] = {}
        if kind.form is not None and settings.max_drop is not None:
            asked["max_drop"] = settings.max_drop
        asked |= self.options(kind)
        if kind.choice == "fastest":
            asked |= {"made_for": settings.made_for, "min_agreement": settings.min_agreement}
            asked |= {"recipe": settings.int8_recipe} if self.recipe(kind) else {}
        if kind.trainable:
            asked["qat_epochs"] = settings.qat_epochs
            asked |= {"qat_from": settings.qat_from} if settings.qat_from > 1 else {}
        return asked

    @property
    def min_agreement(self) -> float | None:
        """Least agreement of the top-1; None for untrained weights, whose outputs are chance."""
        return self.settings.min_agreement if self.task.trained else None


def calibration_pictures(folder: str, progress: Progress = silent) -> Dataset | None:
    """Returns the pictures below a folder, all of them in the training split; None for an empty name.

    Raises:
        DataError: the folder does not exist, has no pictures, or has one that cannot be decoded.
    """
    if not folder:
        return None
    path = Path(folder).expanduser()
    found = unlabelled_folder(path, False, progress)
    named = replace(found, name=f"unlabelled:{path.name}")
    return replace(named, name=f"{named.name} {data_digest(named)[:12]}")


def images_of(data: Dataset, indices: npt.NDArray[np.int64], task: Task) -> npt.NDArray[np.float32]:
    """Returns preprocessed images, ``(N, H, W, C)``."""
    batches = [images.numpy() for images, _ in plain_batches(data, indices, task.preprocessing)]
    return np.ascontiguousarray(np.concatenate(batches).transpose(0, 2, 3, 1))


def verified_on(job: ExportJob) -> int:
    """Returns the number of test images that files are verified on."""
    wanted = job.settings.verify_images or max(32, int(_VERIFY_MACS / macs(job.model.plan)))
    return min(wanted, len(job.data.test))


def reference_of(job: ExportJob, progress: Progress = silent) -> Reference:
    """Returns the test images that files are verified on, with the torch model's outputs."""
    model, task, data = job.model, job.task, job.data
    # stratified: every n-th image could be of a few classes alone where classes alternate
    indices = np.sort(stratified(data.labels, data.test, verified_on(job), np.random.default_rng(0)))
    logits = logits_of(model, data, indices, task.preprocessing, progress=progress, stage="float answers")
    known = knows_labels(task, data)
    reason = None if known else f"the {len(task.class_names)} classes of the model are not those of {data.name}"
    if not data.labelled:
        reason = "the images have no labels"
    return Reference(images_of(data, indices, task), logits, data.labels[indices] if known else None, reason)


def knows_labels(task: Task, data: Dataset) -> bool:
    """Returns whether the data has labels that are the model's classes."""
    return data.labelled and task.class_names == data.class_names
