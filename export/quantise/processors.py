"""Which recipes to try first for a family of processors."""

from __future__ import annotations

import json
from importlib.resources import files

from runtime.processors import PROCESSORS, Processor, host_processor

from .recipes import Recipe, recipes_for

_COSTS: dict[str, dict[str, float]] = json.loads(
    files(__package__).joinpath("instruction_costs.json").read_text(encoding="utf-8")
)


def instructions_of_fp32(processor: str, recipe: Recipe) -> float | None:
    """Returns the instructions of one run over those of the float32 file, or None where they were not counted.

    They were counted on an emulated core of the family, for whole and sliced ViTs of two sizes
    (``benchmarks/board_instructions.py``). Equalised channels cost nothing. The cost of float layers is not known.
    """
    if recipe.float_layers:
        return None
    own = PROCESSORS[processor]
    known = {**_COSTS.get(own.counts, {}), **own.costs}
    return known.get(recipe.name.removesuffix("_equalised"))


def ordered_recipes(processor: str, kind: str) -> tuple[Recipe, ...]:
    """Returns the recipes to try for a kind of file, the one with the fewest counted instructions first.

    Recipes without a count come last; without any count those with the most integers come first.
    """
    wanted = PROCESSORS[processor].recipes
    recipes = [one for one in recipes_for(kind) if not wanted or one.name in wanted]

    def rank(recipe: Recipe) -> tuple[float, int]:
        integers = [recipe.linears, recipe.attention, recipe.others].count("integer")
        return instructions_of_fp32(processor, recipe) or float("inf"), -integers

    return tuple(sorted(recipes, key=rank))


__all__ = ["PROCESSORS", "Processor", "host_processor", "instructions_of_fp32", "ordered_recipes"]
