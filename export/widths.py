"""Reads the widths back from an exported file: the proof that pruning made it physically smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime import ArtifactError, BlockPlan, ShapePlan

Shape = tuple[int, ...]


def read_widths(path: Path, plan: ShapePlan) -> ShapePlan:
    """Returns ``plan`` with every prunable width replaced by what the tensors of the file say.

    Args:
        path: a ``.onnx`` or ``.tflite`` file that this package exported, of any precision.
        plan: of the model it came from; only its options and number of blocks are used.

    Raises:
        ArtifactError: the file's layers are not those of a Vision Transformer with as many blocks.
    """
    linears, products = (_onnx_layers if path.suffix == ".onnx" else _tflite_layers)(path)
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


def _tflite_layers(path: Path) -> tuple[list[Shape], list[tuple[Shape, Shape]]]:
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    graph = model.subgraphs[0]
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    linears: list[Shape] = []
    products: list[tuple[Shape, Shape]] = []
    for operator in graph.operators:
        code = codes[operator.opcodeIndex]
        shapes = [tuple(int(n) for n in np.atleast_1d(graph.tensors[i].shape)) for i in operator.inputs if i >= 0]
        if code == schema.BuiltinOperator.FULLY_CONNECTED:
            linears.append(shapes[1])
        elif code == schema.BuiltinOperator.BATCH_MATMUL:
            products.append((_three(shapes[0]), _three(shapes[1])))
    return linears, products


def _three(shape: Shape) -> Shape:
    """Returns the last three dimensions; a lone head has lost its own."""
    return shape[-3:] if len(shape) >= 3 else (1, *shape)
