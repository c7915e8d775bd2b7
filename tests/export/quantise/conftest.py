"""A small trained model with images to calibrate on and to compare on, for the tests of integers."""

from __future__ import annotations

import numpy as np
import pytest

from compress.data.augment import augmentation_for
from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.evaluate import logits_of
from compress.model.load import ModelSpec, load_model
from compress.model.vit import SlicedViT
from compress.recipe import TrainRecipe
from compress.train.fit import fit
from export.quantise.candidates import Subject
from tests.export.conftest import SPEC


@pytest.fixture(scope="session")
def trained(digits: Dataset) -> SlicedViT:
    overrides = {"embed_dim": 48, "depth": 3, "num_heads": 3}
    model = load_model(ModelSpec("vit_tiny_patch16_224", 32, 8, 1, overrides=overrides), 10)
    recipe = TrainRecipe(epochs=25, batch_size=32, lr=2e-3, head_lr=2e-3, warmup=0.1, patience=25, clip_norm=1.0)
    return fit(model, digits, SPEC, recipe, augmentation=augmentation_for(digits), seed=0, bf16=False).model


def pictures(digits: Dataset, indices: np.ndarray) -> np.ndarray:
    batches = [images.numpy() for images, _ in plain_batches(digits, indices, SPEC)]
    return np.ascontiguousarray(np.concatenate(batches).transpose(0, 2, 3, 1))


@pytest.fixture(scope="session")
def subject(trained: SlicedViT, digits: Dataset) -> Subject:
    some = digits.test[:120]
    return Subject(
        trained,
        pictures(digits, digits.held_out[:48]),
        pictures(digits, some),
        logits_of(trained, digits, some, SPEC),
        digits.labels[some],
    )
