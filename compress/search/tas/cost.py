"""The exact expected cost of a model over the odds of its widths, and the loss that draws it to a target."""

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
    """Returns the cost loss: ``log E`` if the cost is above the tolerance, 0 within it, ``-log E`` below it.

    Args:
        expected: E, the expected cost, a positive scalar with gradients.
        cost: cost of the most likely plan.
        target: target of that cost.
        tolerance: allowed deviation as a share of the target, 0..1.

    Ref: Dong and Yang 2019 (arXiv 1905.09717), equation 7.
    """
    if cost > (1 + tolerance) * target:
        return expected.log()
    if cost < (1 - tolerance) * target:
        return -expected.log()
    return torch.zeros_like(expected)


@dataclass(frozen=True)
class Extras:
    """Costs of a block's widths above its smallest candidates, for every embed_dim.

    Attributes:
        heads: costs of num_heads, ``(embed_dims, candidates)`` int64.
        mlp: costs of mlp_dim, ``(embed_dims, candidates)`` int64.
    """

    heads: Ints
    mlp: Ints


@dataclass(frozen=True)
class CostTable:
    """A cost as a sum over attentions and MLPs, which it is for a fixed embed_dim and depth.

    Attributes:
        ends: costs of models with every block at its smallest candidates, ``(embed_dims, depths)`` int64.
        before: for each block, costs of its widths where another block follows.
        last: for each block, costs of its widths where it is the last block, which differ for latencies.
        depths: the candidates of the depth.
    """

    ends: Ints
    before: tuple[Extras, ...]
    last: tuple[Extras, ...]
    depths: tuple[int, ...]

    @classmethod
    def of(cls, plan: ShapePlan, candidates: Candidates, cost: Cost) -> CostTable:
        """Splits ``cost`` over the candidates of ``plan``."""
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
        """Returns the expected cost with gradients; it is exact, since all choices are drawn independently.

        Args:
            odds: probabilities of every choice's candidates, float64.
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
        """Yields the choices of every block with the costs of their candidates; ``embed`` and ``depth`` are indices."""
        count = self.depths[depth]
        for i in range(count):
            extras = self.last[i] if i == count - 1 else self.before[i]
            yield Choice("heads", i), extras.heads[embed]
            yield Choice("mlp", i), extras.mlp[embed]

    @staticmethod
    def _mean(extras: Extras, block: int, odds: Mapping[Choice, torch.Tensor]) -> torch.Tensor:
        """Returns the expected cost of a block's widths, ``(embed_dims,)``."""
        heads = torch.from_numpy(extras.heads).double() @ odds[Choice("heads", block)]
        mlp: torch.Tensor = torch.from_numpy(extras.mlp).double() @ odds[Choice("mlp", block)]
        return heads + mlp


class _Known:
    """Costs of short models at every embed_dim, cached since blocks are often equal."""

    def __init__(self, plan: ShapePlan, cost: Cost, embed_dims: Sequence[int]) -> None:
        self._plan, self._cost, self._embed_dims = plan, cost, embed_dims
        self._found: dict[tuple[BlockPlan, ...], Ints] = {}

    def costs(self, blocks: tuple[BlockPlan, ...]) -> Ints:
        """Returns the costs of a model with these blocks, ``(embed_dims,)``."""
        if blocks not in self._found:
            plans = (replace(self._plan, embed_dim=c, blocks=blocks) for c in self._embed_dims)
            self._found[blocks] = np.array([self._cost.of(plan) for plan in plans], dtype=np.int64)
        return self._found[blocks]

    def extras(self, options: Sequence[BlockPlan], after: tuple[BlockPlan, ...]) -> Ints:
        """Returns the costs of the options above the first option, ``(embed_dims, options)``."""
        costs = np.stack([self.costs((option, *after)) for option in options], axis=1)
        return costs - costs[:, :1]
