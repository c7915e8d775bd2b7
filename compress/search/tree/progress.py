"""Progress of a tree search: the share of its work that is done, and a short description of a plan."""

from __future__ import annotations

import math
from collections import Counter

from runtime import ShapePlan

_GUESS, _GUESS_WEIGHT = 0.1, 5


class Outlook:
    """Estimates the work of a search, in forward-equivalents of images, from the part of its tree seen so far.

    The number of nodes is not known, but the number of waiting children at each depth is. Their work is estimated from
    the share of children that were branched and the images per evaluation so far. Children that were branched because
    they beat the best node are not counted, since nearly all nodes of the first path do. The estimate starts from a
    prior of one branched child in ten.

    Args:
        depth: most actions on one path.
        actions: usual number of children of a node.
        gradient: work of branching a node.
    """

    def __init__(self, depth: int, actions: int, gradient: int) -> None:
        self._depth, self._actions, self._gradient = depth, actions, gradient
        self._waiting = Counter[int]()
        self._pending = 0
        self._looks = self._look_images = 0
        self._decided = self._branched = self._visits = self._repeats = 0
        self._share = 0.0

    def looked(self, depth: int, images: int, *, branched: bool, improved: bool) -> None:
        """Notes the evaluation of a node: its images, whether it will be branched, whether it is the best so far."""
        self._looks += 1
        self._look_images += images
        if depth:
            self._visits += 1
            self._visited(depth)
        if 0 < depth < self._depth and not improved:
            self._decided += 1
            self._branched += branched
        if branched:
            self._waiting[depth + 1] = self._actions
            self._pending = self._gradient

    def opened(self, depth: int, children: int) -> None:
        """Notes that a node was branched, with its number of children at ``depth``."""
        self._waiting[depth] = children
        self._pending = 0

    def repeated(self, depth: int) -> None:
        """Notes a child at ``depth`` that needed no evaluation."""
        self._visits += 1
        self._repeats += 1
        self._visited(depth)

    def total(self, used: int) -> int:
        """Returns the expected work of the whole search; the share of the work done, ``used``, never falls."""
        look = self._look_images / self._looks
        branched = (self._branched + _GUESS_WEIGHT * _GUESS) / (self._decided + _GUESS_WEIGHT)
        repeated = self._repeats / (self._visits + _GUESS_WEIGHT)
        left, child = float(self._pending), 0.0
        for depth in range(self._depth, 0, -1):
            below = 0.0 if depth == self._depth else branched * (self._gradient + self._actions * child)
            child = (1 - repeated) * look + below
            left += self._waiting[depth] * child
        return self._total(used, used / (used + left))

    def _visited(self, depth: int) -> None:
        self._waiting[depth] = max(0, self._waiting[depth] - 1)

    def _total(self, used: int, share: float) -> int:
        total = max(used, math.floor(used / max(self._share, share)))
        self._share = used / total
        return total


class Descent(Outlook):
    """Estimates the work of a search that follows one path, by the share of the cost that it has saved.

    Args:
        start: cost of the starting model.
        limit: cost at which the search ends.
    """

    _LEAST = 0.01  # share of the work before any cost is saved

    def __init__(self, start: int, limit: int) -> None:
        super().__init__(1, 1, 0)
        self._start, self._goal, self._saved = start, max(1, start - limit), 0

    def reached(self, cost: int) -> None:
        """Notes that the path has reached a model of this cost."""
        self._saved = max(self._saved, self._start - cost)

    def total(self, used: int) -> int:
        """Returns the expected work of the whole search; the share of the work done, ``used``, never falls."""
        return self._total(used, min(1.0, max(self._LEAST, self._saved / self._goal)))


def short_change(before: ShapePlan, after: ShapePlan) -> str:
    """Returns a short description of the widths that changed from one plan to another.

    The numbers are sums over the blocks. ``qk`` and ``v`` are widths of one head, which removed heads do not change.
    """

    def sums(plan: ShapePlan) -> list[tuple[str, int]]:
        fields = (("heads ", "num_heads"), ("qk ", "qk_dim"), ("v ", "v_dim"), ("mlp ", "mlp_dim"))
        own = [(label, sum(getattr(block, name) for block in plan.blocks)) for label, name in fields]
        return [("C", plan.embed_dim), *own]

    pairs = zip(sums(before), sums(after), strict=True)
    return " ".join(f"{label}{old}→{new}" for (label, old), (_, new) in pairs if old != new) or "nothing removed"
