"""Kinds of TFLite file: a sliced ViT for one image at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from export.formats import ExportKind
from export.graph.build import vit_graph
from export.graph.rewrites import DEFAULT_REWRITES
from export.graph.zeros import rewrites_for, rotated_unless_sparse
from export.quantise.dither import dithered
from export.quantise.form import Form
from export.quantise.recipes import STATIC_ATTENTION, Recipe, modes_of
from export.writers.tflite import tflite_bytes
from runtime import LatencyPrecision, ShapePlan
from runtime.formats import FORMATS

if TYPE_CHECKING:
    from compress.model.vit import SlicedViT


HALF_METADATA = "reduced_precision_support"
"""Name of the metadata by which XNNPACK computes in float16 on ARM cores that have such instructions.

Ref: ``tflite/tools/optimize/reduced_precision_support.h`` of LiteRT.
"""

HALF_ARITHMETIC = "fp16accfp16"
"""Value of that metadata: inputs, results and sums are float16. ``fp16accfp32`` is a value too, and changes nothing."""


def write_tflite(model: SlicedViT, path: Path, half: bool = False, arithmetic: str = "") -> None:
    """Writes ``model`` to ``path``: input ``image (1, H, W, C)``, output ``logits (1, classes)``, float32.

    Args:
        model: the model to write.
        path: of the file.
        half: whether to store weights as float16, in half the space, with operators that suit float16.
        arithmetic: value of the metadata that allows an engine to compute in less than float32; without one, it
            computes in float32.

    Raises:
        MissingExtraError: ai-edge-litert or flatbuffers is not installed.
    """
    rewrites = rewrites_for(model)
    graph = vit_graph(model, rewrites.in_half() if half else rewrites)
    path.write_bytes(tflite_bytes(graph, half, {HALF_METADATA: arithmetic.encode()} if arithmetic else None))


def write_int8(
    model: SlicedViT, path: Path, images: npt.NDArray[np.float32], recipe: Recipe = STATIC_ATTENTION
) -> None:
    """Writes ``model`` to ``path`` by one recipe, without verifying the file; ``export_model`` chooses and verifies.

    Args:
        model: the model to write.
        path: of the file.
        images: to calibrate on, ``(N, H, W, C)`` float32.
        recipe: of the integers.
    """
    from export.quantise.calibrate import observe
    from export.quantise.integer import quantise_graph

    graph = vit_graph(model, rewrites_for(model))
    seen = observe(graph, images)
    path.write_bytes(tflite_bytes(quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges)))


def timing_bytes(
    plan: ShapePlan,
    precision: LatencyPrecision,
    *,
    pooled_only: bool = True,
    seed: int = 0,
    recipe: Recipe = STATIC_ATTENTION,
) -> bytes:
    """Returns the content of a TFLite file of the shape ``plan`` with random weights, to be timed.

    Args:
        plan: shape of the model.
        precision: ``fp32``, or ``int8`` with arbitrary ranges.
        pooled_only: whether the last block computes only the tokens that the head reads, as in exported files.
        seed: of the weights.
        recipe: of ``int8``; by default the one expected to be fastest.
    """
    import torch

    from compress.model.vit import SlicedViT
    from export.quantise.calibrate import TensorStats
    from export.quantise.integer import quantise_graph

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = SlicedViT(plan).eval()
    torch.set_rng_state(state)
    graph = vit_graph(model, DEFAULT_REWRITES if pooled_only else DEFAULT_REWRITES.without("pooled_only"))
    if precision == "int8":
        made_up = dict.fromkeys(graph.shapes, TensorStats(-4.0, 4.0, np.ones(1), np.zeros(1), np.zeros(1, np.float32)))
        graph = quantise_graph(graph, modes_of(graph, recipe), made_up, replace(recipe.ranges, method="minmax"))
    return tflite_bytes(graph)


def tflite_form() -> Form:
    """Returns how quantised graphs become TFLite files."""
    return Form(FORMATS["tflite"].suffix, tflite_bytes, rewrites_for, rotate=rotated_unless_sparse, repeat=dithered)


FP32 = ExportKind(
    "fp32",
    "TFLite in float32",
    format="tflite",
    precision="fp32",
    label="fp32",
    recipe="fp32",
    write=write_tflite,
    held_to="logits",
    packages=("ai_edge_litert", "flatbuffers"),
)
FP16 = replace(
    FP32,
    name="fp16",
    summary="TFLite with float16 weights, computed in float16 by ARM cores that can where a simulation allows it",
    precision="fp16",
    label="fp16",
    recipe="fp16_weights",
    write=partial(write_tflite, half=True),
    held_to="top-1",
    half_arithmetic=True,
)
INT8 = replace(
    FP32,
    name="int8",
    summary="TFLite with int8 weights, by the recipe that is fastest on the processor",
    precision="int8",
    label="int8",
    recipe="",
    write=None,
    form=tflite_form,
    choice="fastest",
    held_to="top-1",
)
INT4 = replace(
    INT8,
    name="int4",
    summary="TFLite with weights of 4 bits in blocks of 32, inputs in int8 as they come",
    precision="int4",
    label="int4",
    choice="most accurate",
)
INT8_FULL = replace(
    INT8,
    name="int8-full",
    summary="TFLite with int8 throughout, for chips without floats",
    precision="int8-full",
    label="int8-full",
    choice="most accurate",
    trainable=True,
)
INT8_FULL_MIXED = replace(
    INT8_FULL,
    name="int8-full-mixed",
    summary="TFLite with int8 for image, queries, keys, values and logits, int16 where int8 loses most",
    precision="int8-full-mixed",
    label="int8-full-mixed",
    trainable=False,
)
INT8_FULL_16X8 = replace(
    INT8_FULL,
    name="int8-full-16x8",
    summary="TFLite with int8 weights and int16 activations throughout",
    precision="int8-full-16x8",
    label="int8-full-16x8",
    trainable=False,
)
