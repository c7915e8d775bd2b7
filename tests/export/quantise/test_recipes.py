"""How each operator counts in a recipe, and the order in which recipes are tried for processors not at hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from export.graph.build import vit_graph
from export.quantise.processors import instructions_of_fp32, ordered_recipes
from export.quantise.recipes import DYNAMIC, RECIPES, STATIC_ATTENTION, modes_of
from tests.export.graph.test_build import VIT, model_of
from tests.export.part_plans import PART_PLANS


@pytest.mark.parametrize(
    ("recipe", "mode"),
    [
        ("static_wi8_ai8_attention_ai8_float_islands", "dynamic"),
        ("static_wi8_ai8_float_islands", "dynamic"),
        ("dynamic_wi8_afp32", "dynamic"),
        ("static_wi8_au8_mse", "integer"),
        ("static_wi8_ai8_mse", "integer"),
    ],
)
def test_the_logits_of_texts_stay_float_where_others_are_integers(recipe: str, mode: str) -> None:
    usual = RECIPES[recipe].linears
    modes = modes_of(vit_graph(model_of(PART_PLANS["texts"])), RECIPES[recipe])
    assert (modes["logits"], modes["head"]) == (mode, usual)
    assert modes_of(vit_graph(model_of(VIT)), RECIPES[recipe])["logits"] == usual


@pytest.mark.parametrize("family", ["pi4", "pi5", "android"])
def test_recipes_are_ordered_by_counted_instructions(family: str) -> None:
    counted = [instructions_of_fp32(family, recipe) for recipe in ordered_recipes(family, "int8")]
    known = [count for count in counted if count is not None]
    assert len(known) == len(counted) == 4
    assert known == sorted(known)
    assert all(0 < count < 1 for count in known)


def test_a_core_with_dot_products_gains_far_more_from_integers_than_one_without() -> None:
    with_them, without = (instructions_of_fp32(family, STATIC_ATTENTION) for family in ("pi5", "pi4"))
    assert with_them is not None
    assert without is not None
    assert with_them < without / 2


def test_what_was_not_counted_has_no_count() -> None:
    assert instructions_of_fp32("x86", DYNAMIC) is None
    assert instructions_of_fp32("pi4", replace(DYNAMIC, float_layers=("fc1",))) is None
    assert instructions_of_fp32("pi4", replace(DYNAMIC, name="unknown")) is None
    equalised = replace(DYNAMIC, name=f"{DYNAMIC.name}_equalised", equalised=True)
    assert instructions_of_fp32("pi4", equalised) == instructions_of_fp32("pi4", DYNAMIC)
    assert set(ordered_recipes("x86", "int8")) == set(ordered_recipes("pi4", "int8"))
