from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from compress.model.vit import SlicedViT
from export.graph.build import vit_graph
from export.graph.execute import run_graph
from export.graph.ir import Graph
from export.graph.norms import find_norms
from export.graph.rewrites import ALL_REWRITES, NO_REWRITES, Rewrites
from export.graph.vit_parts import OUTPUTS
from export.quantise.calibrate import observe
from export.quantise.integer import quantise_graph
from export.quantise.recipes import Mode, Ranges
from export.writers.onnx import RMS_NORM_IS_ONE, onnx_bytes
from export.writers.onnx_opsets import OPSET, OPSETS
from runtime import BlockPlan, ShapePlan, open_engine
from tests.export.part_plans import NORM_WEIGHTS, PART_PLANS, draw_tables

VIT = ShapePlan((32, 32), (8, 8), 3, 10, 48, (BlockPlan(3, 16, 16, 96), BlockPlan(2, 8, 24, 64)), 0.25)
ARCHITECTURES = {
    "vit": VIT,
    "deit-distilled": replace(VIT, dist_token=True, in_chans=1),
    "dinov2-head": replace(VIT, pooling="token_and_avg", reg_tokens=2),
    "deit3": replace(VIT, layer_scale=True, pos_embed="patches", img_size=(16, 32), patch_size=(8, 16)),
    "registers": replace(
        VIT, class_token=False, reg_tokens=4, pooling="avg", norm="after_pool", pos_embed="patches", layer_scale=True
    ),
    "clip": replace(VIT, norm_pre=True, act="quick_gelu", patch_bias=False, norm_eps=1e-5),
    "average": replace(VIT, pooling="avg_all", act="gelu_tanh", qkv_bias=False, proj_bias=False),
    "no-norm": replace(VIT, pooling="avg", norm="none", act="silu", pos_embed="none"),
    "unit-vector": replace(VIT, output="unit_vector"),
    "grid": replace(VIT, output="grid", pooling="avg"),
    "grid-of-two-blocks": replace(VIT, output="grid", pooling="avg", grid_blocks=(1,), reg_tokens=2),
    "one-patch-across": replace(VIT, act="relu", patch_size=(8, 32), pooling="avg_all", norm="after_pool"),
}
EVERY = {**ARCHITECTURES, **PART_PLANS}
"""Those of plain Vision Transformers, and tiny ones with every other part."""
REWRITES = {
    "all": ALL_REWRITES,
    "none": NO_REWRITES,
    "no-patch-rows": ALL_REWRITES.without("patch_rows"),
    "no-flat": ALL_REWRITES.without("flat"),
    "no-centre": ALL_REWRITES.without("centre"),
    "no-fold-norm": ALL_REWRITES.without("fold_norm"),
    "whole-last-block": ALL_REWRITES.without("pooled_only"),
}


def model_of(plan: ShapePlan, seed: int = 0) -> SlicedViT:
    """A model whose every weight, norms and biases included, is random and matters."""
    generator = torch.Generator().manual_seed(seed)
    model = SlicedViT(plan).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.3 if weight.ndim < 2 else weight[0].numel() ** -0.5
            centre = 1.0 if name.endswith(NORM_WEIGHTS) else 0.0
            weight.copy_(centre + spread * torch.randn(weight.shape, generator=generator))
    draw_tables(model, generator)
    return model


def images_for(plan: ShapePlan, count: int = 3) -> torch.Tensor:
    return torch.randn((count, plan.in_chans, *plan.img_size), generator=torch.Generator().manual_seed(1))


def written(content: bytes, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return path


def error(path: Path, images: torch.Tensor, wanted: npt.NDArray[np.float32]) -> float:
    """Greatest difference from the wanted logits, relative to the greatest of them."""
    got = open_engine(path).run(images.numpy())
    assert got.shape == wanted.shape
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def logits(model: SlicedViT, images: torch.Tensor) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        values: npt.NDArray[np.float32] = model(images).numpy()
    return values


def integer_graph(plan: ShapePlan, how: dict[str, Mode], rewrites: Rewrites = ALL_REWRITES) -> Graph:
    """A graph in which every operator of a kind in ``how`` counts as it says."""
    graph = vit_graph(model_of(plan), rewrites)
    seen = observe(graph, images_for(plan, 16).permute(0, 2, 3, 1).numpy())
    modes: dict[str, Mode] = {op.output: how[op.kind] for op in graph.ops if op.kind in how}
    return quantise_graph(graph, modes, seen, Ranges("minmax"))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("rewrites", REWRITES)
@pytest.mark.parametrize("opset", [OPSET, OPSETS[-1]])
def test_the_file_computes_what_the_model_computes(name: str, rewrites: str, opset: int, tmp_path: Path) -> None:
    model = model_of(EVERY[name])
    path = written(onnx_bytes(vit_graph(model, REWRITES[rewrites]), opset=opset), tmp_path)
    engine = open_engine(path)
    plan = model.plan
    assert (engine.input_name, engine.input_shape) == ("image", (-1, plan.in_chans, *plan.img_size))
    assert (engine.output_name, engine.output_shape) == (OUTPUTS[plan.output], (-1, *plan.output_shape))
    for count in (1, 3):
        images = images_for(plan, count)
        assert error(path, images, logits(model, images)) <= 1e-5


@pytest.mark.parametrize("rewrites", ["all", "none", "no-centre", "no-fold-norm"])
@pytest.mark.parametrize("name", EVERY)
def test_every_norm_is_one_operator(name: str, rewrites: str) -> None:
    plan = EVERY[name]
    # LayerNorms in any case
    own = (plan.attn_pool is not None) + len(plan.blocks) * plan.double_norm
    own += sum(op.kind == "layer_norm" for op in plan.stem)
    norms = 2 * len(plan.blocks) + (plan.norm != "none") + plan.norm_pre + own
    unit = plan.output == "unit_vector" or plan.text_dim > 0  # its norm takes no mean, whatever is folded
    norms += len(plan.grid_blocks) + unit
    groups = sum(op.kind == "group_norm" for op in plan.stem)
    graph = vit_graph(model_of(plan), REWRITES[rewrites])
    found = find_norms(graph).values()
    assert len(found) == norms
    nodes = [node.op_type for node in onnx.load_from_string(onnx_bytes(graph, opset=RMS_NORM_IS_ONE)).graph.node]
    assert nodes.count("RMSNormalization") + nodes.count("LayerNormalization") == norms
    assert nodes.count("Reciprocal") == groups
    before = [node.op_type for node in onnx.load_from_string(onnx_bytes(graph, opset=RMS_NORM_IS_ONE - 1)).graph.node]
    assert "RMSNormalization" not in before
    assert before.count("LayerNormalization") == (
        own
        if rewrites in ("all", "no-fold-norm") and plan.norm != "none" and plan.block_kind != "post"
        else norms - unit
    )


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", ["vit", "average", "deit3"])
def test_a_file_declares_the_operators_it_needs_and_the_least_format(name: str, opset: int, tmp_path: Path) -> None:
    model = model_of(EVERY[name])
    for content in (
        onnx_bytes(vit_graph(model), opset=opset),
        onnx_bytes(integer_graph(model.plan, {"fully_connected": "integer"}), opset=opset),
    ):
        path = written(content, tmp_path)
        file = onnx.load(path)
        assert [(own.domain, own.version) for own in file.opset_import] == [("", opset)]
        # the versions of the format that ONNX Runtime 1.12, 1.16, 1.18 and 1.23 are the first to read
        assert file.ir_version == {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}[opset]
        # every operator is there in this version, in the form that is written
        used = {node.op_type for node in file.graph.node}
        assert all(onnx.defs.has(kind, opset) for kind in used)
    path = written(onnx_bytes(vit_graph(model), opset=opset), tmp_path)
    assert error(path, images_for(model.plan), logits(model, images_for(model.plan))) <= 1e-5


def test_by_default_files_are_written_for_the_oldest_engines() -> None:
    file = onnx.load_from_string(onnx_bytes(vit_graph(model_of(VIT))))
    assert OPSET == OPSETS[0] == file.opset_import[0].version == 17


@pytest.mark.parametrize("rewrites", ["no-centre", "no-flat"])
@pytest.mark.parametrize("kinds", [("fully_connected",), ()])
def test_rows_stay_a_matrix_between_linears(kinds: tuple[str, ...], rewrites: str) -> None:
    modes: dict[str, Mode] = dict.fromkeys(kinds, "integer")
    plan = replace(VIT, blocks=(VIT.blocks[0],) * 3)
    graph = integer_graph(plan, modes, REWRITES[rewrites])
    nodes = onnx.load_from_string(onnx_bytes(graph, opset=RMS_NORM_IS_ONE)).graph.node
    own = [node.name for node in nodes if node.op_type == "Reshape" and node.name.startswith("blocks.1.attn")]
    # query, key and value to heads, and back
    assert len(own) == 4
    assert not [node for node in nodes if node.op_type == "Reshape" and node.name.startswith("blocks.1.mlp.fc1")]


def test_a_norm_that_something_else_looks_into_stays_apart() -> None:
    graph = vit_graph(model_of(VIT))
    norm = find_norms(graph)["blocks.0.norm1.normed"]
    spy = replace(graph.ops[-1], kind="relu", inputs=("blocks.0.norm1.variance",), output="spy", options={})
    assert norm.inside
    assert "blocks.0.norm1.normed" not in find_norms(replace(graph, ops=(*graph.ops, spy)))


def test_weights_keep_their_names_and_are_stored_inputs_first() -> None:
    graph = vit_graph(model_of(VIT))
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(onnx_bytes(graph)).graph.initializer}
    for name in ("patch_embed.weight", "blocks.0.attn.q.weight", "blocks.1.mlp.fc2.weight", "logits.weight"):
        assert np.array_equal(arrays[name], graph.constants[name].T.astype(np.float32))


def test_writing_is_deterministic_and_tells_nothing_of_where_it_was_done() -> None:
    content = onnx_bytes(vit_graph(model_of(VIT)))
    assert content == onnx_bytes(vit_graph(model_of(VIT)))
    model = onnx.load_from_string(content)
    assert model.producer_version == model.doc_string == model.domain == ""
    assert not model.metadata_props
    assert not any(node.doc_string or node.metadata_props or node.domain for node in model.graph.node)
    assert str(Path.cwd()).encode() not in content


def test_half_precision_weights_halve_the_file(tmp_path: Path) -> None:
    plan = replace(VIT, embed_dim=96, blocks=(BlockPlan(3, 32, 32, 384),) * 2)
    model, images = model_of(plan), images_for(plan)
    graph = vit_graph(model)
    path = written(onnx_bytes(graph, half=True), tmp_path)
    assert path.stat().st_size < 0.6 * len(onnx_bytes(graph))
    assert 1e-7 < error(path, images, logits(model, images)) <= 5e-3


@pytest.mark.parametrize("rewrites", ["all", "none", "no-patch-rows"])
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("mode", ["dynamic", "integer"])
def test_integer_linears_come_close(name: str, mode: Mode, rewrites: str, tmp_path: Path) -> None:
    plan, images = EVERY[name], images_for(EVERY[name])
    graph = integer_graph(plan, {"fully_connected": mode}, REWRITES[rewrites])
    path = written(onnx_bytes(graph), tmp_path)
    assert 1e-5 < error(path, images, logits(model_of(plan), images)) <= 0.12
    initializers = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    assert initializers["blocks.0.mlp.fc1.weight"].data_type == onnx.TensorProto.INT8


@pytest.mark.parametrize(
    "kinds",
    [
        ("fully_connected", "batch_matmul"),
        ("fully_connected", "add", "concatenation"),
        ("fully_connected", "batch_matmul", "softmax", "gelu", "add", "mul", "concatenation"),
        ("conv_2d",),
    ],
)
@pytest.mark.parametrize("rewrites", ["all", "none"])
def test_other_operators_can_be_integers_too(kinds: tuple[str, ...], rewrites: str, tmp_path: Path) -> None:
    graph = integer_graph(VIT, dict.fromkeys(kinds, "integer"), REWRITES[rewrites])
    images = images_for(VIT)

    def rounded(name: str, value: torch.Tensor) -> torch.Tensor:
        grid = graph.qparams.get(name)
        return value if grid is None else torch.from_numpy(grid.rounded(value.numpy()))

    constants = {
        name: torch.from_numpy(graph.qparams[name].rounded(value) if name in graph.qparams else np.asarray(value))
        for name, value in graph.constants.items()
    }
    wanted = run_graph(graph, images.permute(0, 2, 3, 1).double(), rounded, constants).numpy().astype(np.float32)
    path = written(onnx_bytes(graph), tmp_path)
    assert error(path, images, wanted) <= 0.1


def test_products_with_constants_can_be_dynamic(tmp_path: Path) -> None:
    graph, images = vit_graph(model_of(VIT)), images_for(VIT)
    products = [op.output for op in graph.ops if op.kind == "batch_matmul" and op.inputs[1] in graph.constants]
    assert len(products) == 2
    modes: dict[str, Mode] = dict.fromkeys(products, "dynamic")
    path = written(onnx_bytes(quantise_graph(graph, modes, {}, Ranges())), tmp_path)
    assert 1e-5 < error(path, images, logits(model_of(VIT), images)) <= 0.03
    assert [node.op_type for node in onnx.load(path).graph.node].count("MatMulInteger") == 2


def test_a_static_file_takes_and_gives_floats_even_where_the_graph_has_integers_outside(tmp_path: Path) -> None:
    graph, images = vit_graph(model_of(VIT)), images_for(VIT, 16)
    seen = observe(graph, images.permute(0, 2, 3, 1).numpy())
    modes: dict[str, Mode] = {op.output: "integer" for op in graph.ops if op.kind == "fully_connected"}
    path = written(onnx_bytes(quantise_graph(graph, modes, seen, Ranges("minmax", outside=True))), tmp_path)
    assert error(path, images, logits(model_of(VIT), images)) <= 0.12


def test_activations_are_unsigned_and_second_operands_of_products_signed() -> None:
    graph = integer_graph(VIT, {"fully_connected": "integer", "batch_matmul": "integer"})
    types = {t.name: t.data_type for t in onnx.load_from_string(onnx_bytes(graph)).graph.initializer}
    zeros = {name.removesuffix(".zero_point"): kind for name, kind in types.items() if name.endswith(".zero_point")}
    assert zeros["blocks.0.attn.k"] == zeros["blocks.0.attn.v"] == onnx.TensorProto.INT8
    assert zeros["blocks.0.attn.q"] == onnx.TensorProto.UINT8
    assert onnx.TensorProto.UINT8 in zeros.values()


def test_nothing_is_rounded_only_to_be_made_float_again() -> None:
    graph = integer_graph(VIT, {"fully_connected": "integer"})
    assert "blocks.0.mlp.fc1" in graph.qparams
    nodes = onnx.load_from_string(onnx_bytes(graph)).graph.node
    rounded = [node for node in nodes if node.op_type == "QuantizeLinear"]
    linears = [op for op in graph.ops if op.kind == "fully_connected"]
    assert 0 < len(rounded) <= len({op.inputs[0] for op in linears}) + 1


def test_engines_join_each_form_into_one_kernel(tmp_path: Path) -> None:
    import onnxruntime

    for mode, kernels in (("dynamic", {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}), ("integer", {"QGemm"})):
        graph = integer_graph(VIT, {"fully_connected": mode})  # type: ignore[dict-item]
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(onnx_bytes(graph), options, providers=["CPUExecutionProvider"])
        nodes = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
        assert sum(nodes.count(kind) for kind in kernels) == sum(op.kind == "fully_connected" for op in graph.ops)
        assert "MatMulInteger" not in nodes
        assert "DequantizeLinear" not in nodes
