"""Reads the widths back from an exported file: the proof that pruning made it physically smaller."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export.formats.torch import torch_shapes
from runtime import ArtifactError, BlockPlan, ShapePlan

Shape = tuple[int, ...]
_HEADS = ("logits.weight", "head.weight", "head_dist.weight")


def read_widths(path: Path, plan: ShapePlan) -> ShapePlan:
    """Returns ``plan`` with every prunable width replaced by what the weights in the file say.

    Args:
        path: a ``.onnx``, ``.tflite`` or ``.pt2`` file that this package exported, of any precision.
        plan: of the model it came from; only its options and number of blocks are used.

    Raises:
        ArtifactError: the file's layers are not those of a Vision Transformer with as many blocks.
    """
    shapes = {".onnx": _onnx_shapes, ".pt2": torch_shapes}.get(path.suffix, _tflite_shapes)(path)
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    if depth != len(plan.blocks) or not any(head in shapes for head in _HEADS):
        expected = f"{len(plan.blocks)} blocks"
        raise ArtifactError(f"{path} does not have the layers of its plan", expected=expected, got=depth)
    blocks = [_block(path, shapes, f"blocks.{i}") for i in range(depth)]
    embeds = {width for _, width in blocks} | {shapes[name][1] for name in _HEADS if name in shapes}
    if len(embeds) != 1:
        raise ArtifactError(f"The layers of {path} disagree about embed_dim", got=sorted(embeds))
    return replace(plan, embed_dim=embeds.pop(), blocks=tuple(block for block, _ in blocks))


def _block(path: Path, shapes: dict[str, Shape], name: str) -> tuple[BlockPlan, int]:
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


def _onnx_shapes(path: Path) -> dict[str, Shape]:
    """Returns the shapes of weights, as ``(outputs, inputs)``, and of what is computed."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    shapes = {
        info.name: tuple(int(dim.dim_value) for dim in info.type.tensor_type.shape.dim) for info in graph.value_info
    }
    for tensor in graph.initializer:
        shape, name = tuple(int(n) for n in tensor.dims), tensor.name.removesuffix(".half")
        # the keys of a single query alone are stored as they are
        keys = len(shape) == 3 and ".attn.k." in name
        shapes[name] = shape if keys or len(shape) < 2 else (*shape[:-2], shape[-1], shape[-2])
    return shapes


def _tflite_shapes(path: Path) -> dict[str, Shape]:
    """Returns the shapes of weights, as ``(outputs, inputs)``, and of what is computed."""
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    tensors = model.subgraphs[0].tensors
    return {tensor.name.decode(): tuple(int(n) for n in np.atleast_1d(tensor.shape)) for tensor in tensors}
