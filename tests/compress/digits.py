"""A model of four blocks that knows most digits, trained once for all tests that ask for it."""

from __future__ import annotations

from functools import cache

from compress.data.augment import Augmentation
from compress.data.dataset import Dataset
from compress.data.load import load_data
from compress.model.load import ModelSpec, load_model
from compress.model.vit import SlicedViT
from compress.recipe import TrainRecipe
from compress.train.fit import fit
from runtime import Preprocessing

SPEC = Preprocessing(16, 16, 1, (0.5,), (0.5,), "bilinear", "stretch")
GENTLE = Augmentation(mirror=0.0, jitter=0.1)


@cache
def digits_data() -> Dataset:
    """Returns the pictures of digits; tests must not change them."""
    return load_data("digits")


@cache
def digits_model() -> SlicedViT:
    """Returns the trained model; tests must not change it."""
    overrides = {"embed_dim": 32, "depth": 4, "num_heads": 2, "mlp_ratio": 1.5}
    model = load_model(ModelSpec("vit_tiny_patch16_224", 16, 4, 1, overrides=overrides), 10)
    recipe = TrainRecipe(epochs=8, batch_size=32, lr=3e-3, head_lr=3e-3, warmup=0.1, patience=8, clip_norm=1.0)
    return fit(model, digits_data(), SPEC, recipe, augmentation=GENTLE).model
