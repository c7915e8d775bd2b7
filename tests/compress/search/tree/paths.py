"""Follows a path of a tree search by its widths alone."""

from __future__ import annotations

from dataclasses import replace

from compress.budget import Budget
from compress.search.one_shot import Action
from compress.search.tree.nodes import ACTIONS, SearchNode
from runtime import ShapePlan

STEPS: dict[Action, tuple[str, int]] = {
    "mlp": ("mlp_dim", 8),
    "qk": ("qk_dim", 8),
    "v": ("v_dim", 8),
    "head": ("num_heads", 1),
}


def after(plan: ShapePlan, action: Action, block: int) -> ShapePlan | None:
    """Returns the plan after one action with groups of eight, or None where too little is left for it."""
    if action == "embed":
        return replace(plan, embed_dim=plan.embed_dim - 8) if plan.embed_dim > 8 else None
    name, size = STEPS[action]
    own = plan.blocks[block]
    width = getattr(own, name) - size
    return plan.with_block(block, replace(own, **{name: width})) if width > 0 else None


def assert_it_ends_at_the_budget(start: ShapePlan, end: SearchNode, budget: Budget) -> None:
    """Asserts that no step came after the budget was met, and that the last undershoots it only if it had to.

    It had to where every kind of action undershoots the budget in some block, since the search offers one of each.
    """
    before = plan = start
    for step in end.path:
        assert budget.of(plan) > budget.limit
        following = after(plan, step.action, step.block)
        assert following is not None
        before, plan = plan, following
    assert plan == end.plan
    if budget.of(plan) < budget.floor:
        for action in ACTIONS:
            options = [after(before, action, block) for block in range(len(before.blocks))]
            costs = [budget.of(option) for option in options if option is not None]
            assert not costs or min(costs) < budget.floor, action
