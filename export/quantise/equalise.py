"""Computes the factors that make channels equally large, so that one range of integers suits all of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from export.graph.ir import Array, Graph
from export.graph.rewrites import Scales
from runtime import ShapePlan

from .calibrate import TensorStats

_LIMIT = 64.0
"""Largest factor of a channel; beyond it a weight would vanish in its row."""


def equalising_scales(plan: ShapePlan, graph: Graph, seen: Mapping[str, TensorStats], strength: float = 1.0) -> Scales:
    """Returns the factors of channels from the activations of an unscaled graph.

    Args:
        plan: of the model.
        graph: of the model, with all rewrites and without scales.
        seen: statistics of its activations.
        strength: 0 keeps the channels of the residual stream, 1 makes them equally large.
    """
    stream = [name for name in graph.shapes if name.endswith(".stream") or name.startswith("blocks.0.norm1.normed")]
    if not any(name in seen for name in stream):
        return Scales()
    # each tensor of the stream has another range, so only the relative sizes of its channels count
    sizes = [np.log(_floored(seen[name].channels)) for name in stream if name in seen]
    mean = np.mean([size - size.mean() for size in sizes], axis=0)
    return Scales(_bounded(np.exp(strength * mean)), _qk(plan, seen), _v(plan, graph, seen))


def _qk(plan: ShapePlan, seen: Mapping[str, TensorStats]) -> tuple[Array, ...]:
    factors = []
    for index, block in enumerate(plan.blocks):
        query, key = (seen.get(f"blocks.{index}.attn.{part}") for part in "qk")
        width = block.num_heads * block.qk_dim
        if query is None or key is None or not len(query.channels) == len(key.channels) == width:
            factors.append(np.ones(width))  # the last block, whose keys are never computed
        else:
            factors.append(_bounded(np.sqrt(_floored(key.channels) / _floored(query.channels))))
    return tuple(factors)


def _v(plan: ShapePlan, graph: Graph, seen: Mapping[str, TensorStats]) -> tuple[Array, ...]:
    factors = []
    for index, block in enumerate(plan.blocks):
        value, width = seen.get(f"blocks.{index}.attn.v"), block.num_heads * block.v_dim
        if value is None or len(value.channels) != width:
            factors.append(np.ones(width))
            continue
        reads = np.abs(graph.constants[f"blocks.{index}.attn.proj.weight"]).max(axis=0)
        factors.append(_bounded(np.sqrt(_floored(value.channels) / _floored(reads))))
    return tuple(factors)


def _floored(sizes: Array) -> Array:
    """Returns the sizes with a lower bound, so that unused channels do not get infinite factors."""
    return np.maximum(sizes, 1e-3 * max(float(sizes.max()), 1e-9))


def _bounded(factor: Array) -> Array:
    centred: Array = factor / np.exp(np.mean(np.log(factor)))
    return np.clip(centred, 1 / _LIMIT, _LIMIT)
