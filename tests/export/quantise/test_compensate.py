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
from export.graph.ir import Graph, Op, QParams
from export.quantise.calibrate import observe, weight_qparams
from export.quantise.candidates import CandidateBuilder, Subject
from export.quantise.compensate import (
    DAMPING,
    Compensator,
    compensate_and_correct,
    compensate_weights,
    damping_of,
    has_rounded_weight,
    hessians_of,
)
from export.quantise.form import Form
from export.quantise.integer import quantise_graph
from export.quantise.recipes import BLOCKS, DYNAMIC, DYNAMIC_ATTENTION, ONNX_RECIPES, Recipe, modes_of, recipes_for
from export.quantise.simulate import (
    correct_biases,
    dynamic_inputs,
    fake_quantise,
    nearest,
    rounded_constants,
    rounded_rows,
    rounding_hook,
    simulate,
)
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


@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
def test_few_rows_are_damped_more_and_do_no_harm_on_others(decay: float) -> None:
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(96, 96)))[0] * np.arange(1, 97) ** (-decay / 2)
    mean = 5 * np.linalg.qr(generator.normal(size=(96, 96)))[0][0]
    weight = generator.normal(size=(32, 96))
    steps = np.abs(weight).max(axis=1) / 127

    def drawn(count: int) -> torch.Tensor:
        return torch.from_numpy(generator.normal(size=(count, 96)) @ basis.T + mean)

    tests, dampings = drawn(3000), []
    plain = errors(tests, weight, np.round(weight / steps[:, None]) * steps[:, None]).sum()
    for count in (16, 48, 95):
        rows = drawn(count)
        hessian = rows.T @ rows / count
        dampings.append(damping_of(rows, hessian))
        own, usual = (
            errors(tests, weight, Compensator(hessian, part).rounded(weight, steps) * steps[:, None]).sum()
            for part in (dampings[-1], DAMPING)
        )
        assert own < plain
        assert own < 1.1 * usual
    assert min(dampings) > (3 * DAMPING if decay < 1 else 0.99 * DAMPING)
    many = drawn(96)
    assert damping_of(many, many.T @ many / 96) == DAMPING


def test_rows_without_a_spread_have_the_usual_damping() -> None:
    for rows in (torch.zeros(5, 3), torch.ones(5, 3), torch.eye(3)):
        assert damping_of(rows, (rows.T @ rows / len(rows)).double()) >= DAMPING


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


def squares(op: Op, hessians: list[tuple[torch.Tensor, float]], difference: np.ndarray) -> float:
    if op.kind == "batch_matmul":
        turned = difference if op.options.get("adj_y") else np.swapaxes(difference, -1, -2)
        matrices = turned.reshape(-1, *turned.shape[-2:])
    else:
        matrices = difference.reshape(1, len(difference), -1)
    return sum(
        float(((torch.from_numpy(m) @ hessian) * torch.from_numpy(m)).sum())
        for m, (hessian, _) in zip(matrices, hessians, strict=True)
    )


def test_a_convolution_of_patches_has_the_squares_of_its_pixels() -> None:
    x = torch.randn(2, 1, 8, 12, 3, generator=torch.Generator().manual_seed(0))
    op = Op("conv_2d", ("x", "w"), "y", {"stride": (4, 6)})
    weight = torch.randn(5, 4, 6, 3, generator=torch.Generator().manual_seed(1))
    out = torch.nn.functional.conv2d(x[:, 0].movedim(-1, 1), weight.movedim(-1, 1), stride=(4, 6))
    wanted = out.square().sum(1).mean()
    ((hessian, _),) = hessians_of(op, x)
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
    """Returns a model of whose residual stream one channel is far larger than the others."""
    with torch.no_grad():
        for tokens in (model.pos_embed, model.cls_token):
            assert tokens is not None
            tokens[..., 5] += 20.0
    return model


def smooth(count: int, seed: int) -> torch.Tensor:
    """Returns images ``(count, 24, 24, 3)`` without fine detail, whose neighbouring pixels are nearly equal."""
    coarse = torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (24, 24), mode="bicubic").permute(0, 2, 3, 1).contiguous()


def test_rotation_and_compensation_each_bring_the_logits_closer(tmp_path: Path) -> None:
    images, tests = smooth(96, 0), smooth(64, 1)
    reached = {name: 0.0 for name in ("both", "no rotation", "no compensation")}
    for seed in range(3):
        model = hard(model_of(PLAN, seed))
        with torch.no_grad():
            logits = model(tests.permute(0, 3, 1, 2)).numpy()
        builder = CandidateBuilder(Subject(model, images.numpy(), tests.numpy(), logits, None), tmp_path, tflite_form())
        ways = (DYNAMIC, replace(DYNAMIC, rotated=False), replace(DYNAMIC, passes=()))
        for name, own in zip(reached, ways, strict=True):
            found = compare_logits(simulate(builder.quantised(own), tests.numpy()), logits, None, "").sqnr_db
            assert found is not None
            reached[name] += found / 3
    assert reached["both"] > reached["no rotation"] + 1
    assert reached["both"] > reached["no compensation"] + 1


def test_weights_of_a_grid_for_the_whole_tensor_share_its_step() -> None:
    x, weight, _ = problem()
    grid = weight_qparams(weight, None)
    found = Compensator(x.T @ x / len(x)).rounded(weight, np.broadcast_to(np.asarray(grid.scale), len(weight)))
    assert np.abs(found).max() == 127


@pytest.mark.parametrize("recipe", [DYNAMIC, recipes_for("int8-full")[0]], ids=lambda recipe: recipe.name)
def test_one_run_rounds_weights_and_corrects_biases(recipe: Recipe) -> None:
    model, images = hard(model_of(PLAN)), smooth(48, 0).numpy()
    graph = vit_graph(model)
    seen = observe(graph, images)
    plain = quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges)
    joined, apart = (
        compensate_and_correct(plain, seen, images),
        correct_biases(compensate_weights(plain, seen, images), seen, images),
    )
    wanted = simulate(graph, images)
    errors = [np.square(simulate(own, images) - wanted).mean() for own in (joined, apart, plain)]
    assert errors[0] < 1.2 * errors[1] < errors[2]
    # the mean of what every Linear computes is that of the float model
    means: dict[str, float] = {}

    def hook(name: str, value: torch.Tensor) -> torch.Tensor:
        if name.endswith((".fc1", ".fc2", ".proj")):
            away = value.mean(dim=tuple(range(value.ndim - 1))).double().numpy() - seen[name].mean
            means[name] = float(np.abs(away).max() / seen[name].channels.max())
        return rounding(name, value)

    rounding = rounding_hook(joined)
    with torch.no_grad():
        run_graph(joined, torch.from_numpy(images), hook, rounded_constants(joined), dynamic_inputs(joined))
    assert len(means) == 6
    assert max(means.values()) < 1e-2


def test_recipes_of_one_sort_share_rounded_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = model_of(PLAN), images_for(PLAN, 24).numpy()
    builder = CandidateBuilder(Subject(model, images, images, images, None), tmp_path, tflite_form())
    first, second, third = recipes_for("int8-full")[:3]
    rounded: list[str] = []
    honest = Compensator.rounded
    monkeypatch.setattr(Compensator, "rounded", lambda own, *given: (rounded.append(""), honest(own, *given))[1])
    made = [builder.quantised(first)]
    layers = len(rounded)
    assert layers > 0
    made += [builder.quantised(second), builder.for_kind("other", tmp_path).quantised(third)]
    assert len(rounded) == layers
    for own in made[1:]:
        assert own.qparams != made[0].qparams
        for op in own.ops:
            if has_rounded_weight(own, op):
                np.testing.assert_array_equal(own.constants[op.inputs[1]], made[0].constants[op.inputs[1]])
    # ranges set the scales of biases, and other ranges make other errors to correct
    assert not np.array_equal(made[0].constants["blocks.1.mlp.fc1.bias"], made[1].constants["blocks.1.mlp.fc1.bias"])
    # another basis has other weights, and plain rounding stays plain
    builder.quantised(replace(first, rotated=False))
    assert len(rounded) == 2 * layers
    builder.quantised(replace(first, passes=()))
    assert len(rounded) == 2 * layers
    # so do recipes that differ in attention's products, and none of these with those in blocks
    made = [builder.quantised(own) for own in (DYNAMIC_ATTENTION, DYNAMIC)]
    assert len(rounded) == 3 * layers
    for name in ("blocks.0.mlp.fc1.weight", "blocks.1.attn.q.weight"):
        np.testing.assert_array_equal(made[0].constants[name], made[1].constants[name])
    assert len(made[0].qparams) > len(made[1].qparams)
    builder.quantised(BLOCKS)
    assert len(rounded) > 3 * layers


def test_rounded_weights_do_not_depend_on_which_recipe_came_first(tmp_path: Path) -> None:
    model, images = model_of(PLAN), images_for(PLAN, 24).numpy()
    subject = Subject(model, images, images, images, None)
    for pair in (recipes_for("int8-full")[:2], (DYNAMIC, DYNAMIC_ATTENTION)):
        builders = [CandidateBuilder(subject, tmp_path, tflite_form()) for _ in range(2)]
        one = [builders[0].quantised(recipe) for recipe in pair]
        other = [builders[1].quantised(recipe) for recipe in reversed(pair)][::-1]
        for left, right in zip(one, other, strict=True):
            assert left.qparams == right.qparams
            for name, value in left.constants.items():
                np.testing.assert_allclose(value, right.constants[name], rtol=0, atol=1e-6 * np.abs(value).max())


def test_values_that_are_moved_and_rows_that_are_read_again_are_rounded_once() -> None:
    grid = QParams((0.5,), 3)
    value = torch.linspace(-80, 80, 400).reshape(4, 100)
    assert torch.equal(nearest(value, grid), fake_quantise(value, grid))
    assert value[0, 0] == -80
    ops = (Op("reshape", ("x",), "y", {"shape": (100, 4)}), Op("relu", ("y",), "z"))
    graph = Graph("x", "z", ops, {}, dict.fromkeys("xyz", (4, 100)), {"x": grid, "y": grid, "z": grid})
    hook = rounding_hook(graph)
    assert hook("y", value) is value
    assert torch.equal(hook("z", value), nearest(value, grid))
    other = replace(graph, qparams={**graph.qparams, "y": QParams((1.0,), 3)})
    assert torch.equal(rounding_hook(other)("y", value), nearest(value, QParams((1.0,), 3)))
