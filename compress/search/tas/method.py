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
        replace(inputs.recipe, epochs=settings.epochs),
        settings.odds_recipe(),
        augmentation=inputs.augmentation,
        seed=inputs.seed,
        bf16=inputs.bf16,
        folder=inputs.folder,
        progress=inputs.progress,
    )


def record(settings: TasSettings, recipe: TrainRecipe) -> dict[str, Any]:
    """Returns what the journal records: how the odds and the weights of the supernet are learnt."""
    own = encode(replace(recipe, epochs=settings.epochs))
    del own["minutes"]  # the time limit is that of the recovery, and earlier versions had none
    return {"tas": encode(settings.odds_recipe()), "recipe": own}
