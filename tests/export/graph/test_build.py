from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.model.vit import SlicedViT
from export.graph.build import vit_graph
from export.graph.execute import run_graph
from export.graph.ir import Graph
from export.graph.rewrites import ALL_REWRITES, DEFAULT_REWRITES, NO_REWRITES, Rewrites, Scales
from export.graph.vit_parts import OUTPUTS
from export.writers.tflite import tflite_bytes
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
    "grid-without-norm": replace(VIT, output="grid", pooling="avg", norm="none", grid_blocks=(1,)),
    "unit-vector-of-two": replace(VIT, output="unit_vector", dist_token=True),
    "one-patch-across": replace(VIT, act="relu", patch_size=(8, 32), pooling="avg_all", norm="after_pool"),
}
EVERY = {**ARCHITECTURES, **PART_PLANS}
"""Those of plain Vision Transformers, and tiny ones with every other part."""
SWITCHES = [field.name for field in fields(Rewrites)]


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
    generator = torch.Generator().manual_seed(1)
    return torch.randn((count, *plan.img_size, plan.in_chans), generator=generator)


def differences(plan: ShapePlan, rewrites: Rewrites, dtype: torch.dtype) -> tuple[float, Graph]:
    model, images = model_of(plan), images_for(plan).to(dtype)
    with torch.no_grad():
        wanted = model.to(dtype)(images.permute(0, 3, 1, 2))
        graph = vit_graph(model, rewrites)
        got = run_graph(graph, images)
    assert got.dtype == dtype
    return float((got - wanted).abs().max() / wanted.abs().max()), graph


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("switch", ["all", "none", *SWITCHES])
def test_every_rewrite_is_exact(name: str, switch: str) -> None:
    rewrites = {"all": ALL_REWRITES, "none": NO_REWRITES, "half": ALL_REWRITES.in_half()}.get(switch)
    rewrites = rewrites or ALL_REWRITES.without(switch)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        difference, _ = differences(EVERY[name], rewrites, dtype)
        assert difference <= tolerance
    if rewrites is not NO_REWRITES and rewrites is not ALL_REWRITES:
        only = replace(NO_REWRITES, **{switch: True})
        assert differences(EVERY[name], only, torch.float64)[0] <= 1e-12


def test_every_rewrite_changes_the_graph_of_some_architecture() -> None:
    for switch in SWITCHES:
        changed = 0
        for plan in EVERY.values():
            model = model_of(plan)
            every = replace(ALL_REWRITES, **{switch: True})
            with_all, without = vit_graph(model, every), vit_graph(model, every.without(switch))
            same = with_all.ops == without.ops and all(
                np.array_equal(value, without.constants[name]) for name, value in with_all.constants.items()
            )
            changed += not same
        assert changed, switch


blocks = st.builds(
    BlockPlan, st.integers(1, 3), *(st.integers(1, 3).map(lambda n: 8 * n) for _ in range(2)), st.sampled_from([8, 24])
)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(EVERY)),
    embed=st.sampled_from([8, 16, 40]),
    widths=st.lists(blocks, min_size=1, max_size=3),
    off=st.sets(st.sampled_from(SWITCHES)),
)
def test_random_plans_with_random_rewrites_are_exact(
    name: str, embed: int, widths: list[BlockPlan], off: set[str]
) -> None:
    read = tuple(number for number in EVERY[name].grid_blocks if number < len(widths))
    plan = replace(EVERY[name], embed_dim=embed, blocks=tuple(widths), grid_blocks=read)
    assert differences(plan, replace(ALL_REWRITES, **dict.fromkeys(off, False)), torch.float64)[0] <= 1e-10


@pytest.mark.parametrize("name", EVERY)
def test_the_file_computes_what_the_model_computes(name: str, tmp_path: Path) -> None:
    plan = EVERY[name]
    model, images = model_of(plan), images_for(plan)
    with torch.no_grad():
        wanted = model(images.permute(0, 3, 1, 2)).numpy()
    for label, rewrites in (("default", DEFAULT_REWRITES), ("all", ALL_REWRITES), ("none", NO_REWRITES)):
        path = tmp_path / f"{label}.tflite"
        path.write_bytes(tflite_bytes(vit_graph(model, rewrites)))
        engine = open_engine(path)
        assert (engine.input_name, engine.output_name) == ("image", OUTPUTS[plan.output])
        got = np.concatenate([engine.run(image[None]) for image in images.numpy()])
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_only_the_pooled_token_is_computed_in_the_last_block() -> None:
    model = model_of(VIT)
    graph = vit_graph(model)
    assert graph.shapes["blocks.0.mlp.fc1"] == (1, 17, 96)
    assert graph.shapes["blocks.1.mlp.fc1"] == (1, 1, 64)
    assert graph.shapes["blocks.1.attn.q"] == (1, 1, 16)
    whole = vit_graph(model, DEFAULT_REWRITES.without("pooled_only"))
    assert whole.shapes["blocks.1.mlp.fc1"] == (1, 17, 64)
    means = vit_graph(model_of(EVERY["registers"]))
    assert means.shapes["blocks.1.mlp.fc2"] == (1, 1, 48)


@pytest.mark.parametrize("name", EVERY)
def test_every_image_and_token_keeps_a_dimension_for_the_batch_unless_asked_otherwise(name: str) -> None:
    model = model_of(EVERY[name])
    tokens, flat = (
        vit_graph(model, rewrites).shapes["blocks.0.mlp.fc1"] for rewrites in (DEFAULT_REWRITES, ALL_REWRITES)
    )
    assert tokens == (1, *flat)


def test_half_precision_weights_halve_the_file(tmp_path: Path) -> None:
    plan = replace(VIT, embed_dim=96, blocks=(BlockPlan(3, 32, 32, 384),) * 2)
    model, images = model_of(plan), images_for(plan, 1)
    graph, path = vit_graph(model), tmp_path / "half.tflite"
    path.write_bytes(tflite_bytes(graph, half=True))
    assert path.stat().st_size < 0.6 * len(tflite_bytes(graph))
    with torch.no_grad():
        wanted = model(images.permute(0, 3, 1, 2)).numpy()
    assert np.abs(open_engine(path).run(images.numpy()) - wanted).max() <= 5e-3 * np.abs(wanted).max()


def test_writing_is_deterministic() -> None:
    assert tflite_bytes(vit_graph(model_of(VIT))) == tflite_bytes(vit_graph(model_of(VIT)))


@pytest.mark.parametrize(
    "name", [name for name, own in EVERY.items() if own.norm != "none" and own.block_kind != "post"]
)
@pytest.mark.parametrize("switch", ["all", "flat", "pooled_only", "fold_bias", "patch_rows", "fold_embed"])
def test_scales_change_nothing_in_real_numbers(name: str, switch: str) -> None:
    plan = EVERY[name]
    model, images, rng = model_of(plan), images_for(plan).double(), np.random.default_rng(0)
    scales = Scales(
        np.exp(rng.normal(size=plan.embed_dim)),
        tuple(np.exp(rng.normal(size=block.num_heads * block.qk_dim)) for block in plan.blocks),
        tuple(np.exp(rng.normal(size=block.num_heads * block.v_dim)) for block in plan.blocks),
    )
    rewrites = ALL_REWRITES if switch == "all" else ALL_REWRITES.without(switch)
    with torch.no_grad():
        wanted = model.double()(images.permute(0, 3, 1, 2))
        graph = vit_graph(model, rewrites, scales)
        assert float((run_graph(graph, images) - wanted).abs().max() / wanted.abs().max()) <= 1e-11
    weight = vit_graph(model, rewrites).constants["patch_embed.weight"]
    assert not np.allclose(weight, graph.constants["patch_embed.weight"])
