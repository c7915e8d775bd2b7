"""A sliced ViT as an ONNX file with a free batch dimension."""

from __future__ import annotations

from pathlib import Path

from compress import SlicedViT

from .graph import LINEAR
from .integer import Mode, Ranges, quantise
from .onnx_writer import onnx_bytes
from .vit_as_graph import vit_graph
from .zeros import rewrites_for

ONNX_DYNAMIC = "dynamic_wi8_au8"
"""int8 weights for each output, inputs of Linears quantised to uint8 as they come, everything else float32."""


def write_onnx(model: SlicedViT, path: Path, *, half: bool = False, int8: bool = False) -> None:
    """Writes ``model`` to ``path``: input ``image (batch, C, H, W)``, output ``logits (batch, classes)``, float32.

    The file carries no path, no stack trace and no time: equal weights give equal bytes.

    Args:
        model: what to write.
        path: where to.
        half: store weights as float16, in half the space; the engine computes in float32.
        int8: store weights as int8 and multiply in integers (``ONNX_DYNAMIC``).

    Raises:
        MissingExtraError: onnx is not installed.
    """
    graph = vit_graph(model, rewrites_for(model).flattened())
    if int8:
        linears: dict[str, Mode] = {op.output: "dynamic" for op in graph.ops if op.kind in LINEAR}
        graph = quantise(graph, linears, {}, Ranges())
    path.write_bytes(onnx_bytes(graph, half))
