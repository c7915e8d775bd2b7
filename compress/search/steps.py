"""The steps that a journal keeps of a search that chooses all widths at once."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from compress.budget import Budget
from compress.importance.units import LostImportance
from runtime import ShapePlan


def width_steps(
    whole: ShapePlan, result: ShapePlan, budget: Budget, lost: LostImportance, *, depth: bool = False
) -> tuple[dict[str, Any], ...]:
    """Returns the steps from one plan to another, as if they were taken one after the other.

    The stream is cut first (``embed``, block -1), then with ``depth`` the number of blocks (``depth``, block -1), then
    each block (``block``). Each step has the widths chosen there, the importance lost there and the cost of the model
    after it.
    """
    now = replace(whole, embed_dim=result.embed_dim)
    stream = {"action": "embed", "block": -1, "embed_dim": now.embed_dim, "importance": lost.embed}
    steps: list[dict[str, Any]] = [{**stream, "cost": budget.of(now)}]
    if depth:
        now = replace(now, blocks=now.blocks[: len(result.blocks)])
        blocks = {"action": "depth", "block": -1, "depth": len(now.blocks), "importance": lost.depth}
        steps.append({**blocks, "cost": budget.of(now)})
    for i, block in enumerate(result.blocks):
        now = now.with_block(i, block)
        own = {"action": "block", "block": i, **asdict(block), "importance": lost.blocks[i]}
        steps.append({**own, "cost": budget.of(now)})
    return tuple(steps)
