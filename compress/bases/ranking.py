"""Importance of the units of a model in its best bases, from the measured losses of cuts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compress.importance.units import BlockImportance, Importance
from runtime import MULTIPLE, BlockPlan, ShapePlan

from .losses import BlockLosses, Curve, Losses

Floats = npt.NDArray[np.float64]

_TINY = 1e-9


def importance_of(plan: ShapePlan, losses: Losses, orders: Sequence[Sequence[int]]) -> Importance:
    """Returns the importance of every unit: its share of the loss of the cut that removes it.

    The importance of the units that a cut removes adds up to the measured loss of that cut alone. Widths between the
    measured ones are interpolated; the loss of each further group is never smaller than that of the one before, so
    that units go in the order of the basis.

    Args:
        plan: plan of the model.
        losses: measured losses.
        orders: hidden units of each block in the order of their removal.
    """
    blocks = (_block(block, own, order) for block, own, order in zip(plan.blocks, losses.blocks, orders, strict=True))
    embed = _units(losses.embed, plan.embed_dim) if losses.embed else np.full(plan.embed_dim, 1e3)
    return Importance(embed, tuple(blocks))


def _block(block: BlockPlan, losses: BlockLosses, order: Sequence[int]) -> BlockImportance:
    heads = block.num_heads
    qk = np.tile(_units(losses.qk, block.qk_dim) / heads, (heads, 1))
    v = np.tile(_units(losses.v, block.v_dim) / heads, (heads, 1))
    if heads > 1:
        for head, loss in enumerate(losses.heads):
            # the last 8 units of a width never go, and carry what the removal of the whole head costs more
            least = max((units[head, MULTIPLE - 1] for units in (qk, v) if units.shape[1] > MULTIPLE), default=0.0)
            more = (loss - qk[head, MULTIPLE:].sum() - v[head, MULTIPLE:].sum()) / (2 * MULTIPLE)
            qk[head, :MULTIPLE] = v[head, :MULTIPLE] = max(more, least)
    ascending = _units(losses.mlp, block.mlp_dim)[::-1]
    mlp = np.empty(block.mlp_dim)
    removed = list(order)
    rest = sorted(set(range(block.mlp_dim)) - set(removed))
    mlp[[*removed, *rest]] = ascending
    return BlockImportance(qk, v, mlp)


def _units(curve: Curve, width: int) -> Floats:
    """Returns the loss that each unit of a width costs, ``(width,)``, the most important first."""
    grid = np.arange(width, 0, -MULTIPLE)
    known = sorted(curve, reverse=True)
    if not known:
        return np.full(width, 1e3)
    share = np.array([1 - own / width for own in known])
    log = np.log(np.maximum([curve[own] for own in known], _TINY))
    wanted = 1 - grid / width
    loss = np.exp(np.interp(wanted, share, log))
    # below the first measured cut the loss grows with the square of what is cut, and beyond the last one it goes on
    first = wanted < share[0]
    loss[first] = np.exp(log[0]) * (wanted[first] / share[0]) ** 2
    beyond = wanted > share[-1]
    slope = (log[-1] - log[-2]) / (share[-1] - share[-2]) if len(known) > 1 else 3.0
    loss[beyond] = np.exp(log[-1] + max(slope, 1.0) * (wanted[beyond] - share[-1]))
    steps = _nondecreasing(np.diff(loss))
    last = steps[-1] if len(steps) else 1.0
    per_group = np.append(steps, last)  # the units of the least width, which never go
    return np.repeat(per_group / MULTIPLE, MULTIPLE)[::-1].copy()


def _nondecreasing(values: Floats) -> Floats:
    """Returns the nearest nondecreasing sequence in least squares, whose parts keep their sums."""
    sums: list[float] = []
    counts: list[int] = []
    for value in values:
        sums.append(float(value))
        counts.append(1)
        while len(sums) > 1 and sums[-2] / counts[-2] > sums[-1] / counts[-1]:
            total, count = sums.pop(), counts.pop()
            sums[-1] += total
            counts[-1] += count
    return np.maximum(np.repeat(np.array(sums) / np.maximum(counts, 1), counts), 0.0)
