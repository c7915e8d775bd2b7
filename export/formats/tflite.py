"""A sliced ViT as a TFLite file, one image at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from compress.model.vit import SlicedViT
from export.graph.build import DEFAULT_REWRITES, vit_graph
from export.graph.ir import Graph
from export.graph.zeros import rewrites_for
from export.quantise.calibrate import Stats, observe
from export.quantise.integer import quantise
from export.quantise.recipes import STATIC_ATTENTION, Recipe, modes_of
from export.writers.tflite import tflite_bytes
from runtime import LatencyPrecision, ShapePlan


def write_tflite(model: SlicedViT, path: Path, half: bool = False) -> None:
    """Writes ``model`` to ``path``: input ``image (1, H, W, C)``, output ``logits (1, classes)``, float32.

    Args:
        model: what to write.
        path: where to.
        half: store weights as float16, in half the space; the engine computes in float32.

    Raises:
        MissingExtraError: ai-edge-litert or flatbuffers is not installed.
    """
    path.write_bytes(tflite_bytes(vit_graph(model, rewrites_for(model)), half))


def write_int8(
    model: SlicedViT, path: Path, images: npt.NDArray[np.float32], recipe: Recipe = STATIC_ATTENTION
) -> None:
    """Writes ``model`` to ``path`` by one recipe, chosen by nobody and verified by nobody: see ``export_model``.

    Args:
        model: what to write.
        path: where to.
        images: to calibrate on, ``(N, H, W, C)``.
        recipe: how to quantise.
    """
    graph = vit_graph(model, rewrites_for(model))
    path.write_bytes(tflite_bytes(quantise(graph, modes_of(graph, recipe), observe(graph, images), recipe.ranges)))


def timing_bytes(plan: ShapePlan, precision: LatencyPrecision, *, pooled_only: bool = True, seed: int = 0) -> bytes:
    """Returns a TFLite file of the shape ``plan``, with random weights, to be timed: time does not depend on them.

    Args:
        plan: its shape.
        precision: ``fp32``, or ``int8`` by the recipe expected to be fastest, its ranges made up.
        pooled_only: the last block computes what the head reads alone, as in files that ship; if not, it is like all
            others.
        seed: of the weights.
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = SlicedViT(plan).eval()
    torch.set_rng_state(state)
    graph = vit_graph(model, DEFAULT_REWRITES if pooled_only else DEFAULT_REWRITES.without("pooled_only"))
    if precision == "int8":
        graph = quantise(
            graph, modes_of(graph, STATIC_ATTENTION), _made_up(graph), replace(STATIC_ATTENTION.ranges, method="minmax")
        )
    return tflite_bytes(graph)


def _made_up(graph: Graph) -> dict[str, Stats]:
    one = Stats(-4.0, 4.0, np.ones(1), np.zeros(1), np.zeros(1, np.float32))
    return dict.fromkeys(graph.shapes, one)
