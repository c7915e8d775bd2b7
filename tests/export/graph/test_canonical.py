"""Graphs and files of canonical models and of cut streams, with RMSNorms and an epsilon for each of them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compress.data.augment import Augmentation
from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.model.canonical import canonical
from compress.model.load import ModelSpec, load_model
from compress.model.slicing import KeptBlock, KeptUnits, slice_vit
from compress.model.vit import UNIT_EPS, SlicedViT, build
from export.compare import compare_logits, real_logits
from export.exporter import export_model
from export.formats.micro import micro_graph
from export.formats.micro import run_micro as run_micro_file
from export.formats.torch import write_torch
from export.graph.build import vit_graph
from export.graph.execute import run_graph
from export.graph.ir import Graph, QParams
from export.graph.norms import find_norms
from export.graph.rewrites import ALL_REWRITES, DEFAULT_REWRITES, NO_REWRITES, Scales
from export.inspect.widths import read_widths
from export.quantise.calibrate import observe
from export.quantise.equalise import equalising_scales
from export.quantise.integer import quantise_graph
from export.quantise.qat import QatRecipe, train_quantised
from export.quantise.recipes import DYNAMIC, STATIC_ATTENTION, Recipe, modes_of, recipes_for
from export.quantise.simulate import correct_biases, simulate
from export.settings import ExportSettings
from export.writers.onnx import RMS_NORM_IS_ONE, onnx_bytes
from export.writers.onnx_opsets import OPSET, OPSETS
from export.writers.tflite import tflite_bytes
from runtime import open_engine, read_artifact
from tests.export.conftest import SPEC, task_for, uneven
from tests.export.graph.test_build import ARCHITECTURES, SWITCHES, images_for, model_of

CANONICAL = [name for name, plan in ARCHITECTURES.items() if plan.norm != "none"]


def cut(model: SlicedViT) -> SlicedViT:
    """Cuts the stream and the first block, and gives every norm another epsilon, as lost energy does."""
    blocks = []
    for i, block in enumerate(model.plan.blocks):
        heads = tuple(range(block.num_heads - 1)) if i == 0 else tuple(range(block.num_heads))
        v = block.v_dim - 8
        blocks.append(KeptBlock(heads, (tuple(range(8)),) * len(heads), (tuple(range(v)),) * len(heads), (*range(40),)))
    small = slice_vit(model, KeptUnits(tuple(range(3, 43)), tuple(blocks)))
    values = tuple(1e-3 * (1 + place) for place in range(len(small.plan.norm_names)))
    return build(replace(small.plan, norm_eps=values), small.state_dict())


@cache
def case(name: str, form: str) -> SlicedViT:
    """Returns a canonical model, whole or cut; tests must not change it."""
    whole = canonical(model_of(ARCHITECTURES[name]))
    assert whole.plan.norm_type == ("layer" if name == "no-norm" else "rms")
    return whole if form == "whole" else cut(whole)


CASES = [(name, form) for name in CANONICAL for form in ("whole", "cut")]
of_every_case = pytest.mark.parametrize(("name", "form"), CASES, ids=["-".join(own) for own in CASES])


def wanted(model: SlicedViT, images: torch.Tensor) -> torch.Tensor:
    """Returns torch's own logits of images ``(B, H, W, C)``."""
    own = build(model.plan, model.state_dict(), images.dtype)
    with torch.no_grad():
        logits: torch.Tensor = own(images.permute(0, 3, 1, 2))
    return logits


def away(got: np.ndarray | torch.Tensor, logits: torch.Tensor) -> float:
    return float(np.abs(np.asarray(got) - logits.numpy()).max() / logits.abs().max())


@pytest.mark.parametrize("switch", ["all", "none", *SWITCHES])
@of_every_case
def test_every_rewrite_is_exact(name: str, form: str, switch: str) -> None:
    model = case(name, form)
    images = images_for(model.plan)
    rewrites = {"all": ALL_REWRITES, "none": NO_REWRITES}.get(switch) or ALL_REWRITES.without(switch)
    tries = [rewrites, *([replace(NO_REWRITES, **{switch: True})] if switch in SWITCHES else [])]
    for own in tries:
        graph = vit_graph(model, own)
        assert away(run_graph(graph, images.double()), wanted(model, images.double())) <= 1e-12
    assert away(run_graph(vit_graph(model, rewrites), images), wanted(model, images)) <= 1e-5


@pytest.mark.parametrize("switch", ["all", "flat", "pooled_only", "fold_bias", "patch_rows", "fold_embed"])
@of_every_case
def test_scales_change_nothing_in_real_numbers(name: str, form: str, switch: str) -> None:
    model, rng = case(name, form), np.random.default_rng(0)
    images = images_for(model.plan).double()
    scales = Scales(
        np.exp(rng.normal(size=model.plan.embed_dim)),
        tuple(np.exp(rng.normal(size=block.num_heads * block.qk_dim)) for block in model.plan.blocks),
        tuple(np.exp(rng.normal(size=block.num_heads * block.v_dim)) for block in model.plan.blocks),
    )
    rewrites = ALL_REWRITES if switch == "all" else ALL_REWRITES.without(switch)
    graph = vit_graph(model, rewrites, scales)
    assert away(run_graph(graph, images), wanted(model, images)) <= 1e-11
    writer = "pre.weight" if model.plan.pre_dim else "patch_embed.weight"
    assert not np.allclose(vit_graph(model, rewrites).constants[writer], graph.constants[writer])


@of_every_case
def test_no_norm_of_a_stream_subtracts_a_mean(name: str, form: str) -> None:
    plan = case(name, form).plan
    for rewrites in (ALL_REWRITES, NO_REWRITES):
        norms = find_norms(vit_graph(case(name, form), rewrites)).values()
        lengths = [UNIT_EPS] if plan.output == "unit_vector" else []  # scaled to length 1, as by a norm
        assert len(norms) == len(plan.norm_names) + len(lengths)
        assert not [norm for norm in norms if norm.centred]
        shares = [plan.embed_dim / plan.norm_dim if plan.norm_dim else 1.0] * len(plan.norm_names)
        if plan.pre_dim:
            shares[0] = 1.0
        # over what a cut left, the mean of squares and the epsilon grow alike
        given = [plan.eps_of(norm) / share for norm, share in zip(plan.norm_names, shares, strict=True)]
        assert sorted(norm.eps for norm in norms) == pytest.approx(sorted(given + lengths))


@of_every_case
def test_a_tflite_file_computes_what_the_model_computes(name: str, form: str, tmp_path: Path) -> None:
    model = case(name, form)
    images = images_for(model.plan)
    for label, rewrites in (("default", DEFAULT_REWRITES), ("all", ALL_REWRITES), ("none", NO_REWRITES)):
        path = tmp_path / f"{label}.tflite"
        path.write_bytes(tflite_bytes(vit_graph(model, rewrites)))
        engine = open_engine(path)
        got = np.concatenate([engine.run(image[None]) for image in images.numpy()])
        assert away(got, wanted(model, images)) <= 1e-5
        assert read_widths(path, model.plan) == model.plan


@pytest.mark.parametrize("opset", [OPSET, OPSETS[-1]])
@of_every_case
def test_an_onnx_file_computes_what_the_model_computes(name: str, form: str, opset: int, tmp_path: Path) -> None:
    model, path = case(name, form), tmp_path / "model.onnx"
    images = images_for(model.plan)
    for rewrites in (ALL_REWRITES, NO_REWRITES, ALL_REWRITES.without("fold_norm"), ALL_REWRITES.without("flat")):
        path.write_bytes(onnx_bytes(vit_graph(model, rewrites), opset=opset))
        file = onnx.load(path)
        onnx.checker.check_model(file, full_check=True)
        kinds = [node.op_type for node in file.graph.node]
        norms = len(model.plan.norm_names) + (model.plan.output == "unit_vector")
        assert kinds.count("RMSNormalization") == (norms if opset >= RMS_NORM_IS_ONE else 0)
        assert "LayerNormalization" not in kinds
        got = open_engine(path).run(images.permute(0, 3, 1, 2).numpy())
        assert away(got, wanted(model, images)) <= 1e-5
        assert read_widths(path, model.plan) == model.plan


@pytest.mark.parametrize(("name", "form"), [("clip", "cut"), ("deit-distilled", "cut"), ("average", "whole")])
def test_a_torch_file_computes_what_the_model_computes(name: str, form: str, tmp_path: Path) -> None:
    model, path = case(name, form), tmp_path / "model.pt2"
    images = images_for(model.plan)
    write_torch(model, path)
    assert away(open_engine(path).run(images.permute(0, 3, 1, 2).numpy()), wanted(model, images)) <= 1e-5
    assert read_widths(path, model.plan) == model.plan


def test_a_model_that_keeps_its_layernorms_is_exported_too(tmp_path: Path) -> None:
    model, path = case("no-norm", "whole"), tmp_path / "model.tflite"
    images = images_for(model.plan)
    path.write_bytes(tflite_bytes(vit_graph(model)))
    engine = open_engine(path)
    got = np.concatenate([engine.run(image[None]) for image in images.numpy()])
    assert away(got, wanted(model, images)) <= 1e-5


# integers

INTEGERS = {"int8-dynamic": DYNAMIC, "int8": STATIC_ATTENTION, "int8-full": recipes_for("int8-full")[0]}
FLOORS_DB = {"int8-dynamic": 25.0, "int8": 25.0, "int8-full": 8.0}
"""Least ratio of logits to their error; random weights spread activations badly where all is integer."""


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize(("name", "form"), [("vit", "whole"), ("clip", "cut"), ("registers", "cut"), ("deit3", "cut")])
def test_integer_files_are_near_the_model_and_nearer_their_simulation(
    name: str, form: str, kind: str, tmp_path: Path
) -> None:
    model, recipe, path = case(name, form), INTEGERS[kind], tmp_path / "model.tflite"
    images = images_for(model.plan, 16).numpy()
    made = integers_of(model, recipe, images)
    path.write_bytes(tflite_bytes(made))
    got, logits = real_logits(path, images), wanted(model, torch.from_numpy(images)).numpy()
    to_model = compare_logits(got, logits, None, "").sqnr_db
    to_simulation = compare_logits(got, simulate(made, images), None, "").sqnr_db
    assert to_model is not None
    assert to_model > FLOORS_DB[kind]
    assert to_simulation is None or to_simulation > 20
    assert read_widths(path, model.plan) == model.plan


def integers_of(model: SlicedViT, recipe: Recipe, images: np.ndarray, rewrites=DEFAULT_REWRITES):  # type: ignore[no-untyped-def]
    """Returns a graph of integers as the exporter makes it: equalised where the recipe says, biases corrected."""
    graph = vit_graph(model, rewrites)
    scales = equalising_scales(model.plan, graph, observe(graph, images))
    graph = vit_graph(model, rewrites, scales if recipe.equalised else replace(scales, stream=None))
    seen = observe(graph, images)
    return correct_biases(quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges), seen, images)


@pytest.mark.parametrize(("name", "form"), [("vit", "whole"), ("clip", "cut"), ("deit-distilled", "cut")])
def test_an_integer_onnx_file_is_near_the_model(name: str, form: str, tmp_path: Path) -> None:
    model, path = case(name, form), tmp_path / "model.onnx"
    images = images_for(model.plan, 16)
    made = integers_of(model, DYNAMIC, images.numpy(), ALL_REWRITES)
    path.write_bytes(onnx_bytes(made))
    got = open_engine(path).run(images.permute(0, 3, 1, 2).numpy())
    parity = compare_logits(got, wanted(model, images).numpy(), None, "")
    assert parity.sqnr_db is not None
    assert parity.sqnr_db > 25
    assert read_widths(path, model.plan) == model.plan


@pytest.mark.parametrize("name", ["vit", "clip", "registers"])
def test_scales_make_the_channels_of_a_cut_stream_equally_large(name: str) -> None:
    model = case(name, "cut")
    images = images_for(model.plan, 16).numpy()
    rough = dict(model.state_dict())
    factor = torch.ones(model.plan.embed_dim)
    factor[:4] = 30.0
    # larger where they are written, so that the model is another one with outliers
    for key, axis in (
        ("pre.weight" if model.plan.pre_dim else "patch_embed.weight", 0),
        ("blocks.0.mlp.fc2.weight", 0),
    ):
        rough[key] = rough[key] * factor.view(-1, *(1,) * (rough[key].ndim - 1 - axis))
    model = build(model.plan, rough)
    graph = vit_graph(model)
    scales = equalising_scales(model.plan, graph, observe(graph, images))
    assert scales.stream is not None
    assert scales.stream[:4].min() > 3 * np.median(scales.stream)
    before, after = (
        observe(own, images)["blocks.0.mlp.fc2.stream"].channels for own in (graph, vit_graph(model, scales=scales))
    )
    assert after.max() / np.median(after) < 0.5 * before.max() / np.median(before)


@pytest.mark.skipif(importlib.util.find_spec("tflite_micro") is None, reason="tflite-micro is not installed")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), [("vit", "whole"), ("clip", "cut")])
def test_a_microcontroller_answers_as_litert_does(name: str, form: str, tmp_path: Path) -> None:
    model, path, recipe = case(name, form), tmp_path / "model.tflite", recipes_for("int8-full")[0]
    images = images_for(model.plan, 8).numpy()
    graph = micro_graph(vit_graph(model))
    seen = observe(graph, images)
    made = correct_biases(quantise_graph(graph, modes_of(graph, recipe), seen, recipe.ranges), seen, images)
    path.write_bytes(tflite_bytes(made))
    parity = compare_logits(run_micro_file(path, images).logits, real_logits(path, images), None, "")
    assert parity.sqnr_db is None or parity.sqnr_db > 15


def digits_model() -> SlicedViT:
    """Returns a canonical model of digits with a cut stream."""
    overrides = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    return uneven(canonical(load_model(ModelSpec("vit_tiny_patch16_224", 32, 8, 1, overrides=overrides), 10)))


@pytest.mark.slow
def test_training_under_rounding_brings_the_logits_closer(digits: Dataset) -> None:
    model, recipe = digits_model(), recipes_for("int8-full")[0]
    assert (model.plan.embed_dim, model.plan.norm_dim) == (40, 48)
    some = replace(digits, train=digits.train[:256])
    batches = [images.numpy() for images, _ in plain_batches(digits, digits.held_out[:48], SPEC)]
    images = np.ascontiguousarray(np.concatenate(batches).transpose(0, 2, 3, 1))
    fine = integers_of(model, recipe, images)
    # five bits fewer, so that there is something to learn
    coarse = {
        name: QParams(tuple(32 * s for s in grid.scale), grid.zero_point // 32, grid.dtype, grid.axis)
        for name, grid in fine.qparams.items()
        if name.endswith(("fc1", "fc2"))
    }
    made = replace(fine, qparams={**fine.qparams, **coarse})
    settings = QatRecipe(epochs=2, batch_size=32, lr=3e-4, teacher_weight=1.0)
    after = train_quantised(made, model, some, SPEC, settings, augmentation=Augmentation(mirror=0.0))
    logits = wanted(model, torch.from_numpy(images)).numpy()

    def error(graph: Graph) -> float:
        # what is added to all classes alike changes no answer, and the loss does not see it
        difference = simulate(graph, images) - logits
        return float(np.square(difference - difference.mean(axis=1, keepdims=True)).mean())

    assert error(after) < 0.9 * error(made)


@pytest.mark.slow
def test_the_exporter_verifies_every_kind_of_file(digits: Dataset, tmp_path: Path) -> None:
    model = digits_model()
    settings = ExportSettings(calibration_images=8, verify_images=60)
    artifacts = export_model(model, task_for(digits, trained=False), digits, tmp_path, "cut", settings)
    assert [artifact.precision for artifact in artifacts] == ["fp32", "int8", "fp32", "int8", "int8-full"]
    assert all(artifact.plan == model.plan for artifact in artifacts)
    assert all(read_artifact(tmp_path / artifact.file).plan == model.plan for artifact in artifacts)
