"""Candidates of a transformable architecture search for widths and depth, and the plan of a choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from compress.model.slicing import narrowed
from runtime import MULTIPLE, ShapePlan


class Choice(NamedTuple):
    """A width or depth to choose: its kind, and its block (-1: the whole model).

    Kinds: ``embed`` (embed_dim), ``depth`` (number of first blocks kept), ``heads`` (num_heads) and ``mlp`` (mlp_dim).
    """

    kind: str
    block: int = -1


EMBED, DEPTH = Choice("embed"), Choice("depth")

Candidates = Mapping[Choice, tuple[int, ...]]
"""Candidates of every choice, smallest first; the last is the value of the unpruned model."""


def candidates_of(plan: ShapePlan, count: int, least_share: float) -> dict[Choice, tuple[int, ...]]:
    """Returns evenly spaced candidates of every choice, up to the model's width or depth.

    Args:
        plan: plan of the model to prune.
        count: most candidates of a choice, at least 2.
        least_share: smallest candidate as a share of the model's width or depth, 0..1.

    Returns:
        Multiples of 8 for ``embed`` and ``mlp``, whole numbers from 1 for ``heads`` and ``depth``. A narrow choice
        has fewer than ``count``.
    """
    spaced = {
        EMBED: _spaced(plan.embed_dim, MULTIPLE, count, least_share),
        DEPTH: _spaced(len(plan.blocks), 1, count, least_share),
    }
    for i, block in enumerate(plan.blocks):
        spaced[Choice("heads", i)] = _spaced(block.num_heads, 1, count, least_share)
        spaced[Choice("mlp", i)] = _spaced(block.mlp_dim, MULTIPLE, count, least_share)
    return spaced


def plan_with(plan: ShapePlan, chosen: Mapping[Choice, int]) -> ShapePlan:
    """Returns ``plan`` with the chosen widths and depth; widths of removed blocks are ignored.

    Args:
        plan: plan of the model to prune.
        chosen: one candidate for every choice.
    """
    blocks = (
        replace(block, num_heads=chosen[Choice("heads", i)], mlp_dim=chosen[Choice("mlp", i)])
        for i, block in enumerate(plan.blocks[: chosen[DEPTH]])
    )
    return narrowed(plan, chosen[EMBED], tuple(blocks))


def _spaced(whole: int, step: int, count: int, least_share: float) -> tuple[int, ...]:
    """Returns up to ``count`` evenly spaced multiples of ``step`` up to ``whole``; the smallest is rounded up."""
    most = whole // step
    least = max(1, min(most, math.ceil(least_share * whole / step)))
    spread = {least + round(i * (most - least) / (count - 1)) for i in range(count)}
    return tuple(step * multiple for multiple in sorted(spread))
