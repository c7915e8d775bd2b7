"""Training under rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.model.vit import SlicedViT
from export.compare import compare_logits, real_logits
from export.graph.build import vit_graph
from export.graph.ir import Graph
from export.quantise.calibrate import observe
from export.quantise.candidates import Subject
from export.quantise.integer import quantise_graph
from export.quantise.qat import QatRecipe, train_quantised
from export.quantise.recipes import modes_of, recipes_for
from export.quantise.simulate import simulate
from export.writers.tflite import tflite_bytes
from tests.export.conftest import SPEC
from tests.export.graph.test_build import model_of
from tests.export.part_plans import PART_PLANS


def with_larger_steps(graph: Graph, factor: int, chosen: Callable[[str], bool]) -> Graph:
    """The same graph with grids ``factor`` times coarser where ``chosen`` takes their names: fewer bits are used."""
    qparams = dict(graph.qparams)
    for name in filter(chosen, graph.qparams):
        grid = graph.qparams[name]
        scale = tuple(factor * step for step in grid.scale)
        qparams[name] = replace(grid, scale=scale, zero_point=grid.zero_point // factor)
    return replace(graph, qparams=qparams)


@pytest.mark.slow
def test_training_under_rounding_brings_the_logits_closer(
    trained: SlicedViT, subject: Subject, digits: Dataset, tmp_path: Path
) -> None:
    graph = vit_graph(trained)
    seen = observe(graph, subject.calibration)
    full = recipes_for("int8-full")[0]
    made = quantise_graph(graph, modes_of(graph, full), seen, full.ranges)
    # six bits fewer, so that there is much to learn
    coarse = with_larger_steps(made, 64, lambda name: name.endswith(("fc1", "fc2")))
    half = replace(digits, train=digits.train[::2])
    after = train_quantised(
        coarse, trained, half, SPEC, QatRecipe(epochs=2, batch_size=32, lr=5e-4, teacher_weight=1.0)
    )

    def error(one: Graph) -> float:
        # what is added to all classes alike changes no answer, and the loss does not see it
        difference = simulate(one, subject.images) - subject.logits
        return float(np.square(difference - difference.mean(axis=1, keepdims=True)).mean())

    assert error(after) < 0.7 * error(coarse)
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite_bytes(after))
    found = real_logits(path, subject.images)
    assert compare_logits(found, simulate(after, subject.images), None, "").sqnr_db > 25


def test_training_under_rounding_leaves_the_vectors_of_texts(digits: Dataset) -> None:
    model = model_of(replace(PART_PLANS["texts"], in_chans=1))
    graph, full = vit_graph(model), recipes_for("int8-full")[0]
    few = replace(digits, train=digits.train[:16])
    pictures = np.concatenate([own.permute(0, 2, 3, 1).numpy() for own, _ in plain_batches(few, few.train, SPEC)])
    made = quantise_graph(graph, modes_of(graph, full), observe(graph, pictures), full.ranges)
    after = train_quantised(made, model, few, SPEC, QatRecipe(epochs=1, batch_size=16, lr=1e-3, teacher_weight=1.0))
    same = {name: np.array_equal(made.constants[name], own) for name, own in after.constants.items()}
    assert (same["logits.weight"], same["logits.bias"]) == (True, True)
    assert (same["head.weight"], same["head.bias"]) == (False, False)
