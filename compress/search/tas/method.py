"""The search method ``tas``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compress.recipe import TrainRecipe
from compress.search.base import Proposal, SearchInputs
from runtime import encode

from .search import search_tas
from .settings import TasSettings


def choose(inputs: SearchInputs) -> Proposal:
    """Learns widths and depth by ``search_tas``."""
    settings: TasSettings = inputs.settings
    return search_tas(
        inputs.model,
        inputs.take_importance(),
        inputs.required_budget,
        inputs.data,
        inputs.spec,
        _recipe(inputs),
        settings.odds_recipe(),
        augmentation=inputs.augmentation,
        seed=inputs.seed,
        bf16=inputs.bf16,
        folder=inputs.folder,
        progress=inputs.progress,
    )


def record(inputs: SearchInputs) -> dict[str, Any]:
    """Returns what the journal records of the settings."""
    settings: TasSettings = inputs.settings
    return {"tas": encode(settings.odds_recipe()), "recipe": encode(_recipe(inputs))}


def _recipe(inputs: SearchInputs) -> TrainRecipe:
    """Returns how the weights of the supernet are trained: as in the recovery, for the epochs of the search."""
    settings: TasSettings = inputs.settings
    return replace(inputs.recipe, epochs=settings.epochs)
