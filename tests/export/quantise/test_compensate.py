"""Rounding under compensation: never worse than plain rounding, and the integers of the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.model.vit import SlicedViT
from export.compare import compare_logits, real_logits
from export.formats.onnx import onnx_form
from export.formats.tflite import tflite_form
from export.graph.build import vit_graph
from export.graph.execute import run_graph
from export.graph.ir import Graph, Op
from export.quantise.calibrate import observe, weight_qparams
from export.quantise.candidates import CandidateBuilder, Subject
from export.quantise.compensate import Compensator, compensate_weights, has_rounded_weight, hessians_of
from export.quantise.form import Form
from export.quantise.integer import quantise_graph
from export.quantise.recipes import DYNAMIC, ONNX_RECIPES, Recipe, modes_of, recipes_for
from export.quantise.simulate import dynamic_inputs, rounded_constants, rounded_rows, simulate
from runtime import BlockPlan, ShapePlan
from tests.export.graph.test_build import ARCHITECTURES, images_for, model_of

PLAN = ShapePlan((24, 24), (8, 8), 3, 10, 48, (BlockPlan(3, 16, 16, 96), BlockPlan(2, 24, 16, 64)), 0.25)


def problem(rows: int = 400, inputs: int = 40, outputs: int = 12) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Returns correlated inputs, a weight, and the steps of its grid, which has only a few."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, inputs)) @ generator.normal(size=(inputs, inputs)) * np.geomspace(1, 30, inputs)
    weight = generator.normal(size=(outputs, inputs))
    return torch.from_numpy(x), weight, np.abs(weight).max(axis=1) / 7


def errors(x: torch.Tensor, weight: np.ndarray, rounded: np.ndarray) -> np.ndarray:
    return np.square(x.numpy() @ (rounded - weight).T).mean(axis=0)


def test_the_error_of_every_output_is_at_most_that_of_plain_rounding() -> None:
    x, weight, steps = problem()
    found = Compensator(x.T @ x / len(x)).rounded(weight, steps, 7)
    plain = np.round(weight / steps[:, None]).clip(-7, 7)
    own, other = (errors(x, weight, integers * steps[:, None]) for integers in (found, plain))
    assert (own <= other * (1 + 1e-9)).all()
    assert own.sum() < 0.5 * other.sum()
    assert np.abs(found).max() <= 7


def test_an_output_that_compensation_makes_worse_is_rounded_plainly() -> None:
    # with two inputs, of which the first is rounded first, its error moves the second past the end of the grid
    hessian = torch.tensor([[1.0, 0.9], [0.9, 0.95]], dtype=torch.float64)
    weight, steps = np.array([[0.6, 7.4], [0.6, 0.1]]), np.ones(2)
    own = Compensator(hessian, damping=1e-9)
    for row in (weight[:1], weight[1:]):
        found, plain = own.rounded(row, steps[:1], 7), np.round(row).clip(-7, 7)
        least, other = (float(own.error(torch.from_numpy(value - row))[0]) for value in (found, plain))
        assert least <= other


def test_without_correlations_it_is_plain_rounding() -> None:
    _, weight, steps = problem()
    found = Compensator(torch.diag(torch.linspace(1, 2, 40, dtype=torch.float64))).rounded(weight, steps)
    np.testing.assert_array_equal(found, np.round(weight / steps[:, None]))


def test_inputs_that_are_always_nothing_are_rounded_plainly() -> None:
    _, weight, steps = problem()
    np.testing.assert_array_equal(
        Compensator(torch.zeros(40, 40, dtype=torch.float64)).rounded(weight, steps), np.round(weight / steps[:, None])
    )


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, steps = problem()
    found = []
    for size in (3, 40, 128):
        monkeypatch.setattr("export.quantise.compensate._BLOCK", size)
        found.append(Compensator(x.T @ x / len(x)).rounded(weight, steps, 7))
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[2])


def test_rows_are_rounded_to_256_steps_with_zero() -> None:
    rows = torch.tensor([[0.0, 25.5, 10.04], [-1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [2.0, 3.0, 2.55]])
    found = rounded_rows(rows)
    assert found[0].tolist() == pytest.approx([0.0, 25.5, 10.0])
    assert found[1, 1] == 0
    assert not found[2].any()
    # the range always has 0 in it
    steps = found[3] / (3 / 255)
    assert torch.allclose(steps, steps.round(), atol=1e-4)


@pytest.mark.parametrize("name", ["vit", "clip", "registers"])
@pytest.mark.parametrize(
    "recipe", [DYNAMIC, recipes_for("int8-full")[0], recipes_for("int8-full-16x8")[0]], ids=lambda recipe: recipe.name
)
def test_every_weight_is_on_the_grid_and_its_layer_no_worse(recipe: Recipe, name: str) -> None:
    model, images = model_of(ARCHITECTURES[name]), images_for(ARCHITECTURES[name], 24).numpy()
    graph = vit_graph(model)
    seen = observe(graph, images)
    plain = quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges)
    made = compensate_weights(plain, seen, images)
    assert made.qparams == plain.qparams
    assert made.ops == plain.ops
    weights = [op.inputs[1] for op in made.ops if has_rounded_weight(made, op)]
    assert len(weights) >= 12
    changed = [name for name in weights if not np.array_equal(made.constants[name], plain.constants[name])]
    assert changed == weights
    for weight in weights:
        grid = made.qparams[weight]
        assert np.abs(grid.stored(made.constants[weight])).max() <= 127
        np.testing.assert_allclose(grid.rounded(made.constants[weight]), made.constants[weight], rtol=1e-12, atol=1e-15)
    for weight, (own, other) in layer_errors(made, plain, images).items():
        assert own <= other * (1 + 1e-3), weight


def layer_errors(made: Graph, plain: Graph, images: np.ndarray) -> dict[str, tuple[float, float]]:
    """Returns each layer's error with the compensated and the plain weight, on the inputs of the compensated graph."""
    found = {}
    dynamic = dynamic_inputs(made)

    def before(op: Op, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        inputs = dynamic(op, inputs)
        if has_rounded_weight(made, op):
            name = op.inputs[1]
            real = plain.constants[name]
            both = (made.qparams[name].rounded(value) - real for value in (made.constants[name], real))
            found[name] = tuple(squares(op, hessians_of(op, inputs[0]), difference) for difference in both)
        return inputs

    def hook(name: str, value: torch.Tensor) -> torch.Tensor:
        from export.quantise.simulate import fake_quantise

        return fake_quantise(value, made.qparams[name]) if name in made.qparams else value

    run_graph(made, torch.from_numpy(images), hook, rounded_constants(made), before)
    return found


def squares(op: Op, hessians: list[torch.Tensor], difference: np.ndarray) -> float:
    if op.kind == "batch_matmul":
        turned = difference if op.options.get("adj_y") else np.swapaxes(difference, -1, -2)
        matrices = turned.reshape(-1, *turned.shape[-2:])
    else:
        matrices = difference.reshape(1, len(difference), -1)
    return sum(
        float(((torch.from_numpy(m) @ hessian) * torch.from_numpy(m)).sum())
        for m, hessian in zip(matrices, hessians, strict=True)
    )


def test_a_convolution_of_patches_has_the_squares_of_its_pixels() -> None:
    x = torch.randn(2, 1, 8, 12, 3, generator=torch.Generator().manual_seed(0))
    op = Op("conv_2d", ("x", "w"), "y", {"stride": (4, 6)})
    weight = torch.randn(5, 4, 6, 3, generator=torch.Generator().manual_seed(1))
    out = torch.nn.functional.conv2d(x[:, 0].movedim(-1, 1), weight.movedim(-1, 1), stride=(4, 6))
    wanted = out.square().sum(1).mean()
    (hessian,) = hessians_of(op, x)
    flat = weight.reshape(5, -1).double()
    assert float(((flat @ hessian) * flat).sum()) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize(
    ("form", "recipe"), [(tflite_form(), DYNAMIC), (onnx_form(), ONNX_RECIPES[0])], ids=["tflite", "onnx"]
)
def test_the_file_has_the_compensated_integers(form: Form, recipe: Recipe, tmp_path: Path) -> None:
    model, images = model_of(PLAN), images_for(PLAN, 24).numpy()
    with torch.no_grad():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    builder = CandidateBuilder(Subject(model, images, images, logits, None), tmp_path, form)
    graph, path = builder.quantised(recipe), tmp_path / f"m{form.suffix}"
    path.write_bytes(form.write(graph))
    weight = "blocks.0.mlp.fc1.weight"
    stored = graph.qparams[weight].stored(graph.constants[weight])
    assert (stored if form.suffix == ".tflite" else np.ascontiguousarray(stored.T)).tobytes() in path.read_bytes()
    found, own = real_logits(path, images), simulate(graph, images)
    near, far = compare_logits(found, own, None, "").sqnr_db, compare_logits(found, logits, None, "").sqnr_db
    assert near is not None
    assert far is not None
    assert near > far + 3


def hard(model: SlicedViT) -> SlicedViT:
    """Returns a model in whose norms a few channels count a hundred times more than the others."""
    with torch.no_grad():
        for block in model.blocks:
            for norm in (block.norm1, block.norm2):
                norm.weight[::9] *= 30
                norm.bias[::9] *= 30
    return model


@pytest.mark.parametrize("recipe", [DYNAMIC, *recipes_for("int8-full")[:1]], ids=lambda recipe: recipe.name)
def test_rotation_and_compensation_each_bring_the_logits_closer(recipe: Recipe, tmp_path: Path) -> None:
    model, images, tests = hard(model_of(PLAN)), images_for(PLAN, 64).numpy(), images_for(PLAN, 96).numpy()[64:]
    with torch.no_grad():
        logits = model(torch.from_numpy(tests).permute(0, 3, 1, 2)).numpy()
    builder = CandidateBuilder(Subject(model, images, tests, logits, None), tmp_path, tflite_form())

    def reached(own: Recipe) -> float:
        found = compare_logits(simulate(builder.quantised(own), tests), logits, None, "").sqnr_db
        assert found is not None
        return found

    both = reached(recipe)
    assert both > reached(replace(recipe, rotated=False)) + 1
    if recipe.linears == "dynamic":
        assert both > reached(replace(recipe, passes=())) + 1


def test_weights_of_a_grid_for_the_whole_tensor_share_its_step() -> None:
    x, weight, _ = problem()
    grid = weight_qparams(weight, None)
    found = Compensator(x.T @ x / len(x)).rounded(weight, np.broadcast_to(np.asarray(grid.scale), len(weight)))
    assert np.abs(found).max() == 127
