"""What a model costs on average over the odds of its widths, exactly; and the hinge that draws that to a target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from compress.budget import Cost
from runtime import BlockPlan, ShapePlan

from .candidates import DEPTH, EMBED, Candidates, Choice

Ints = npt.NDArray[np.int64]


def cost_hinge(expected: torch.Tensor, cost: int, target: int, tolerance: float) -> torch.Tensor:
    """Returns the cost loss: ``log E`` above the tolerance, nothing within it, ``-log E`` below.

    Args:
        expected: E, the expected cost, with gradients; a positive scalar.
        cost: cost of the most likely plan.
        target: what that should cost.
        tolerance: share of the target that it may be off, 0..1.

    Ref: Dong and Yang 2019 (arXiv 1905.09717), equation 7.
    """
    if cost > (1 + tolerance) * target:
        return expected.log()
    if cost < (1 - tolerance) * target:
        return -expected.log()
    return torch.zeros_like(expected)


@dataclass(frozen=True)
class Extras:
    """What the widths of a block cost over its smallest candidates, for every embed_dim.

    Attributes:
        heads: ``(embed_dims, candidates)`` int64.
        mlp: the same.
    """

    heads: Ints
    mlp: Ints


@dataclass(frozen=True)
class CostTable:
    """A cost taken apart: it is additive over attentions and MLPs once embed_dim and depth are fixed.

    Attributes:
        ends: ``(embed_dims, depths)`` int64, what a model costs with every block at its smallest candidates.
        before: for each block, what its widths add where another comes after it.
        last: for each block, what they add where it is the last; a latency counts that place apart.
        depths: the candidates of the depth.
    """

    ends: Ints
    before: tuple[Extras, ...]
    last: tuple[Extras, ...]
    depths: tuple[int, ...]

    @classmethod
    def of(cls, plan: ShapePlan, candidates: Candidates, cost: Cost) -> CostTable:
        """Takes ``cost`` apart over the candidates of ``plan``."""
        least = tuple(
            replace(b, num_heads=candidates[Choice("heads", i)][0], mlp_dim=candidates[Choice("mlp", i)][0])
            for i, b in enumerate(plan.blocks)
        )
        depths, known = candidates[DEPTH], _Known(plan, cost, candidates[EMBED])
        ends = np.stack([known.costs(least[:depth]) for depth in depths], axis=1)
        before, last = [], []
        for i, block in enumerate(least):
            heads = [replace(block, num_heads=width) for width in candidates[Choice("heads", i)]]
            mlps = [replace(block, mlp_dim=width) for width in candidates[Choice("mlp", i)]]
            before.append(Extras(known.extras(heads, (block,)), known.extras(mlps, (block,))))
            last.append(Extras(known.extras(heads, ()), known.extras(mlps, ())))
        return cls(ends, tuple(before), tuple(last), depths)

    def expected(self, odds: Mapping[Choice, torch.Tensor]) -> torch.Tensor:
        """Returns the mean cost, with gradients: exact, since all choices are drawn independently.

        Args:
            odds: for every choice, the probabilities of its candidates, float64.
        """
        inner = [self._mean(extras, i, odds) for i, extras in enumerate(self.before)]
        outer = [self._mean(extras, i, odds) for i, extras in enumerate(self.last)]
        columns = []
        for depth in self.depths:
            added = torch.stack([*inner[: depth - 1], outer[depth - 1]]).sum(0)
            columns.append(torch.from_numpy(self.ends[:, self.depths.index(depth)]).double() + added)
        mean: torch.Tensor = odds[EMBED] @ torch.stack(columns, dim=1) @ odds[DEPTH]
        return mean

    def blocks(self, embed: int, depth: int) -> Iterator[tuple[Choice, Ints]]:
        """Yields the choices of every block at a depth, with what each candidate adds; both arguments are indices."""
        count = self.depths[depth]
        for i in range(count):
            extras = self.last[i] if i == count - 1 else self.before[i]
            yield Choice("heads", i), extras.heads[embed]
            yield Choice("mlp", i), extras.mlp[embed]

    @staticmethod
    def _mean(extras: Extras, block: int, odds: Mapping[Choice, torch.Tensor]) -> torch.Tensor:
        """Returns ``(embed_dims,)`` what a block adds on average."""
        heads = torch.from_numpy(extras.heads).double() @ odds[Choice("heads", block)]
        mlp: torch.Tensor = torch.from_numpy(extras.mlp).double() @ odds[Choice("mlp", block)]
        return heads + mlp


class _Known:
    """Costs of short models at every embed_dim; blocks are often equal, so each is asked for once."""

    def __init__(self, plan: ShapePlan, cost: Cost, embed_dims: Sequence[int]) -> None:
        self._plan, self._cost, self._embed_dims = plan, cost, embed_dims
        self._found: dict[tuple[BlockPlan, ...], Ints] = {}

    def costs(self, blocks: tuple[BlockPlan, ...]) -> Ints:
        """Returns ``(embed_dims,)``."""
        if blocks not in self._found:
            plans = (replace(self._plan, embed_dim=c, blocks=blocks) for c in self._embed_dims)
            self._found[blocks] = np.array([self._cost.of(plan) for plan in plans], dtype=np.int64)
        return self._found[blocks]

    def extras(self, options: Sequence[BlockPlan], after: tuple[BlockPlan, ...]) -> Ints:
        """Returns ``(embed_dims, options)``, over the first option."""
        costs = np.stack([self.costs((option, *after)) for option in options], axis=1)
        return costs - costs[:, :1]
