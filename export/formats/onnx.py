"""Kinds of ONNX file: a sliced ViT with a free batch dimension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from export.formats import ExportKind
from export.graph.build import vit_graph
from export.graph.ir import LINEAR, Graph
from export.graph.rewrites import Rewrites
from export.graph.zeros import rewrites_for, rotated_unless_sparse
from export.quantise.form import Form
from export.quantise.recipes import Mode, Recipe
from export.writers.onnx import RMS_NORM_IS_ONE, onnx_bytes
from export.writers.onnx_opsets import OPSET
from export.writers.onnx_tensors import without_unread_grids
from runtime.formats import FORMATS

if TYPE_CHECKING:
    from compress.model.vit import SlicedViT


def write_onnx(model: SlicedViT, path: Path, *, half: bool = False, opset: int = OPSET) -> None:
    """Writes ``model`` to ``path``: input ``image (batch, C, H, W)``, output ``logits (batch, classes)``, float32.

    The file carries no path, no stack trace and no time: equal weights give equal bytes.

    Args:
        model: the model to write.
        path: of the file.
        half: whether to store weights as float16, in half the space; the engine computes in float32.
        opset: version of ONNX's operators, of ``export.writers.onnx_opsets.OPSETS``.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    path.write_bytes(onnx_bytes(vit_graph(model, onnx_rewrites(model, opset)), half, opset))


def onnx_rewrites(model: SlicedViT, opset: int) -> Rewrites:
    """Returns the exact rewrites for a version of ONNX's operators.

    Centring turns every LayerNorm into an RMSNorm, which pays only in versions with RMSNorm as one operator; LayerNorm
    is one operator in every version.
    """
    rewrites = rewrites_for(model).flattened()
    return rewrites if opset >= RMS_NORM_IS_ONE else rewrites.without("centre")


def onnx_modes(graph: Graph, recipe: Recipe) -> Mapping[str, Mode]:
    """Returns the mode of each operator: that of the recipe for Linears, float for all others."""
    return {op.output: recipe.linears for op in graph.ops if op.kind in LINEAR}


def onnx_form(opset: int = OPSET) -> Form:
    """Returns how quantised graphs become ONNX files."""
    return Form(
        FORMATS["onnx"].suffix,
        lambda graph: onnx_bytes(graph, opset=opset),
        lambda model: onnx_rewrites(model, opset),
        modes=onnx_modes,
        settle=without_unread_grids,
        rotate=lambda model: rotated_unless_sparse(model, layer_norms=opset < RMS_NORM_IS_ONE),
    )


ONNX = ExportKind(
    "onnx",
    "ONNX in float32",
    format="onnx",
    precision="fp32",
    recipe="fp32",
    write=write_onnx,
    options=("opset",),
    held_to="logits",
    packages=("onnx",),
)
ONNX_FP16 = replace(
    ONNX,
    name="onnx-fp16",
    summary="ONNX with float16 weights",
    precision="fp16",
    label="fp16",
    recipe="fp16_weights",
    write=partial(write_onnx, half=True),
    held_to="top-1",
)
ONNX_INT8 = replace(
    ONNX,
    name="onnx-int8",
    summary="ONNX with int8 weights, and int8 inputs of Linears",
    precision="int8",
    label="int8",
    recipe="",
    write=None,
    form=onnx_form,
    held_to="top-1",
)
