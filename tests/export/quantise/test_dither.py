"""Copies of the last row: the same answers without rounding, less error with it, and a file that computes just that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.data.dataset import Dataset
from compress.model.vit import SlicedViT
from export.compare import real_logits
from export.formats.tflite import tflite_form
from export.graph.execute import Hook, run_graph
from export.graph.ir import LINEAR, Graph
from export.quantise.candidates import CandidateBuilder, Subject
from export.quantise.dither import dithered, last_row, macs_of, shifts_of, with_row_copies
from export.quantise.qat import QatRecipe, train_quantised
from export.quantise.recipes import MIXED, RECIPES, STATIC_ATTENTION, recipes_for
from export.quantise.simulate import rounded_constants, rounding_hook, simulate
from runtime import ShapePlan
from tests.export.conftest import SPEC
from tests.export.graph.test_build import EVERY, VIT, images_for, model_of

FULL = recipes_for("int8-full")[0]
COPIED = ("vit", "deit3", "registers", "clip", "no-norm", "unit-vector", "texts", "attention-pool", "parallel")
"""One row is left of these before the answer, behind a Linear."""

NOT_COPIED = ("deit-distilled", "dinov2-head", "average", "grid", "double-norm")


def graph_of(plan: ShapePlan, folder: Path, recipe: str = FULL.name) -> tuple[Graph, np.ndarray]:
    """Returns a graph of integers and images for it."""
    model, images = model_of(plan), images_for(plan, 24).numpy()
    with torch.no_grad():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    subject = Subject(model, images[:16], images[16:], logits[16:], None)
    return CandidateBuilder(subject, folder, tflite_form()).quantised(RECIPES[recipe]), images[16:]


def deep(plan: ShapePlan) -> ShapePlan:
    """Returns a plan beside whose other tokens and blocks one more row costs little."""
    return replace(plan, img_size=(64, 64), blocks=plan.blocks * 2)


def copies_in(graph: Graph, name: str) -> list[str]:
    """Returns the names of the copies of a Linear's output."""
    return [op.output for op in graph.ops if op.output.removeprefix(f"{name}.").isdigit()]


def behind(names: Iterable[str], graph: Graph) -> set[str]:
    """Returns names of tensors, and of all that are computed from them."""
    reached = set(names)
    for op in graph.ops:
        if not reached.isdisjoint(op.inputs):
            reached.add(op.output)
    return reached


@pytest.mark.parametrize("name", COPIED)
def test_copies_without_shifts_change_no_answer(name: str, tmp_path: Path) -> None:
    graph, images = graph_of(EVERY[name], tmp_path)
    part = last_row(graph)
    copied = with_row_copies(graph, part, np.zeros((3, graph.shapes[part[0]][-1])))
    wanted, got = (run_graph(own, torch.from_numpy(images).double()) for own in (graph, copied))
    assert got.shape == wanted.shape
    assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-12


@pytest.mark.parametrize("name", NOT_COPIED)
def test_a_model_that_leaves_more_than_one_row_is_left_alone(name: str, tmp_path: Path) -> None:
    graph, _ = graph_of(EVERY[name], tmp_path)
    assert last_row(graph) == ()
    assert dithered(graph) is graph


@pytest.mark.parametrize("recipe", [MIXED.name, STATIC_ATTENTION.name, "static_wi8_ai16_minmax"])
def test_only_int8_is_dithered(recipe: str, tmp_path: Path) -> None:
    graph, _ = graph_of(deep(VIT), tmp_path, recipe)
    assert dithered(graph) is graph


def test_copies_cost_little_and_share_their_weights(tmp_path: Path) -> None:
    graph, _ = graph_of(deep(VIT), tmp_path)
    copied = dithered(graph)
    assert 2 <= len(copies_in(copied, last_row(graph)[0])) <= 8
    assert 1 < macs_of(copied) / macs_of(graph) <= 1.02
    weights = [name for name in copied.constants if name.endswith("weight")]
    assert sorted(weights) == sorted(name for name in graph.constants if name.endswith("weight"))
    assert dithered(copied) is copied


def test_shifts_cancel_and_differ_between_channels(tmp_path: Path) -> None:
    graph, _ = graph_of(VIT, tmp_path)
    shifts = shifts_of(8, graph, last_row(graph))
    np.testing.assert_allclose(shifts.sum(axis=0), 0.0, atol=1e-12)
    assert len(np.unique(np.sort(shifts, axis=0).round(12), axis=1).T) == 1
    assert len(np.unique(shifts.round(12), axis=1).T) > shifts.shape[1] // 2


def test_the_error_of_the_last_row_falls_with_the_copies(trained: SlicedViT, subject: Subject, tmp_path: Path) -> None:
    graph = CandidateBuilder(subject, tmp_path, tflite_form()).quantised(FULL)
    part = last_row(graph)
    images = torch.from_numpy(subject.images)
    exact = run_graph(graph, images, constants=rounded_constants(graph))
    errors = []
    for copies in (1, 2, 8):
        one = with_row_copies(graph, part, shifts_of(copies, graph, part))
        # the answers' own steps are the same with any number of copies
        inside = behind(copies_in(one, part[0]), one) - {one.output, one.ops[-1].inputs[0]}
        rounding = rounding_hook(one)

        def hook(name: str, value: torch.Tensor, inside: set[str] = inside, rounding: Hook = rounding) -> torch.Tensor:
            return rounding(name, value) if name in inside else value

        errors.append(float((run_graph(one, images, hook, rounded_constants(one)) - exact).square().sum()))
    # the variances of all copies are nearly the same and round alike
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.8 * errors[0]


@pytest.mark.parametrize("name", ["vit", "registers", "unit-vector"])
def test_the_file_answers_as_the_simulation_says(name: str, tmp_path: Path) -> None:
    graph, images = graph_of(EVERY[name], tmp_path)
    part = last_row(graph)
    copied = with_row_copies(graph, part, shifts_of(4, graph, part))
    path = tmp_path / "copied.tflite"
    path.write_bytes(tflite_form().write(copied))
    steps = (real_logits(path, images) - simulate(copied, images)) / copied.qparams[copied.output].scale[0]
    assert np.abs(steps).max() <= 3
    assert np.abs(steps).mean() < 0.5


def test_training_keeps_the_scales_of_all_copies_right(
    trained: SlicedViT, subject: Subject, digits: Dataset, tmp_path: Path
) -> None:
    graph = CandidateBuilder(subject, tmp_path, tflite_form()).quantised(FULL)
    part = last_row(graph)
    copied = with_row_copies(graph, part, shifts_of(3, graph, part))
    few = replace(digits, train=digits.train[:64])
    after = train_quantised(copied, trained, few, SPEC, QatRecipe(epochs=1, batch_size=32, lr=1e-3))
    assert not np.array_equal(after.constants[f"{part[0]}.weight"], graph.constants[f"{part[0]}.weight"])
    for op in after.ops:
        if op.kind in LINEAR and len(op.inputs) > 2:
            data, weight, bias = (np.asarray(after.qparams[name].scale) for name in op.inputs)
            np.testing.assert_allclose(bias, data * weight, rtol=1e-6)
