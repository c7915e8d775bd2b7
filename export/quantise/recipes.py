"""The ways of quantising a graph, by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Literal

from export.graph.ir import LINEAR, Graph

from .integer import Mode, Ranges

Family = Literal["x86", "pi4", "pi5", "android"]
"""Kinds of processor that ``int8`` files are made for."""


@dataclass(frozen=True)
class Recipe:
    """Which operators count in integers.

    Attributes:
        name: as manifests spell it: ``w`` weights, ``a`` activations, ``i8`` int8.
        linears: Linears and the patch embedding.
        attention: the two products of attention.
        others: everything else.
        ranges: how integers are chosen.
        equalised: channels are made equally large first.
        corrected: biases make up for the mean error of rounding.
        float_layers: Linears that stay float, by name.
    """

    name: str
    linears: Mode
    attention: Mode = "float"
    others: Mode = "float"
    ranges: Ranges = field(default_factory=Ranges)
    equalised: bool = False
    corrected: bool = False
    float_layers: tuple[str, ...] = ()


DYNAMIC = Recipe("dynamic_wi8_afp32", "dynamic")
DYNAMIC_ATTENTION = Recipe("dynamic_wi8_afp32_attention_ai8", "dynamic", "integer")
STATIC = Recipe("static_wi8_ai8_float_islands", "integer", corrected=True)
STATIC_ATTENTION = Recipe("static_wi8_ai8_attention_ai8_float_islands", "integer", "integer", corrected=True)

COUNTED_FOR: dict[Family, str] = {"pi4": "pi4", "pi5": "pi5", "android": "pi5"}
"""The board whose counts a family goes by; a phone's cores have dot products of 8-bit integers as a Pi 5's have."""

_COSTS: dict[str, dict[str, float]] = json.loads(
    files(__package__).joinpath("instruction_costs.json").read_text(encoding="utf-8")
)


def instructions_of_fp32(family: Family, recipe: Recipe) -> float | None:
    """Returns the instructions of a run over those of the float32 file, or None where they were not counted.

    They were counted on an emulated core of that family, for ViTs of two sizes, whole and sliced
    (``benchmarks/board_instructions.py``). Channels made equally large cost nothing; layers left float are not known.
    """
    if recipe.float_layers:
        return None
    return _COSTS.get(COUNTED_FOR.get(family, ""), {}).get(recipe.name.removesuffix("_equalised"))


def _fewest_first(family: Family) -> tuple[Recipe, ...]:
    recipes = (STATIC_ATTENTION, DYNAMIC_ATTENTION, STATIC, DYNAMIC)
    return tuple(sorted(recipes, key=lambda recipe: instructions_of_fp32(family, recipe) or 0.0))


CPU_RECIPES: dict[Family, tuple[Recipe, ...]] = {
    family: _fewest_first(family) for family in ("x86", "pi4", "pi5", "android")
}
"""Recipes of ``int8``, the one that executes fewest instructions first; x86's are timed."""


INT8_RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (DYNAMIC, DYNAMIC_ATTENTION, STATIC, STATIC_ATTENTION)
}
"""Recipes of ``int8`` that can be asked for, by name."""


def full_recipes(activations: Literal["int8", "int16"] = "int8") -> tuple[Recipe, ...]:
    """Returns the recipes of ``int8-full``: integers throughout, in and out."""
    spelled = {"int8": "static_wi8_ai8", "int16": "static_wi8_ai16"}[activations]
    return tuple(
        Recipe(
            f"{spelled}_{method}{'_equalised' if equalised else ''}",
            "integer",
            "integer",
            "integer",
            Ranges(method, activations, outside=True),
            equalised,
            corrected=True,
        )
        for method in (("mse", "minmax", "percentile") if activations == "int8" else ("minmax",))
        for equalised in (False, True)
    )


def modes_of(graph: Graph, recipe: Recipe) -> Mapping[str, Mode]:
    """Says how each operator of ``graph`` counts."""
    modes: dict[str, Mode] = {}
    for op in graph.ops:
        if op.kind in LINEAR and not op.output.endswith(".variance"):
            modes[op.output] = "float" if op.output in recipe.float_layers else recipe.linears
        elif op.kind == "batch_matmul":
            modes[op.output] = _product(graph, op.inputs, recipe)
        elif recipe.others != "float":
            modes[op.output] = recipe.others
    return modes


def _product(graph: Graph, inputs: tuple[str, ...], recipe: Recipe) -> Mode:
    if recipe.others == "integer":
        return "integer"
    if inputs[1] in graph.constants:
        # the weights of a key or a value that one query goes through: there is no static int8 form with float islands
        return "dynamic"
    # a single query: conversions would cost more than the product
    return recipe.attention if len(graph.shapes[inputs[0]]) > 2 and graph.shapes[inputs[0]][-2] > 1 else "float"
