from __future__ import annotations

from dataclasses import replace

import pytest

from compress.search.tree.progress import Descent, Outlook, short_change
from runtime import BlockPlan, ShapePlan

PLAN = ShapePlan((32, 32), (16, 16), 3, 10, 48, (BlockPlan(2, 24, 24, 96),) * 2, 0.25)
IMAGES, ACTIONS = 20, 5


class Walk:
    """A search of a made-up tree that keeps what the outlook said after every look."""

    def __init__(self, depth: int) -> None:
        self.outlook = Outlook(depth, ACTIONS, 3 * IMAGES)
        self.used = 0
        self.told: list[tuple[int, int]] = []

    def look(self, depth: int, images: int = IMAGES, *, branched: bool = False, improved: bool = False) -> None:
        self.used += images
        self.outlook.looked(depth, images, branched=branched, improved=improved)
        self.told.append((self.used, self.outlook.total(self.used)))

    def open(self, depth: int, children: int = ACTIONS) -> None:
        self.used += 3 * IMAGES
        self.outlook.opened(depth, children)

    def everything(self, depth: int, deepest: int) -> None:
        """Branches a node at ``depth``, and all below it."""
        self.open(depth + 1)
        for _ in range(ACTIONS):
            self.look(depth + 1, branched=depth + 1 < deepest)
            if depth + 1 < deepest:
                self.everything(depth + 1, deepest)

    def dive(self, depth: int, deepest: int) -> None:
        """Branches the first child of every node, which is the best so far, and no other."""
        self.open(depth + 1)
        for child in range(ACTIONS):
            first, deeper = child == 0, child == 0 and depth + 1 < deepest
            self.look(depth + 1, IMAGES if first else IMAGES // 2, branched=deeper, improved=first)
            if deeper:
                self.dive(depth + 1, deepest)

    @property
    def shares(self) -> list[float]:
        return [used / total for used, total in self.told]


def mean_error(walk: Walk) -> float:
    errors = [abs(used / total - used / walk.used) for used, total in walk.told]
    return sum(errors) / len(errors)


@pytest.mark.parametrize(("kind", "bar"), [("everything", 0.15), ("dive", 0.2)])
def test_the_share_grows_to_one_and_is_near_the_truth(kind: str, bar: float) -> None:
    walk = Walk(4)
    walk.look(0, branched=True, improved=True)
    getattr(walk, kind)(0, 4)
    assert walk.shares == sorted(walk.shares)
    assert walk.told[-1] == (walk.used, walk.used)
    assert all(used < total for used, total in walk.told[:-1])
    assert mean_error(walk) < bar


def test_a_tree_of_a_root_is_done_after_it() -> None:
    walk = Walk(3)
    walk.look(0, improved=True)
    assert walk.told == [(IMAGES, IMAGES)]


def test_fewer_children_and_repeats_are_less_work() -> None:
    totals = []
    for children, repeats in ((5, 0), (3, 0), (3, 2)):
        walk = Walk(1)
        walk.look(0, branched=True, improved=True)
        walk.open(1, children)
        for _ in range(repeats):
            walk.outlook.repeated(1)
        totals.append(walk.outlook.total(walk.used))
    assert totals[0] > totals[1] > totals[2]
    walk.look(1)
    assert walk.told[-1] == (walk.used, walk.used)


def test_a_path_deeper_than_was_said_is_borne() -> None:
    walk = Walk(2)
    walk.look(0, branched=True, improved=True)
    for depth in range(1, 9):
        walk.look(depth)
        assert walk.told[-1][1] >= walk.used


def test_a_descent_is_done_by_the_cost_it_saved() -> None:
    outlook, shares = Descent(1000, 800), []
    for step, cost in enumerate((1000, 950, 960, 900, 790), 1):
        outlook.looked(step - 1, IMAGES, branched=False, improved=False)
        outlook.reached(cost)
        shares.append(100 * step / outlook.total(100 * step))
    assert shares == pytest.approx([0.01, 0.25, 0.25, 0.5, 1.0], rel=0.01)
    assert Descent(800, 800).total(5) >= 5


def test_the_change_of_a_plan_names_what_went() -> None:
    assert short_change(PLAN, PLAN) == "nothing removed"
    block = PLAN.blocks[0]
    without_head = PLAN.with_block(0, replace(block, num_heads=block.num_heads - 1))
    assert short_change(PLAN, without_head) == "heads 4→3"
    smaller = replace(
        PLAN,
        embed_dim=PLAN.embed_dim - 8,
        blocks=(BlockPlan(block.num_heads, block.qk_dim - 8, block.v_dim, block.mlp_dim - 16), *PLAN.blocks[1:]),
    )
    assert short_change(PLAN, smaller) == "C48→40 qk 48→40 mlp 192→176"
