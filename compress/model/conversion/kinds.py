"""Classes of timm that compute what a plain Vision Transformer computes, seen as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.beit import Beit
from timm.models.naflexvit import NaFlexVit
from timm.models.vision_transformer_relpos import VisionTransformerRelPos

from . import naflex, relative


@dataclass(frozen=True)
class View:
    """How a class is seen as a plain Vision Transformer.

    Attributes:
        plain: returns an object with the attributes of a plain model, given the model.
        weights: returns the model's weights under the names of a plain one.
    """

    plain: Callable[[Any], Any]
    weights: Callable[[Any], dict[str, torch.Tensor]]


VIEWS = {
    Beit: View(relative.relative_view, relative.relative_weights),
    VisionTransformerRelPos: View(relative.relative_view, relative.relative_weights),
    NaFlexVit: View(naflex.naflex_view, naflex.naflex_weights),
}
"""The classes that have another form than timm's plain Vision Transformer."""


def seen_as_plain(model: Any) -> Any:
    """Returns a model of ``VIEWS`` as a plain Vision Transformer; any other model is returned as it is."""
    view = VIEWS.get(type(model))
    return view.plain(model) if view else model


def plain_weights(model: Any) -> dict[str, torch.Tensor]:
    """Returns a timm model's weights under the names of a plain Vision Transformer."""
    view = VIEWS.get(type(model))
    return view.weights(model) if view else dict(model.state_dict())
