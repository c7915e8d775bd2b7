"""Files for the NPU compilers of chip vendors: static int8 throughout.

Such a file is an ``int8-full`` file, by the same recipes and held to the same limits, with three changes:

- Its last block has the Linears of key and value. ``int8-full`` multiplies its one query by their weights directly
  (the rewrite ``one_query``), as operands of products with one scale each. Here all weights have one scale for each
  output, and both factors of every product are computed.
- Image and logits are int8 or uint8, by ``--io-type``. For uint8 a QUANTIZE stands at either end. The steps are the
  same, so the answers are the same.
- It is written only if ``npu_breaches`` finds nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from export.graph.ir import Graph, Op, QParams
from export.graph.rewrites import Rewrites
from export.graph.zeros import rewrites_for
from export.quantise.form import Form
from export.writers.tflite import tflite_bytes
from runtime import UnsupportedTargetError

from .npu_limits import npu_breaches
from .tflite import INT8_FULL, tflite_form

if TYPE_CHECKING:
    from compress.model.vit import SlicedViT

IoType = Literal["int8", "uint8"]

_SHOWN = 3
_SHIFT = 128
"""The zero point of uint8 over that of int8."""


def static_bytes(graph: Graph, io_type: IoType = "int8") -> bytes:
    """Returns a graph of integers as the content of a ``.tflite`` file for NPU compilers.

    Args:
        graph: int8 throughout.
        io_type: type of image and logits.

    Raises:
        UnsupportedTargetError: the graph has something that NPU compilers do not take.
        MissingExtraError: ai-edge-litert or flatbuffers is not installed.
    """
    graph = with_io_type(graph, io_type)
    if breaches := npu_breaches(graph):
        more = f", and {len(breaches) - _SHOWN} more" if len(breaches) > _SHOWN else ""
        raise UnsupportedTargetError(
            "NPU compilers cannot take this model whole",
            expected="static int8 throughout, with sizes that a chip has registers for",
            got="; ".join(breaches[:_SHOWN]) + more,
            fix="Choose smaller images or a smaller model, or write --formats int8-full, which has no such limits",
        )
    return tflite_bytes(graph)


def with_io_type(graph: Graph, io_type: IoType) -> Graph:
    """Returns an int8 graph with image and logits of a type; the steps stay, so no value changes."""
    if io_type == "int8":
        return graph
    image, logits = f"{graph.input}.int8", f"{graph.output}.int8"
    inside = {graph.input: image, graph.output: logits}

    def named(name: str) -> str:
        return inside.get(name, name)

    ops = [replace(op, inputs=tuple(map(named, op.inputs)), output=named(op.output)) for op in graph.ops]
    shapes, grids = dict(graph.shapes), dict(graph.qparams)
    for outside, name in inside.items():
        own = grids[name] = grids[outside]
        shapes[name] = shapes[outside]
        grids[outside] = QParams(own.scale, own.zero_point + _SHIFT, "uint8")
    ends = Op("quantize", (graph.input,), image), Op("quantize", (logits,), graph.output)
    return replace(graph, ops=(ends[0], *ops, ends[1]), shapes=shapes, qparams=grids)


def static_form(io_type: IoType = "int8") -> Form:
    """Returns how quantised graphs become files for NPU compilers."""
    return replace(tflite_form(), write=partial(static_bytes, io_type=io_type), rewrites=static_rewrites)


def static_rewrites(model: SlicedViT) -> Rewrites:
    """Returns the exact rewrites of a file for NPU compilers."""
    return rewrites_for(model).without("one_query")


STATIC_INT8 = replace(
    INT8_FULL,
    name="static-int8",
    summary="TFLite with static int8 throughout, for the NPU compilers of chip vendors",
    precision="static-int8",
    label="static-int8",
    form=static_form,
    options=("io_type",),
)
