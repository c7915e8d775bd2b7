from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compress.model.load import ModelSpec, check_model
from compress.model.timm_vit import from_timm, plan_of_timm, to_timm
from runtime import ModelError, PlanError, ShapePlan, macs, params
from tests.compress.tiny import ARCHITECTURES, images_for, timm_model


def outputs(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(images)
    return out


def changed(key: str, **overrides: Any) -> ModelSpec:
    spec = ARCHITECTURES[key]
    return replace(spec, overrides={**spec.overrides, **overrides})


VARIANTS = {
    **ARCHITECTURES,
    "grayscale": replace(ARCHITECTURES["vit"], in_chans=1),
    "no-qkv-bias": changed("vit", qkv_bias=False),
    "no-positions": changed("vit", pos_embed="none"),
    "no-final-norm": changed("vit", final_norm=False),
    "token-fc-norm": changed("vit", fc_norm=True),
    "avg-all": changed("vit", global_pool="avg", pool_include_prefix=True),
    "avg-norm-before": changed("vit", global_pool="avg", fc_norm=False),
    "relu": changed("vit", act_layer="relu"),
    "silu": changed("vit", act_layer="silu"),
    "gelu-tanh": changed("vit", act_layer="gelu_tanh"),
    "dynamic-size": changed("vit", dynamic_img_size=True),
    "distilled-no-norm": changed("deit-distilled", final_norm=False),
}


@pytest.mark.parametrize("key", VARIANTS)
def test_outputs_parameters_and_operations_are_those_of_timm(key: str) -> None:
    theirs = timm_model(VARIANTS[key])
    ours = from_timm(theirs)
    images = images_for(ours.plan, 3)
    torch.testing.assert_close(outputs(ours, images), outputs(theirs, images), rtol=1e-5, atol=1e-5)
    assert ours.plan == plan_of_timm(theirs)
    assert params(ours.plan) == sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    for block in theirs.blocks:
        block.attn.fused_attn = False  # the counter does not know the CPU's fused kernel
    with FlopCounterMode(display=False) as counter:
        outputs(theirs, images_for(ours.plan, 1))
    assert 2 * macs(ours.plan) == counter.get_total_flops()


def test_the_copy_shares_no_memory_with_the_original() -> None:
    theirs = timm_model(ARCHITECTURES["vit"])
    ours = from_timm(theirs)
    with torch.no_grad():
        for value in ours.parameters():
            value.zero_()
    assert all(bool(value.any()) for value in theirs.parameters())


def test_the_plan_says_what_the_graph_holds() -> None:
    def plan(key: str) -> ShapePlan:
        return check_model(ARCHITECTURES[key])

    assert (plan("vit").pooling, plan("vit").pos_embed, plan("vit").num_tokens) == ("token", "all", 5)
    assert plan("deit-distilled").dist_token
    assert (plan("deit3").layer_scale, plan("deit3").pos_embed) == (True, "patches")
    assert (plan("dinov2-reg").reg_tokens, plan("dinov2-reg").num_tokens) == (4, 21)
    assert (plan("avg-pool").class_token, plan("avg-pool").pooling, plan("avg-pool").norm) == (
        False,
        "avg",
        "after_pool",
    )
    assert (plan("clip").norm_pre, plan("clip").act, plan("clip").patch_bias) == (True, "quick_gelu", False)
    assert (plan("clip").norm_eps, plan("vit").norm_eps) == (1e-5, 1e-6)
    assert (plan("wee-gap").class_token, plan("wee-gap").reg_tokens) == (False, 1)
    assert check_model(ModelSpec("vit_tiny_patch16_224")).attn_scale == 64**-0.5


@pytest.mark.parametrize(
    ("name", "overrides", "part"),
    [
        ("swin_tiny_patch4_window7_224", {}, "window attention"),
        ("resnet18", {}, "the architecture ResNet"),
        ("vit_base_patch16_siglip_224", {"fc_norm": True}, "attention pooling with a norm behind it"),
        ("vit_tiny_patch16_224", {"global_pool": "prr"}, "'prr' pooling"),
        ("vit_tiny_patch16_224", {"global_pool": "avgmax"}, "'avgmax' pooling"),
        ("vit_dlittle_patch16_reg1_gap_256", {}, "differential attention"),
        ("vit_tiny_patch16_224", {"attn_layer": "diff"}, "differential attention"),
        ("vit_tiny_patch16_224", {"act_layer": "tanh"}, "the activation Tanh"),
        ("vit_tiny_patch16_224", {"num_classes": 0}, "a model without a linear classifier"),
        ("vit_tiny_patch16_224", {"depth": 0}, "no transformer block"),
        ("deit_tiny_distilled_patch16_224", {"fc_norm": True}, "a distillation token together with"),
        ("deit_tiny_distilled_patch16_224", {"reg_tokens": 2}, "a distillation token together with"),
    ],
)
def test_what_cannot_be_done_exactly_is_refused_by_name(name: str, overrides: dict[str, Any], part: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_model(ModelSpec(name, overrides=overrides))
    assert f"This model uses {part}" in str(caught.value), str(caught.value)
    assert "not supported" in str(caught.value)
    assert "Export it whole with pocketvit export" in str(caught.value)


@pytest.mark.parametrize("key", ["vit", "clip", "avg-pool"])
def test_every_norm_keeps_its_epsilon(key: str) -> None:
    theirs = timm_model(ARCHITECTURES[key])
    norms = [module for module in theirs.modules() if isinstance(module, torch.nn.LayerNorm)]
    for place, norm in enumerate(norms):
        norm.eps = 0.1 * (place + 1)
    ours = from_timm(theirs)
    assert ours.plan.norm_eps == tuple(norm.eps for norm in norms)
    images = images_for(ours.plan, 3)
    torch.testing.assert_close(outputs(ours, images), outputs(theirs, images), rtol=1e-5, atol=1e-5)


def test_widths_that_are_no_multiple_of_8_are_refused() -> None:
    with pytest.raises(PlanError, match=r"qk_dim must be a positive multiple of 8. Got 12."):
        check_model(ModelSpec("vit_tiny_patch16_224", overrides={"embed_dim": 48, "num_heads": 4}))


@pytest.mark.parametrize("key", VARIANTS)
def test_our_weights_go_back_to_timm(key: str) -> None:
    theirs = timm_model(VARIANTS[key]).state_dict()
    back = to_timm(from_timm(timm_model(VARIANTS[key])).state_dict(), theirs)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in back.items())
    assert to_timm(theirs, theirs) == theirs
