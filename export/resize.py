"""One exported TFLite file made into files of other widths, in milliseconds, to be timed.

Exporting takes seconds, and a latency table needs a thousand files. All files of one architecture hold the same
operators; only sizes differ. So one template is exported, with widths that no other size in the file equals, and
every size in it is replaced by that of the plan wanted. Weights are random: time does not depend on them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from compress import SlicedViT
from runtime import MULTIPLE, ArtifactError, BlockPlan, MissingExtraError, ShapePlan

from .tflite_file import write_tflite

_LINEARS = 6
"""Fully connected layers of one block: query, key, value, projection, fc1, fc2."""


@dataclass(frozen=True)
class Template:
    """A float32 TFLite file from which files of other widths are made.

    Attributes:
        plan: of the file; each of its widths is a number found nowhere else in it.
        content: the file.
    """

    plan: ShapePlan
    content: bytes


def make_template(plan: ShapePlan, depth: int) -> Template:
    """Exports a template for the architecture of ``plan``, of ``depth`` blocks.

    Raises:
        MissingExtraError: litert-torch is not installed.
    """
    embed_dim, block = _telling_widths(plan)
    told = replace(plan, embed_dim=embed_dim, blocks=(block,) * depth)
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    model = SlicedViT(told).eval()
    torch.set_rng_state(torch_state)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.tflite"
        write_tflite(model, path)
        return Template(told, path.read_bytes())


def resize(template: Template, plan: ShapePlan, seed: int = 0) -> bytes:
    """Returns the template's file at the widths of ``plan``, with random weights.

    Args:
        template: of the same architecture and number of blocks.
        plan: its ``embed_dim`` and ``blocks`` are used.
        seed: of the weights.

    Raises:
        ArtifactError: the plan is of another architecture or depth, or the file holds a size that is neither a
            width nor known to be fixed.
    """
    if replace(plan, embed_dim=template.plan.embed_dim, blocks=template.plan.blocks, attn_scale=1.0) != replace(
        template.plan, attn_scale=1.0
    ) or len(plan.blocks) != len(template.plan.blocks):
        raise ArtifactError("The plan is not of the template's architecture")
    schema = _schema()
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(template.content, 0))
    graph = model.subgraphs[0]
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    rng = np.random.default_rng(seed)
    fixed = _fixed_sizes(plan)
    constants = {i for i, tensor in enumerate(graph.tensors) if model.buffers[tensor.buffer].data is not None}
    linears = 0
    for operator in graph.operators:
        linears += codes[operator.opcodeIndex] == schema.BuiltinOperator.FULLY_CONNECTED
        block = min(max(linears - 1, 0) // _LINEARS, len(plan.blocks) - 1)
        sizes = {size: size for size in fixed} | _sizes(template.plan, block, plan)
        # constants may be shared between operators of different blocks: each operator gets its own
        inputs = []
        for index in (int(i) for i in operator.inputs):
            inputs.append(_own_constant(model, schema, index, sizes, rng) if index in constants else index)
        operator.inputs = np.array(inputs, np.int32)
        for index in operator.outputs:
            _reshape(graph.tensors[int(index)], sizes)
        options = operator.builtinOptions
        if getattr(options, "newShape", None) is not None:
            options.newShape = _mapped(options.newShape, sizes)
        if getattr(options, "depthMultiplier", None) is not None:  # a patch embedding of one channel
            options.depthMultiplier = int(_mapped(options.depthMultiplier, sizes)[0])
    return _packed(model, schema)


def _own_constant(model: Any, schema: Any, index: int, sizes: Mapping[int, int], rng: np.random.Generator) -> int:
    """Adds a copy of constant ``index`` at the new sizes; returns its index."""
    graph = model.subgraphs[0]
    source = graph.tensors[index]
    data = np.asarray(model.buffers[source.buffer].data, np.uint8)
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape = source.name + b"/%d" % len(graph.tensors), source.type, source.shape
    tensor.quantization, tensor.isVariable, tensor.hasRank = None, False, source.hasRank
    if source.type == schema.TensorType.INT32:  # sizes, beginnings and permutations
        data = _mapped(data.view(np.int32), sizes).view(np.uint8)
    elif source.type == schema.TensorType.FLOAT32:
        before = tuple(_shape(source))
        _reshape(tensor, sizes)
        if tuple(_shape(tensor)) != before:
            values = 0.1 * rng.standard_normal(_shape(tensor), np.float32)
            data = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    buffer = schema.BufferT()
    buffer.data = data
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _reshape(tensor: Any, sizes: Mapping[int, int]) -> None:
    if tensor.shape is not None and len(_shape(tensor)):
        tensor.shape = _mapped(tensor.shape, sizes)
        tensor.shapeSignature = None


def _shape(tensor: Any) -> npt.NDArray[np.int32]:
    return np.atleast_1d(np.asarray(() if tensor.shape is None else tensor.shape, np.int32))


def _mapped(values: Any, sizes: Mapping[int, int]) -> npt.NDArray[np.int32]:
    numbers = [int(value) for value in np.asarray(values).reshape(-1)]
    unknown = [number for number in numbers if number not in sizes]
    if unknown:
        raise ArtifactError("The exported file holds a size of unknown origin", got=unknown)
    return np.array([sizes[number] for number in numbers], np.int32)


def _packed(model: Any, schema: Any) -> bytes:
    import flatbuffers

    # what no operator reads any more is left out, else the file keeps the template's weights as well
    graph = model.subgraphs[0]
    used = {int(i) for operator in graph.operators for i in (*operator.inputs, *operator.outputs)}
    used |= {int(i) for i in (*graph.inputs, *graph.outputs)}
    for index, tensor in enumerate(graph.tensors):
        if index not in used:
            model.buffers[tensor.buffer].data = None
    model.metadata = None
    model.metadataBuffer = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _widths(embed_dim: int, block: BlockPlan) -> tuple[int, ...]:
    """Returns every size that comes from a width, in an order that all widths share."""
    heads, qk, v = block.num_heads, block.qk_dim, block.v_dim
    return embed_dim, block.mlp_dim, heads, qk, v, heads * qk, heads * v


def _sizes(told: ShapePlan, block: int, plan: ShapePlan) -> dict[int, int]:
    before, after = _widths(told.embed_dim, told.blocks[block]), _widths(plan.embed_dim, plan.blocks[block])
    return dict(zip(before, after, strict=True))


def _fixed_sizes(plan: ShapePlan) -> set[int]:
    """Returns every size that pruning does not touch, and the small numbers that mark axes."""
    (height, width), (patch_h, patch_w) = plan.img_size, plan.patch_size
    sides = {height, width, patch_h, patch_w, height // patch_h, width // patch_w}
    tokens = {plan.num_patches, plan.num_tokens, plan.num_prefix_tokens, plan.reg_tokens}
    return {-1, *range(6), *sides, *tokens, plan.in_chans, plan.num_classes}


def _telling_widths(plan: ShapePlan) -> tuple[int, BlockPlan]:
    """Returns small widths whose sizes are all different, and none of which is fixed."""
    fixed = _fixed_sizes(plan)
    for embed_dim, heads, qk, v, mlp in _candidates():
        block = BlockPlan(heads, qk, v, mlp)
        sizes = _widths(embed_dim, block)
        if len(set(sizes)) == len(sizes) and not fixed & set(sizes):
            return embed_dim, block
    raise ArtifactError("No widths can be told apart in a file of this architecture")


def _candidates() -> Iterator[tuple[int, int, int, int, int]]:
    return product(
        range(11 * MULTIPLE, 40 * MULTIPLE, MULTIPLE),
        (7, 11, 13, 17),
        range(3 * MULTIPLE, 12 * MULTIPLE, MULTIPLE),
        range(5 * MULTIPLE, 14 * MULTIPLE, MULTIPLE),
        range(17 * MULTIPLE, 40 * MULTIPLE, MULTIPLE),
    )


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise MissingExtraError("ai-edge-litert", "litert") from None
    return schema_py_generated
