"""Small random CLIP and SigLIP models of ``transformers``, with the vectors that their own text towers give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from tests.compress.model.hub import made

DIGITS = tuple("0123456789")
SCALE = {"clip": 100.0, "siglip": 110.0}
BIAS = {"clip": 0.0, "siglip": -16.0}


@dataclass(frozen=True)
class TwoTowers:
    """A model of ``transformers`` and its texts.

    Attributes:
        model: with both towers.
        tokens: of the texts, ``(K, L)``.
        folder: where it is saved.
        texts: the NPZ with their vectors.
    """

    model: Any
    tokens: torch.Tensor
    folder: Path
    texts: Path

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the logits ``(B, K)`` that ``transformers`` itself gives."""
        with torch.no_grad():
            found: torch.Tensor = self.model(input_ids=self.tokens, pixel_values=images).logits_per_image
        return found


def two_towers(folder: Path, kind: str, names: Sequence[str] = DIGITS, **changed: Any) -> TwoTowers:
    """Saves a random CLIP or SigLIP, and the NPZ of random texts, whose arrays ``changed`` replaces."""
    text = {**made._TEXT, "max_position_embeddings": 16}
    models = {
        "clip": lambda: transformers.CLIPModel(
            transformers.CLIPConfig(vision_config=made._VIT, text_config=text, projection_dim=24)
        ),
        "siglip": lambda: transformers.SiglipModel(
            transformers.SiglipConfig(vision_config=made._SIGLIP, text_config={**text, "projection_size": 32})
        ),
    }
    model = made.make(kind, models)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(SCALE[kind]))
        if kind == "siglip":
            model.logit_bias.fill_(BIAS[kind])
    model.save_pretrained(folder)
    tokens = torch.randint(3, 99, (len(names), 8), generator=torch.Generator().manual_seed(1))
    tokens[:, -1] = 2
    with torch.no_grad():
        vectors = model.get_text_features(input_ids=tokens).pooler_output
    arrays: dict[str, Any] = {"names": np.array(names), "vectors": vectors.numpy(), "logit_scale": SCALE[kind]}
    if kind == "siglip":
        arrays["logit_bias"] = BIAS[kind]
    np.savez(folder / "texts.npz", **{**arrays, **changed})
    return TwoTowers(model, tokens, folder, folder / "texts.npz")


def written(folder: Path, **arrays: npt.ArrayLike) -> Path:
    """Writes an NPZ with these arrays, or the usual ones of three texts where they are not given."""
    generator = np.random.default_rng(0)
    usual = {"names": np.array(["ant", "bee", "cat"]), "vectors": generator.normal(size=(3, 8)).astype(np.float32)}
    given: dict[str, Any] = {name: value for name, value in {**usual, **arrays}.items() if value is not None}
    np.savez(folder / "texts.npz", **given)
    return folder / "texts.npz"
