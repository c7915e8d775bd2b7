"""Files for NPU compilers: static int8 throughout, in the limits that compilers state, with int8 or uint8 outside."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.bases.rotation import rotated_model
from compress.model.vit import SlicedViT
from export.formats import DEFAULT_KINDS, KINDS, kinds_for
from export.formats.npu_limits import npu_breaches
from export.formats.static_int8 import static_bytes, static_form, static_rewrites, with_io_type
from export.graph.build import vit_graph
from export.graph.execute import run_graph
from export.graph.ir import LINEAR, Graph, Op, QParams
from export.quantise.calibrate import TensorStats, observe
from export.quantise.dither import last_row, shifts_of, with_row_copies
from export.quantise.integer import quantise_graph
from export.quantise.recipes import MIXED, STATIC_ATTENTION, Recipe, modes_of, recipes_for
from export.settings import ExportSettings
from runtime import BlockPlan, DataError, ShapePlan, UnsupportedTargetError, open_engine
from runtime.processors import cpu_families, host_processor
from tests.export.graph.test_build import ARCHITECTURES, images_for, model_of

RECIPE = next(recipe for recipe in recipes_for("static-int8") if recipe.rotated)


@cache
def graph_of(name: str, recipe: Recipe = RECIPE, *, one_query: bool = False) -> Graph:
    model = model_of(ARCHITECTURES[name])
    rewrites = replace(static_rewrites(model), one_query=one_query)
    graph = vit_graph(rotated_model(model, layer_norms=False), rewrites)
    seen = observe(graph, images_for(ARCHITECTURES[name], 4).numpy())
    return quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges)


@pytest.mark.parametrize("io_type", ["int8", "uint8"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_keeps_the_limits(name: str, io_type: str) -> None:
    graph = with_io_type(graph_of(name), io_type)  # type: ignore[arg-type]
    assert npu_breaches(graph) == ()
    assert {graph.qparams[end].dtype for end in (graph.input, graph.output)} == {io_type}
    for op in graph.ops:
        if op.kind in LINEAR:
            assert len(graph.qparams[op.inputs[1]].scale) == graph.shapes[op.inputs[1]][0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_copies_of_the_last_row_keep_the_limits(name: str) -> None:
    graph = graph_of(name)
    if part := last_row(graph):
        assert npu_breaches(with_row_copies(graph, part, shifts_of(8, graph, part))) == ()


def test_vit_l_at_518_pixels_keeps_the_limits() -> None:
    plan = ShapePlan((518, 518), (14, 14), 3, 1000, 1024, (BlockPlan(16, 64, 64, 4096),), 0.125)
    model = SlicedViT(plan).eval()
    graph = vit_graph(model, static_rewrites(model))
    made_up = TensorStats(-4.0, 4.0, np.ones(1), np.zeros(1), np.zeros(1, np.float32))
    ranges = replace(RECIPE.ranges, method="minmax")
    quantised = quantise_graph(graph, modes_of(graph, RECIPE), dict.fromkeys(graph.shapes, made_up), ranges)
    assert npu_breaches(quantised) == ()


def test_the_rewrite_that_is_left_out_is_exact() -> None:
    model, images = model_of(ARCHITECTURES["vit"]).double(), images_for(ARCHITECTURES["vit"]).double()
    with torch.no_grad():
        wanted, got = model(images.permute(0, 3, 1, 2)), run_graph(vit_graph(model, static_rewrites(model)), images)
    assert float((got - wanted).abs().max()) <= 1e-12 * float(wanted.abs().max())


def test_uint8_outside_changes_no_answer(tmp_path: Path) -> None:
    images = images_for(ARCHITECTURES["vit"], 5).numpy()
    answers = {}
    for io_type in ("int8", "uint8"):
        path = tmp_path / f"{io_type}.tflite"
        path.write_bytes(static_bytes(graph_of("vit"), io_type))  # type: ignore[arg-type]
        engine = open_engine(path)
        assert engine.input_dtype == engine.output_dtype == io_type
        assert engine.input_qparams is not None
        assert engine.output_qparams is not None
        (scale, zero), (step, middle) = engine.input_qparams, engine.output_qparams
        limits = np.iinfo(io_type)
        raw = np.clip(np.rint(images / scale) + zero, limits.min, limits.max).astype(io_type)
        answers[io_type] = np.stack([(engine.run(one[None]).astype(np.float64) - middle) * step for one in raw])
    assert np.ptp(answers["int8"]) > 0
    np.testing.assert_array_equal(answers["uint8"], answers["int8"])


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (lambda: graph_of("vit", one_query=True), "blocks.1.attn.k is a product of attention with weights"),
        (lambda: graph_of("vit", STATIC_ATTENTION), "is not an integer"),
        (lambda: graph_of("vit", STATIC_ATTENTION), "is a dequantize"),
        (lambda: graph_of("vit", MIXED), "is int16 and not int8"),
        (lambda: with_weights(100_000), "has 100000 inputs and 2 outputs, more than 65536"),
        (lambda: with_weights(65_536 + 1), "has 65537 inputs and 2 outputs"),
        (lambda: one_op("softmax", (1, 12, 5462, 9)), "the softmax out has 65536 rows or more"),
        (lambda: one_op("mean", (1, 4096, 8), axis=(-2,)), "out is a mean of 4096 values, more than 4095"),
        (lambda: one_op("mean", (2, 9, 8), axis=(-2,)), "out is a mean of 2 images"),
        (lambda: one_op("transpose", (2, 2, 300, 300), perm=(0, 2, 1, 3)), "two sides with together 90000 values"),
        (lambda: one_op("transpose", (1, 9, 70_000, 2), perm=(0, 2, 1, 3)), "out transposes a side of 70000 values"),
        (lambda: one_op("gelu", (1, 1, 2, 3, 4)), "x has 5 dimensions, more than 4"),
    ],
)
def test_every_limit_is_checked(graph: object, said: str) -> None:
    assert any(said in text for text in npu_breaches(graph())), npu_breaches(graph())  # type: ignore[operator]


def one_op(kind: str, shape: tuple[int, ...], **options: object) -> Graph:
    grid = QParams((0.1,))
    shapes, grids = dict.fromkeys(("x", "out"), shape), dict.fromkeys(("x", "out"), grid)
    return Graph("x", "out", (Op(kind, ("x",), "out", options),), {}, shapes, grids)


def with_weights(inputs: int) -> Graph:
    """One Linear of two outputs."""
    grids = {"x": QParams((0.1,)), "w": QParams((0.1, 0.1), axis=0), "out": QParams((0.1,))}
    shapes = {"x": (1, inputs), "w": (2, inputs), "out": (1, 2)}
    return Graph("x", "out", (Op("fully_connected", ("x", "w"), "out"),), {"w": np.ones((2, inputs))}, shapes, grids)


def test_weights_with_one_scale_are_a_breach() -> None:
    graph = with_weights(8)
    assert npu_breaches(graph) == ()
    flat = replace(graph, qparams={**graph.qparams, "w": QParams((0.1,))})
    assert npu_breaches(flat) == ("the weights w have no scale of their own for each output",)


def test_a_graph_beyond_the_limits_is_not_written() -> None:
    with pytest.raises(UnsupportedTargetError, match="NPU compilers cannot take this model whole") as caught:
        static_form().write(graph_of("vit", MIXED))
    assert "int16 and not int8" in str(caught.value)
    assert "--formats int8-full" in str(caught.value)


def test_the_target_takes_the_place_of_the_usual_kinds_and_of_no_others() -> None:
    assert ExportSettings(made_for="static-int8").kinds == ("static-int8",)
    assert ExportSettings(kinds=("fp32", "static-int8"), made_for="static-int8").kinds == ("fp32", "static-int8")
    assert kinds_for("pi5", DEFAULT_KINDS) == DEFAULT_KINDS
    with pytest.raises(DataError, match="no recipe that is chosen by speed"):
        ExportSettings(kinds=("int8",), made_for="static-int8")
    with pytest.raises(DataError, match="no file that takes one"):
        ExportSettings(kinds=("int8-full",), io_type="uint8")
    assert KINDS["static-int8"].suffix == ".static-int8.tflite"


def test_it_is_no_family_of_processors() -> None:
    assert "static-int8" not in cpu_families()
    assert host_processor() in (*cpu_families(), "")
