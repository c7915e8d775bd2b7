"""The graph made of integers, its simulation against the engine, and the correction of biases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.model.vit import SlicedViT, build
from export.compare import compare_logits, real_logits
from export.formats.tflite import write_int8
from export.graph.build import vit_graph
from export.graph.ir import Graph
from export.quantise.calibrate import observe
from export.quantise.candidates import Subject
from export.quantise.equalise import equalising_scales
from export.quantise.integer import quantise_graph
from export.quantise.processors import ordered_recipes
from export.quantise.recipes import DYNAMIC, STATIC, STATIC_ATTENTION, Recipe, modes_of, recipes_for
from export.quantise.simulate import correct_biases, simulate
from export.writers.tflite import tflite_bytes
from runtime import open_engine

ALL = (*ordered_recipes("x86", "int8"), *recipes_for("int8-full"))


def test_what_counts_in_integers(trained: SlicedViT, subject: Subject) -> None:
    graph = vit_graph(trained)
    seen = observe(graph, subject.calibration)

    def made(recipe: Recipe) -> Graph:
        return quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges)

    dynamic = made(DYNAMIC)
    assert set(dynamic.qparams) == {
        op.inputs[1]
        for op in graph.ops
        if op.kind == "fully_connected" or (op.kind == "batch_matmul" and op.inputs[1] in graph.constants)
    }
    assert [op.kind for op in dynamic.ops] == [op.kind for op in graph.ops]
    mixed = made(STATIC_ATTENTION)
    assert mixed.input not in mixed.qparams
    assert mixed.output not in mixed.qparams
    assert "blocks.0.attn.scores" in mixed.qparams
    assert "blocks.0.attn.softmax" not in mixed.qparams
    for op in mixed.ops:
        if op.kind == "batch_matmul" and op.inputs[1] in mixed.qparams and op.inputs[1] not in mixed.constants:
            assert mixed.qparams[op.inputs[1]].zero_point == 0
    full = made(recipes_for("int8-full")[0])
    assert all(name in full.qparams for name in full.shapes)
    assert not any(op.kind in ("quantize", "dequantize") for op in full.ops)
    assert full.qparams["blocks.0.mlp.fc1.bias"].dtype == "int32"
    # epsilon is far less than a step of any variance; positions are not
    assert not any(op.output.endswith("variance_eps") for op in full.ops)
    assert any(op.output == "patches.placed" for op in full.ops)
    partly = made(replace(STATIC, float_layers=("blocks.1.mlp.fc1",)))
    assert "blocks.1.mlp.fc1.weight" not in partly.qparams
    assert "blocks.0.mlp.fc1.weight" in partly.qparams


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_the_simulation_is_what_the_engine_computes(
    recipe: Recipe, trained: SlicedViT, subject: Subject, tmp_path: Path
) -> None:
    plain = vit_graph(trained)
    scales = equalising_scales(trained.plan, plain, observe(plain, subject.calibration))
    graph = vit_graph(trained, scales=scales) if recipe.equalised else plain
    seen = observe(graph, subject.calibration)
    made = quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges)
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite_bytes(made))
    found, wanted = real_logits(path, subject.images), simulate(made, subject.images)
    float_parity = compare_logits(found, subject.logits, subject.labels)
    own_parity = compare_logits(found, wanted, None, "none")
    assert own_parity.sqnr_db is not None
    assert float_parity.sqnr_db is not None
    assert own_parity.sqnr_db > 25
    assert own_parity.sqnr_db > float_parity.sqnr_db
    assert float_parity.top1_agreement >= 0.95


@pytest.mark.slow
def test_positions_too_small_to_matter_still_bring_patches_to_the_grid_of_all_tokens(
    trained: SlicedViT, subject: Subject, tmp_path: Path
) -> None:
    weights = {name: value.clone() for name, value in trained.state_dict().items()}
    weights["pos_embed"] *= 1e-3
    # it reaches further than any patch, so that the grids differ
    weights["cls_token"] += torch.linspace(-50, 50, weights["cls_token"].shape[-1])
    model = build(trained.plan, weights)
    write_int8(model, tmp_path / "small.tflite", subject.calibration, recipes_for("int8-full")[0])
    assert np.isfinite(real_logits(tmp_path / "small.tflite", subject.images)).all()


def test_int16_activations_between_int8_weights(trained: SlicedViT, subject: Subject, tmp_path: Path) -> None:
    graph, path = vit_graph(trained), tmp_path / "m.tflite"
    seen = observe(graph, subject.calibration)
    recipe = recipes_for("int8-full-16x8")[0]
    made = quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges)
    assert {grid.dtype for name, grid in made.qparams.items() if not name.endswith((".weight", ".bias"))} == {"int16"}
    assert made.qparams["blocks.0.mlp.fc1.weight"].dtype == "int8"
    path.write_bytes(tflite_bytes(made))
    engine = open_engine(path)
    assert engine.input_dtype == np.int16
    parity = compare_logits(real_logits(path, subject.images[:60]), subject.logits[:60], None, "")
    assert parity.top1_agreement >= 0.95


def test_int16_where_int8_loses_most(trained: SlicedViT, subject: Subject, tmp_path: Path) -> None:
    graph, path = vit_graph(trained), tmp_path / "m.tflite"
    seen = observe(graph, subject.calibration)
    (mixed,), full = recipes_for("int8-full-mixed"), recipes_for("int8-full")[0]
    made, plain = (quantise_graph(graph, modes_of(graph, own), seen, own.ranges) for own in (mixed, full))
    assert set(made.shapes) == set(made.qparams)
    kinds = {op.kind for op in made.ops}
    assert "quantize" in kinds
    assert "dequantize" not in kinds
    wide = {op.output for op in made.ops if op.kind != "quantize" and made.qparams[op.output].dtype == "int16"}
    for index in range(3):
        at = f"blocks.{index}"
        norms = {f"{at}.{norm}.{part}" for norm in ("norm1", "norm2") for part in ("square", "variance", "normed")}
        parts = ("attn.softmax", "attn.proj", "attn.proj.stream", "mlp.fc1", "mlp.act", "mlp.fc2", "mlp.fc2.stream")
        assert norms | {f"{at}.{part}" for part in parts} < wide
        assert not {f"{at}.attn.{part}" for part in ("q", "k", "v", "scores")} & wide
    for op in made.ops:
        types = {made.qparams[name].dtype for name in (*op.inputs[:1], op.output)}
        assert len(types) == 1 or op.kind == "quantize"
    assert made.qparams["blocks.0.attn.q.bias"].dtype == "int32"
    assert made.qparams["blocks.0.mlp.fc2.bias"].dtype == "int64"
    # every conversion is made once, however many operators read it
    assert len({op.inputs for op in made.ops if op.kind == "quantize"}) == sum(op.kind == "quantize" for op in made.ops)
    reached = []
    for own in (made, plain):
        path.write_bytes(tflite_bytes(own))
        engine = open_engine(path)
        assert engine.input_dtype == engine.output_dtype == np.int8
        found = real_logits(path, subject.images)
        near = compare_logits(found, simulate(own, subject.images), None, "").sqnr_db
        assert near is not None
        assert near > 25
        reached.append(compare_logits(found, subject.logits, None, "").sqnr_db)
    assert reached[0] > reached[1] + 2


def test_corrected_biases_take_the_mean_error_away(trained: SlicedViT, subject: Subject) -> None:
    graph = vit_graph(trained)
    seen = observe(graph, subject.calibration)
    recipe = recipes_for("int8-full")[0]
    made = quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges)
    wanted = simulate(graph, subject.calibration)
    before, after = (
        np.abs((simulate(one, subject.calibration) - wanted).mean(axis=0)).mean()
        for one in (made, correct_biases(made, seen, subject.calibration))
    )
    assert after < before
