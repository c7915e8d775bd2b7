"""Reads the widths back from an exported file: the proof that pruning made it physically smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime import ArtifactError, BlockPlan, ShapePlan

Shape = tuple[int, ...]
_HEADS = ("logits.weight", "head.weight", "head_dist.weight")


def read_widths(path: Path, plan: ShapePlan) -> ShapePlan:
    """Returns ``plan`` with every prunable width replaced by what the tensors of the file say.

    Args:
        path: a ``.onnx`` or ``.tflite`` file that this package exported, of any precision.
        plan: of the model it came from; only its options and number of blocks are used.

    Raises:
        ArtifactError: the file's layers are not those of a Vision Transformer with as many blocks.
    """
    if path.suffix != ".onnx":
        return _tflite_widths(path, plan)
    linears, products = _onnx_layers(path)
    heads = 2 if plan.dist_token else 1
    depth = len(plan.blocks)
    if len(linears) != 6 * depth + heads or len(products) != 2 * depth:
        raise ArtifactError(
            f"{path} does not have the layers of its plan",
            expected=f"{6 * depth + heads} linear layers and {2 * depth} attention products",
            got=f"{len(linears)} and {len(products)}",
        )
    blocks = [_block(path, linears[6 * i : 6 * i + 6], products[2 * i : 2 * i + 2]) for i in range(depth)]
    embeds = {width for _, width in blocks} | {inputs for _, inputs in linears[6 * depth :]}
    if len(embeds) != 1:
        raise ArtifactError(f"The layers of {path} disagree about embed_dim", got=sorted(embeds))
    return replace(plan, embed_dim=embeds.pop(), blocks=tuple(block for block, _ in blocks))


def _block(path: Path, linears: Sequence[Shape], products: Sequence[tuple[Shape, Shape]]) -> tuple[BlockPlan, int]:
    """Returns the widths of one block and its embed_dim.

    Args:
        path: of the file, for the error text.
        linears: (outputs, inputs) of query, key and value in any order, then projection, fc1, fc2.
        products: the operands of query-key and of weights-value, ``(heads, rows, columns)``.
    """
    (query, _), (_, value) = products
    heads, qk_dim, v_dim = query[0], query[2], value[2]
    embed, mlp_dim = linears[3][0], linears[4][0]
    expected = sorted([(heads * qk_dim, embed)] * 2 + [(heads * v_dim, embed)])
    rest = [(embed, heads * v_dim), (mlp_dim, embed), (embed, mlp_dim)]
    if sorted(linears[:3]) != expected or list(linears[3:]) != rest:
        raise ArtifactError(f"The layers of {path} do not fit together", expected=[*expected, *rest], got=list(linears))
    return BlockPlan(heads, qk_dim, v_dim, mlp_dim), embed


def _onnx_layers(path: Path) -> tuple[list[Shape], list[tuple[Shape, Shape]]]:
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = {info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim) for info in graph.value_info}
    linears: list[Shape] = []
    products: list[tuple[Shape, Shape]] = []
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        a, b = node.input[:2]
        if b in weights:
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            linears.append(weights[b] if transposed else weights[b][::-1])
        else:
            products.append((shapes[a][-3:], shapes[b][-3:]))
    return linears, products


def _tflite_widths(path: Path, plan: ShapePlan) -> ShapePlan:
    """Reads the shapes of the weights, which are called what the graph calls them."""
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    shapes: dict[str, Shape] = {
        tensor.name.decode(): tuple(int(n) for n in np.atleast_1d(tensor.shape))
        for tensor in model.subgraphs[0].tensors
    }
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    if depth != len(plan.blocks) or ("head.weight" not in shapes and "logits.weight" not in shapes):
        raise ArtifactError(
            f"{path} does not have the layers of its plan", expected=f"{len(plan.blocks)} blocks", got=depth
        )
    blocks = [_named_block(path, shapes, f"blocks.{i}") for i in range(depth)]
    embeds = {width for _, width in blocks} | {shapes[name][1] for name in _HEADS if name in shapes}
    if len(embeds) != 1:
        raise ArtifactError(f"The layers of {path} disagree about embed_dim", got=sorted(embeds))
    return replace(plan, embed_dim=embeds.pop(), blocks=tuple(block for block, _ in blocks))


def _named_block(path: Path, shapes: dict[str, Shape], name: str) -> tuple[BlockPlan, int]:
    try:
        q, k, v, proj = (shapes[f"{name}.attn.{part}.weight"] for part in ("q", "k", "v", "proj"))
        fc1, fc2, scores = (
            shapes[f"{name}.mlp.fc1.weight"],
            shapes[f"{name}.mlp.fc2.weight"],
            shapes[f"{name}.attn.scores"],
        )
    except KeyError as error:
        raise ArtifactError(f"{path} lacks a tensor of its plan", got=error.args[0]) from error
    # the keys and values of a single query are (heads, width, embed_dim)
    heads = k[0] if len(k) == 3 else scores[-3]
    k, v = (int(np.prod(k[:-1])), k[-1]), (int(np.prod(v[:-1])), v[-1])
    embed = q[1]
    found = [q, k, v, proj, fc1, fc2]
    wanted = [(k[0], embed), (q[0], embed), (v[0], embed), (embed, v[0]), (fc1[0], embed), (embed, fc1[0])]
    if found != wanted or q[0] % heads or v[0] % heads:
        raise ArtifactError(f"The layers of {path} do not fit together", expected=wanted, got=found)
    return BlockPlan(heads, q[0] // heads, v[0] // heads, fc1[0]), embed
