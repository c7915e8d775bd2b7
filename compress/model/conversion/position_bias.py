"""Relative position biases: constants that are added to the scores of attention, one table for every block and head."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from runtime import ModelError

NAME = "position_bias"
"""Name of the table ``(heads, N, N)`` in an attention."""

_TABLE = "relative_position_bias_table"


def table_of(attention: Any, shared: Any) -> torch.Tensor | None:
    """Returns the bias of a timm attention at its image size, ``(heads, N, N)``; None where it has none.

    A table by relative position is spread over all pairs of tokens, and an MLP of the distance is computed once.

    Args:
        attention: an attention of timm's BEiT or of its Vision Transformer with relative positions.
        shared: the module that holds a bias for all blocks, or None.
    """
    parts: list[torch.Tensor] = []
    with torch.no_grad():
        if getattr(attention, _TABLE, None) is not None:
            parts.append(attention._get_rel_pos_bias()[0])
        if getattr(attention, "rel_pos", None) is not None:
            parts.append(_computed(attention.rel_pos))
        if shared is not None:
            parts.append(_computed(shared))
    return torch.stack(parts).sum(0) if parts else None


def _computed(module: Any) -> torch.Tensor:
    """Returns what a module of biases gives without dropout."""
    module = copy.deepcopy(module).eval()
    found: torch.Tensor = module.get_bias() if hasattr(module, "get_bias") else module()
    return found[0] if found.ndim == 4 else found


def biases_to_timm(weights: Mapping[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """Returns weights whose tables over pairs of tokens are tables by relative position again, under timm's names.

    Args:
        weights: weights by name.
        wanted: timm's parameter names, or its weights by name, from which the grid of patches is seen.

    Raises:
        ModelError: timm computes the bias by an MLP or shares it between blocks, and has no place for these tables.
    """
    out = dict(weights)
    shared = any(own.startswith(("rel_pos_bias.", "shared_rel_pos.")) for own in wanted)
    for name in [own for own in weights if own.endswith(f".{NAME}")]:
        bias, at = out.pop(name), name.removesuffix(NAME)
        target = next((own for own in (f"{at}{_TABLE}", f"{at}rel_pos.{_TABLE}") if own in wanted), None)
        if target is None or shared:
            raise ModelError(
                f"The table '{name}' has no place in this timm model",
                expected="a table of relative positions in every block",
                fix="Load these weights with pocketvit.load",
            )
        size = wanted[target].shape[0] if isinstance(wanted, Mapping) else None
        out[target] = _by_relative_position(bias, size)
    return out


def _by_relative_position(bias: torch.Tensor, size: int | None) -> torch.Tensor:
    """Returns timm's table ``(positions, heads)`` of a bias ``(heads, N, N)``.

    Args:
        bias: the same for all pairs of patches at the same distance.
        size: number of rows of the table; None for a square grid.
    """
    tokens = bias.shape[1]
    for rows, columns, prefix in _grids(tokens, size):
        patches = bias[:, prefix:, prefix:]
        index = torch.arange(rows * columns)
        down = (index[:, None] // columns - index // columns) + rows - 1
        across = (index[:, None] % columns - index % columns) + columns - 1
        place = down * (2 * columns - 1) + across
        table = bias.new_zeros(bias.shape[0], (2 * rows - 1) * (2 * columns - 1))
        table[:, place.flatten()] = patches.flatten(1)
        if torch.equal(table[:, place], patches):
            extra = [bias[:, 0, 1:2], bias[:, 1:2, 0], bias[:, 0, :1]] if prefix else []
            return torch.cat([table, *extra], 1).T.contiguous()
    raise ModelError(
        "A position bias is not the same for all pairs of patches at the same distance",
        got=f"{tokens} tokens",
        fix="Load these weights with pocketvit.load",
    )


def _grids(tokens: int, size: int | None) -> Iterator[tuple[int, int, int]]:
    """Yields possible rows and columns of the patches, and the number of tokens before them, 0 or 1."""
    for prefix in (0, 1):
        patches = tokens - prefix
        for rows in (rows for rows in range(1, patches + 1) if patches % rows == 0):
            columns = patches // rows
            positions = (2 * rows - 1) * (2 * columns - 1) + 3 * prefix
            if positions == size or (size is None and rows == columns):
                yield rows, columns, prefix
