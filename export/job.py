"""The settings, the model and the images of one export."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from compress.data.batches import plain_batches
from compress.data.data_list import data_digest
from compress.data.dataset import Dataset
from compress.data.unlabelled import unlabelled_folder
from compress.fidelity import images_to_compare
from compress.model.folder import Task
from compress.model.half_range import in_half_range
from compress.model.other import OtherModel
from compress.model.vit import SlicedViT
from export.quantise.choose import Timer
from export.quantise.recipes import Recipe, recipes_for
from runtime import Calibration, Progress, Provenance, if_long, macs, silent

from .formats import ExportKind
from .gate.limits import MAX_DROP, MIN_AGREEMENT, MIN_COSINE, MIN_SQNR_DB, ExportLimits
from .gate.looks import MOST_IMAGES, planned_looks
from .settings import ExportSettings

_VERIFY_MACS = 4e11
_MOST_MACS = 4e12
_MOST_BYTES = 2**30
_FLOAT_AGREEMENT = 0.99
_FLOAT_COSINE = 0.999
_CALIBRATION_MACS = 1e11
_CALIBRATION_IMAGES = (32, 256)
_CHOICE_MACS = 1e12
_CHOICE_IMAGES = (32, 1000)


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
        whole: the whole model that a model of vectors was cut from; None for models of classes.
    """

    model: SlicedViT | OtherModel
    task: Task
    data: Dataset
    folder: Path
    name: str
    settings: ExportSettings
    provenance: Provenance
    timer: Timer | None
    pictures: Dataset | None = None
    whole: SlicedViT | None = None

    def file(self, kind: ExportKind) -> Path:
        """Returns the path of the file of ``kind``."""
        return self.folder / f"{self.name}{kind.suffix}"

    def options(self, kind: ExportKind) -> dict[str, Any]:
        """Returns the settings that a file of ``kind`` is written with."""
        return {name: getattr(self.settings, name) for name in kind.options}

    @property
    def usual_images(self) -> int:
        """Number of images that activations are observed on, by the cost of the model."""
        least, most = _CALIBRATION_IMAGES
        return max(least, min(most, int(_CALIBRATION_MACS / macs(self.model.plan))))

    def in_half_range(self, progress: Progress = silent) -> ExportJob:
        """Returns the job with a model whose norms stay inside the range of float16; most models stay as they are.

        Held-out images, or the pictures to calibrate on, show how large the squares of its tokens become.

        Args:
            progress: called as the images are computed.
        """
        found = self.range_images()
        if found is None or isinstance(self.model, OtherModel):
            return self
        images = torch.from_numpy(found.transpose(0, 3, 1, 2))
        return replace(self, model=in_half_range(self.model, images, if_long(progress)))

    def range_images(self) -> npt.NDArray[np.float32] | None:
        """Returns preprocessed images ``(N, H, W, C)`` that show how large values become, or None without images."""
        data, every = (self.data, self.data.held_out) if self.pictures is None else (self.pictures, self.pictures.train)
        drawn = np.random.default_rng([self.settings.seed, 4]).permutation(every)[: self.usual_images]
        return images_of(data, np.sort(drawn), self.task) if len(drawn) else None

    def calibration(self, kind: ExportKind) -> Calibration | None:
        """Returns which images set the integer ranges of a kind, or None for a float kind."""
        if kind.form is None:
            return None
        own = self.usual_images
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
            asked["made_for"] = settings.made_for
            if settings.min_cosine is not None:
                asked["min_cosine"] = settings.min_cosine
            if settings.min_agreement is not None:
                asked["min_agreement"] = settings.min_agreement
            asked |= {"recipe": settings.int8_recipe} if self.recipe(kind) else {}
        if kind.trainable:
            asked["qat_epochs"] = settings.qat_epochs
            asked |= {"qat_from": settings.qat_from} if settings.qat_from > 1 else {}
        return asked

    def limits(self, kind: ExportKind) -> ExportLimits:
        """Returns what a file of ``kind`` must keep.

        The outputs of untrained weights are chance, so they are held to nothing but a given ``max_drop``. A given
        ``min_agreement`` takes the place of the usual agreement and SQNR, and 0 that of the usual ``max_drop``, too.
        """
        if self.model.plan.is_vector:
            return self._vector_limits(kind)
        least, most = self.settings.min_agreement, self.settings.max_drop
        explicit = most is not None
        if kind.form is None:
            float_kind = kind.held_to == "top-1" and self.task.trained
            return (
                ExportLimits(agreement=_FLOAT_AGREEMENT if least is None else least) if float_kind else ExportLimits()
            )
        if kind.held_to != "top-1" or not self.task.trained:
            return ExportLimits(max_drop=most, explicit_drop=explicit)
        if least is not None:
            usual = MAX_DROP if least > 0 else None
            return ExportLimits(agreement=least, max_drop=most if explicit else usual, explicit_drop=explicit)
        return ExportLimits(MIN_AGREEMENT, MIN_SQNR_DB, most if explicit else MAX_DROP, explicit)

    def _vector_limits(self, kind: ExportKind) -> ExportLimits:
        """Returns what a file that answers with a vector must keep: its mean cosine with the float model's alone."""
        if kind.held_to != "top-1" or not self.task.trained:
            return ExportLimits()
        usual = _FLOAT_COSINE if kind.form is None else MIN_COSINE
        least = usual if self.settings.min_cosine is None else self.settings.min_cosine
        return ExportLimits(cosine=least) if least > 0 else ExportLimits()


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


def of_choice(job: ExportJob, kind: ExportKind) -> npt.NDArray[np.int64]:
    """Returns the indices of the held-out images on which recipes of a kind are compared."""
    order, used = job.held_out(kind)
    rest = order[used:]
    least, most = _CHOICE_IMAGES
    most = min(most, images_to_compare(job.model.plan))
    count = min(max(least, min(most, int(_CHOICE_MACS / macs(job.model.plan)))), len(rest))
    return np.sort(rest[:count]) if count >= least else np.sort(order[:least])


def verified_on(job: ExportJob) -> int:
    """Returns the number of test images that files are verified on."""
    plan = job.model.plan
    wanted = job.settings.verify_images or min(max(32, int(_VERIFY_MACS / macs(plan))), images_to_compare(plan))
    return min(wanted, len(job.data.test))


def looks_of(job: ExportJob) -> tuple[int, ...]:
    """Returns the numbers of test images at which files are judged, the first those that every file is verified on.

    A number of images that was asked for is the only one. Large models and large images are judged on fewer images.
    """
    first = verified_on(job)
    if job.settings.verify_images:
        return (first,)
    plan = job.model.plan
    if plan.output_kind == "grid":
        return (first,)
    affordable = int(_MOST_MACS / macs(plan)), _MOST_BYTES // (4 * plan.in_chans * plan.img_size[0] * plan.img_size[1])
    return planned_looks(first, min(MOST_IMAGES, len(job.data.test), *affordable))


def knows_labels(task: Task, data: Dataset) -> bool:
    """Returns whether the data has labels that are the model's classes."""
    return data.labelled and task.class_names == data.class_names
