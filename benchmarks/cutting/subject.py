"""The model that is cut, with its weights and the pictures it is judged on."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from compress.data.class_order import reordered
from compress.data.load import load_data
from compress.model.folder import weights_sha256
from compress.model.load import ModelSpec, load_model, weights_metadata
from compress.model.metadata import is_stretched
from compress.model.vit import SlicedViT
from runtime import PocketVitWarning, macs

from .answers import Answers, answers_of
from .pictures import Pictures, Stack, photographs


@dataclass(frozen=True)
class Subject:
    """A whole model and what is asked of those cut from it.

    Attributes:
        spec: architecture, input and checkpoint of the model.
        model: the model with its weights.
        sets: the pictures by name, the labelled dataset first.
        calibration_images: images that a model is cut on.
    """

    spec: ModelSpec
    model: SlicedViT
    sets: tuple[Pictures, ...]
    calibration_images: int

    @cached_property
    def digest(self) -> str:
        """What figures must have in common to stand in one table: weights, input, pictures and their numbers."""
        described = [
            *(self.spec.name, weights_sha256(self.model), self.model.plan.img_size),
            *([own.name, own.digest(), own.spec.interpolation, own.spec.resize, own.test_images] for own in self.sets),
            self.calibration_images,
        ]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]

    @property
    def macs(self) -> int:
        """MACs of the whole model for one image."""
        return macs(self.model.plan)

    @cached_property
    def tests(self) -> dict[str, Stack]:
        """The test images of each set, kept in memory."""
        return {own.name: own.test() for own in self.sets}

    @cached_property
    def answers(self) -> dict[str, Answers]:
        """The whole model's answers to the test images of each set, computed once."""
        return {name: answers_of(self.model, stack.images) for name, stack in self.tests.items()}

    def pictures(self, name: str) -> Pictures:
        """Returns the set of that name."""
        return next(own for own in self.sets if own.name == name)


def load_subject(
    spec: ModelSpec,
    data_name: str,
    photos: tuple[Path, Path] | None,
    *,
    calibration_images: int,
    test_images: int,
    test_photos: int,
) -> Subject:
    """Loads the model and finds its pictures.

    Pictures of the dataset enter the model as in a run. Photographs are scaled to the model's size by their short side
    and cropped in the middle, where a run would scale them further and crop more.

    Args:
        spec: the model, with a checkpoint whose classifier knows the classes of the dataset.
        data_name: the labelled dataset, as ``--data`` takes it.
        photos: folders of photographs to calibrate on and to test on; None leaves them out.
        calibration_images: images that a model is cut on.
        test_images: images of the dataset that a model is judged on, at most.
        test_photos: photographs that a model is judged on, at most.

    Raises:
        DataError: pictures are missing.
        ModelError: the weights cannot be read or do not fit the dataset.
    """
    data, brought = load_data(data_name), weights_metadata(spec)
    if brought.class_names is not None and sorted(brought.class_names) == sorted(data.class_names):
        data = reordered(data, brought.class_names)
    pictures = None if photos is None else photographs(*photos, data.class_names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PocketVitWarning)
        model = load_model(spec, data.num_classes)
    size = model.plan.img_size
    usual = brought.preprocessing(*size, stretch=is_stretched(data.size, *size))
    sets = [Pictures("data", data, usual, True, test_images)]
    if pictures is not None:
        middle = replace(brought.preprocessing(*size, stretch=False), resize="center", crop_pct=1.0)
        sets.append(Pictures("photos", pictures, middle, False, test_photos))
    return Subject(spec, model, tuple(sets), calibration_images)
