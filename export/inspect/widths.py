"""Reads the widths back from an exported file: the proof that pruning made it physically smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from export.graph.file_model import Shape
from runtime import ArtifactError, BlockPlan, ShapePlan

from .readers import reader_of

_HEADS = ("logits.weight", "vector.weight", "head.weight", "head_dist.weight")
_POOLS = ("attn_pool.scores.rows.weight", "attn_pool.k.weight")
"""What reads the last tokens where the head reads an attention pooling."""


def read_widths(path: Path, plan: ShapePlan) -> ShapePlan:
    """Returns ``plan`` with every prunable width replaced by that of the weights in the file.

    Args:
        path: a file that PocketViT exported, of any precision.
        plan: of the model it came from; only its options and number of blocks are used.

    Raises:
        ArtifactError: the file's layers are not those of a Vision Transformer with as many blocks.
    """
    shapes = reader_of(path).shapes(path)
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    last = _POOLS if plan.attn_pool else _HEADS[2:] if plan.text_dim else _HEADS
    if depth != len(plan.blocks) or not any(name in shapes for name in last):
        expected = f"{len(plan.blocks)} blocks"
        raise ArtifactError(f"{path} does not have the layers of its plan", expected=expected, got=depth)
    blocks = [_block(path, shapes, f"blocks.{i}") for i in range(depth)]
    embeds = {width for _, width in blocks} | {shapes[name][1] for name in last if name in shapes}
    if len(embeds) != 1:
        raise ArtifactError(f"The layers of {path} disagree about embed_dim", got=sorted(embeds))
    return replace(plan, embed_dim=embeds.pop(), blocks=tuple(block for block, _ in blocks))


def _block(path: Path, shapes: Mapping[str, Shape], name: str) -> tuple[BlockPlan, int]:
    """Returns the widths of one block and its embed_dim."""
    try:
        q, k, v, proj = (shapes[f"{name}.attn.{part}.weight"] for part in ("q", "k", "v", "proj"))
        fc1, fc2 = shapes[f"{name}.mlp.fc1.weight"], shapes[f"{name}.mlp.fc2.weight"]
        # the keys and values of a single query are (heads, width, embed_dim)
        heads = k[0] if len(k) == 3 else shapes[f"{name}.attn.scores"][-3]
    except (KeyError, IndexError) as error:
        raise ArtifactError(f"{path} lacks a tensor of its plan", got=error) from error
    k, v = (int(np.prod(k[:-1])), k[-1]), (int(np.prod(v[:-1])), v[-1])
    embed = q[-1]
    found = [q, k, v, proj, fc1, fc2]
    wanted = [(k[0], embed), (q[0], embed), (v[0], embed), (embed, v[0]), (fc1[0], embed), (embed, fc1[0])]
    if found != wanted or heads < 1 or q[0] % heads or v[0] % heads:
        raise ArtifactError(f"The layers of {path} do not fit together", expected=wanted, got=found)
    return BlockPlan(heads, q[0] // heads, v[0] // heads, fc1[0]), embed
