"""A sliced ViT as an ONNX file with a free batch dimension."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compress.model.vit import SlicedViT
from export.graph.build import Rewrites, vit_graph
from export.graph.ir import LINEAR, Graph
from export.graph.zeros import rewrites_for
from export.quantise.integer import Mode, Ranges
from export.quantise.recipes import Recipe
from export.writers.onnx import OPSET, RMS_NORM_IS_ONE, onnx_bytes

ONNX_RECIPES = tuple(
    Recipe(f"static_wi8_au8_{method}", "integer", ranges=Ranges(method), corrected=True) for method in ("mse", "minmax")
)
"""int8 weights for each output, inputs of Linears in uint8 with ranges from calibration, everything else float32.

Ranges that are taken from the input as it comes are those of a whole batch: an image would be answered otherwise among
others than alone.
"""


def write_onnx(model: SlicedViT, path: Path, *, half: bool = False, opset: int = OPSET) -> None:
    """Writes ``model`` to ``path``: input ``image (batch, C, H, W)``, output ``logits (batch, classes)``, float32.

    The file carries no path, no stack trace and no time: equal weights give equal bytes.

    Args:
        model: what to write.
        path: where to.
        half: store weights as float16, in half the space; the engine computes in float32.
        opset: version of ONNX's operators, of ``onnx_writer.OPSETS``.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    path.write_bytes(onnx_bytes(vit_graph(model, onnx_rewrites(model, opset)), half, opset))


def onnx_rewrites(model: SlicedViT, opset: int) -> Rewrites:
    """Returns the rewrites for a version of operators.

    Centring makes every LayerNorm an RMSNorm, which is worth it only where RMSNorm is one operator: LayerNorm is one in
    every version.
    """
    rewrites = rewrites_for(model).flattened()
    return rewrites if opset >= RMS_NORM_IS_ONE else rewrites.without("centre")


def onnx_modes(graph: Graph, recipe: Recipe) -> Mapping[str, Mode]:
    """Says how each operator of ``graph`` counts: Linears as the recipe says, all others in float."""
    return {op.output: recipe.linears for op in graph.ops if op.kind in LINEAR}
