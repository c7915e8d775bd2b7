"""Analyses of small models, made once."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from compress.bases.analysis import BasisAnalysis, analyse, features_in_canonical
from compress.bases.moments import Moments, second_moments
from compress.bases.sensitivity import Sensitivity, sensitivity_of
from compress.model.canonical import canonical
from compress.model.slicing import KeptUnits, keep_all
from compress.model.vit import SlicedViT
from runtime import BlockPlan, ShapePlan
from tests.compress.kinds import model_of_kind
from tests.compress.tiny import images_for, tiny_vit

ROOMY = ShapePlan((8, 8), (4, 4), 1, 3, 32, (BlockPlan(2, 24, 24, 48), BlockPlan(4, 16, 32, 80)), 0.25)
"""Wide enough for cuts of every kind, also between the measured widths."""


@cache
def analysis_of(key: str) -> BasisAnalysis:
    """Returns the analysis of a model of ``KINDS``, or of ``ROOMY``; tests must not change it."""
    model = tiny_vit(ROOMY) if key == "roomy" else model_of_kind(key)
    return analyse(model, images_for(model.plan, 48))


def parts_for(model: SlicedViT, count: int = 32) -> tuple[Moments, Sensitivity]:
    """Returns the moments and the sensitivity of the canonical form of a float32 model on random images."""
    plain, back = canonical(model), features_in_canonical(model).matrix
    images = images_for(model.plan, count)
    felt = sensitivity_of(plain, images, back, 0.5, 1)
    return second_moments(plain, images, felt.tokens), felt


def without_last(plan: ShapePlan, block: int, kind: str, count: int) -> KeptUnits:
    """Returns what stays without the last ``count`` units of a kind, in every head of one block or in its MLP."""
    kept = keep_all(plan)
    own = plan.blocks[block]
    width = {"qk": own.qk_dim, "v": own.v_dim, "mlp": own.mlp_dim}[kind] - count
    units = tuple(range(width)) if kind == "mlp" else (tuple(range(width)),) * own.num_heads
    blocks = list(kept.blocks)
    blocks[block] = replace(blocks[block], **{kind: units})
    return KeptUnits(kept.embed, tuple(blocks))
