"""Weights of 4 bits in blocks: their grids, what LiteRT computes with them, and the kind of file that has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from compress.data.dataset import Dataset
from compress.model.vit import SlicedViT
from export.exporter import export_model
from export.formats.tflite import tflite_form, write_int8, write_tflite
from export.graph.build import vit_graph
from export.graph.ir import Builder, Graph, QParams
from export.inspect.against.compare import compare_operators
from export.inspect.inspection import inspect_file
from export.inspect.partitions import find_partitions
from export.quantise.blocks import BLOCK, LEAST_SCALE, as_bfloat16, block_qparams, takes_blocks, weights_left_int8
from export.quantise.candidates import CandidateBuilder, Subject
from export.quantise.compensate import Compensator, fitted_scales, round_blocks
from export.quantise.integer import quantise_graph
from export.quantise.recipes import BLOCKS, DYNAMIC, Ranges, Recipe, modes_of, recipes_for
from export.quantise.simulate import simulate
from export.settings import ExportSettings
from export.writers.tflite import tflite_bytes
from runtime import BlockPlan, ShapePlan, open_engine, read_artifact
from tests.export.conftest import task_for
from tests.export.small import small_model

WIDE = ShapePlan((32, 32), (8, 8), 3, 10, 64, (BlockPlan(4, 16, 16, 128), BlockPlan(2, 16, 24, 72)), 0.25)
LEFT = ("blocks.1.attn.k.weight", "blocks.1.attn.v.weight", "blocks.1.attn.proj.weight", "blocks.1.mlp.fc2.weight")
"""Weights of ``WIDE`` that stay int8: those that a single query goes through, and those of 48 and 72 inputs."""


def heavy_tailed(rows: int = 24, inputs: int = 96) -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).standard_t(3, (rows, inputs)) * 0.02


def test_integers_of_blocks_by_hand() -> None:
    weight = np.concatenate([np.linspace(-8, 7, BLOCK), np.linspace(-4, 3.5, BLOCK)])[None]
    grid = QParams((1.0, 0.5), 0, "int4", block=BLOCK)
    assert grid.scales_of(weight.shape).tolist() == [[1.0] * BLOCK + [0.5] * BLOCK]
    stored = grid.stored(weight)
    assert (stored.dtype.name, int(stored.min()), int(stored.max())) == ("int8", -8, 7)
    assert np.array_equal(stored[0, :BLOCK], stored[0, BLOCK:])
    assert np.abs(grid.rounded(weight) - weight).max() <= 0.5
    assert grid.stored(np.full((1, 2 * BLOCK), 100.0)).tolist() == [[7] * 2 * BLOCK]


def test_every_block_takes_a_scale_with_less_error_than_its_peak_gives() -> None:
    weight = heavy_tailed()
    grid = block_qparams(weight)
    blocks = weight.reshape(24, 3, BLOCK)
    peaks = as_bfloat16(np.abs(blocks).max(-1) / 7)
    plain = QParams(tuple(peaks.reshape(-1)), 0, "int4", block=BLOCK)
    errors = [np.square(own.rounded(weight) - weight).reshape(24, 3, BLOCK).sum(-1) for own in (grid, plain)]
    assert (errors[0] <= errors[1] + 1e-12).all()
    assert errors[0].sum() < 0.9 * errors[1].sum()


def test_scales_are_numbers_that_float16_and_bfloat16_both_hold() -> None:
    for factor in (1e-9, 1e-3, 1.0, 100.0):
        scales = np.array(block_qparams(factor * heavy_tailed()).scale)
        assert (scales >= LEAST_SCALE).all()
        assert np.array_equal(scales.astype(np.float16).astype(np.float64), scales)
        assert np.array_equal(as_bfloat16(scales), scales)
    assert set(block_qparams(np.zeros((2, BLOCK))).scale) == {LEAST_SCALE}


def test_what_takes_blocks() -> None:
    assert takes_blocks(np.zeros((3, 2 * BLOCK)))
    assert not takes_blocks(np.zeros((3, BLOCK + 8)))
    assert not takes_blocks(np.zeros((3, BLOCK, 1, BLOCK)))


def single(weight: npt.NDArray[np.float64]) -> Graph:
    builder = Builder((1, 4, 4, weight.shape[1]))
    output = builder.linear(builder.input, weight, np.linspace(-1, 1, len(weight)), "logits")
    return builder.graph(output)


def test_litert_multiplies_the_integers_of_the_grid(tmp_path: Path) -> None:
    weight = heavy_tailed(40, 160)
    graph = single(weight)
    made = quantise_graph(graph, {"logits": "blocks"}, {}, Ranges())
    path = tmp_path / "one.tflite"
    path.write_bytes(tflite_bytes(made))
    assert find_partitions(path).whole
    # an input that is a multiple of its own step is rounded to itself, so that weights alone are rounded
    steps = np.random.default_rng(1).integers(-127, 128, (1, 4, 4, 160)).astype(np.float32)
    steps[..., 0], steps[..., 1] = -128, 127
    x = steps / 64
    wanted = x.astype(np.float64) @ made.qparams["logits.weight"].rounded(weight).T + np.linspace(-1, 1, 40)
    found = open_engine(path).run(x)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert np.abs(found - (x @ weight.T + np.linspace(-1, 1, 40))).max() > 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("recipe", recipes_for("int4"), ids=lambda own: own.name)
def test_a_model_in_blocks_is_one_partition_and_smaller(tmp_path: Path, recipe: Recipe) -> None:
    model, images = small_model(WIDE), np.random.default_rng(0).standard_normal((4, 32, 32, 3), dtype=np.float32)
    for name, own in (("four", recipe), ("eight", DYNAMIC)):
        write_int8(model, tmp_path / f"{name}.tflite", images, own)
    write_tflite(model, tmp_path / "float.tflite")
    four = inspect_file(tmp_path / "four.tflite", time=False)
    assert four.partitions.whole
    sizes = {row.dtype: row.size_bytes for row in four.contents.sizes if row.kind == "weights"}
    eight = {
        row.dtype: row.size_bytes
        for row in inspect_file(tmp_path / "eight.tflite", time=False).contents.sizes
        if row.kind == "weights"
    }
    assert sizes["int8"] + 2 * sizes["int4"] == eight["int8"]
    graph = vit_graph(model)
    made = quantise_graph(graph, modes_of(graph, BLOCKS), {}, BLOCKS.ranges)
    assert weights_left_int8(made) == LEFT
    assert sizes["int8"] == sum(made.constants[name].size for name in LEFT)
    assert weights_left_int8(quantise_graph(graph, modes_of(graph, DYNAMIC), {}, DYNAMIC.ranges)) == ()
    errors = compare_operators(tmp_path / "four.tflite", tmp_path / "float.tflite")
    assert errors.only_here == ()
    assert errors.sqnr_db is not None
    assert errors.sqnr_db > 12


def test_the_simulation_computes_what_the_file_computes(tmp_path: Path) -> None:
    model, images = small_model(WIDE), np.random.default_rng(0).standard_normal((4, 32, 32, 3), dtype=np.float32)
    graph = vit_graph(model)
    made = quantise_graph(graph, modes_of(graph, BLOCKS), {}, BLOCKS.ranges)
    (tmp_path / "four.tflite").write_bytes(tflite_bytes(made))
    engine = open_engine(tmp_path / "four.tflite")
    found = np.concatenate([engine.run(image[None]) for image in images])
    float_logits, simulated = (simulate(own, images) for own in (graph, made))
    # the file rounds the inputs of Linears too, which is far finer than weights of 4 bits
    assert np.square(found - simulated).sum() < 0.05 * np.square(simulated - float_logits).sum()


def test_constants_on_the_grid_keep_their_integers() -> None:
    graph = single(heavy_tailed())
    made = quantise_graph(graph, {"logits": "blocks"}, {}, Ranges())
    grid = made.qparams["logits.weight"]
    other = grid.rounded(heavy_tailed()[::-1].copy())  # any integers that a pass may choose
    stored = grid.stored(other)
    assert np.array_equal(grid.stored(grid.rounded(stored * grid.scales_of(stored.shape))), stored)
    passed = replace(made, constants={**made.constants, "logits.weight": stored * grid.scales_of(stored.shape)})
    assert tflite_bytes(passed) != tflite_bytes(made)


def correlated() -> npt.NDArray[np.float64]:
    return np.random.default_rng(2).normal(size=(400, 96)) @ np.random.default_rng(3).normal(size=(96, 96))


def test_compensation_never_makes_a_block_row_worse_and_stays_on_the_grid() -> None:
    x, weight = correlated(), heavy_tailed()
    grid, own = block_qparams(weight), Compensator(torch.from_numpy(x.T @ x / len(x)))
    scales = grid.scales_of(weight.shape)
    integers = own.rounded(weight, scales, grid.limits[1], grid.limits[0])
    assert np.array_equal(grid.stored(integers * scales), integers)
    compensated, plain = (
        np.square(x @ (value - weight).T).mean(0) for value in (integers * scales, grid.rounded(weight))
    )
    assert (compensated <= plain * (1 + 1e-9)).all()
    assert compensated.sum() < 0.7 * plain.sum()
    rounded, fitted = round_blocks(weight, grid, own)
    again = np.square(x @ (rounded - weight).T).mean(0)
    assert (again <= compensated * (1 + 1e-9)).all()
    assert again.sum() < 0.98 * compensated.sum()
    np.testing.assert_allclose(fitted.rounded(rounded), rounded, rtol=1e-12, atol=1e-15)
    held = np.array(fitted.scale)
    assert np.array_equal(as_bfloat16(held), held)
    assert (held >= LEAST_SCALE).all()


def test_scales_are_fitted_to_integers_by_least_squares() -> None:
    x, weight = correlated(), heavy_tailed()
    hessian, true = x.T @ x / len(x), as_bfloat16(np.random.default_rng(4).uniform(0.01, 0.015, (24, 3)))
    integers = np.random.default_rng(5).integers(-8, 8, weight.shape)
    exact = integers * np.repeat(true, BLOCK, axis=1)
    assert np.array_equal(fitted_scales(exact, integers, hessian, as_bfloat16(true * 1.2)), true)


def test_the_file_of_a_recipe_holds_compensated_integers(tmp_path: Path) -> None:
    model, images = small_model(WIDE), np.random.default_rng(0).standard_normal((4, 32, 32, 3), dtype=np.float32)
    with torch.no_grad():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    builder = CandidateBuilder(Subject(model, images, images, logits, None), tmp_path, tflite_form())
    graph = builder.quantised(BLOCKS)
    weight = "blocks.0.mlp.fc1.weight"
    grid, own = graph.qparams[weight], graph.constants[weight]
    assert grid.block == BLOCK
    np.testing.assert_allclose(grid.rounded(own), own, rtol=1e-12, atol=1e-15)
    plain = builder.quantised(replace(BLOCKS, passes=()))
    assert not np.array_equal(grid.stored(plain.constants[weight]), grid.stored(own))


def test_an_exported_file_lists_what_stays_int8(tmp_path: Path, digits: Dataset, sliced: SlicedViT) -> None:
    settings = ExportSettings(kinds=("int4",), calibration_images=4, verify_images=20)
    (artifact,) = export_model(sliced, task_for(digits, trained=False), digits, tmp_path, "tiny", settings)
    assert (artifact.file, artifact.precision) == ("tiny.int4.tflite", "int4")
    assert artifact.recipe in [recipe.name for recipe in recipes_for("int4")]
    found = inspect_file(tmp_path / artifact.file, time=False)
    left = {row.dtype: row.tensors for row in found.contents.sizes if row.kind == "weights"}
    assert left["int8"] == len(artifact.int8_weights)
    assert "patch_embed.weight" not in artifact.int8_weights  # 64 pixels a patch
    assert read_artifact(tmp_path / artifact.file) == artifact
