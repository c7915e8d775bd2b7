"""Our multiply-accumulates against fvcore's count, equal to the last one but for the differences in one table."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.model.load import ModelSpec
from compress.model.slicing import slice_vit
from compress.model.timm_vit import from_timm
from compress.model.vit import SlicedViT
from runtime import ShapePlan, flops, macs
from runtime.plan import Activation, NormPlace

from .strategies import kepts
from .tiny import ARCHITECTURES, TINY_PLAN, images_for, sliced_model, timm_model, tiny_vit

pytest.importorskip("fvcore")

VIT_S = ModelSpec("vit_small_patch16_224")


def normalised(plan: ShapePlan) -> int:
    """Returns how many elements go through a LayerNorm."""
    everywhere = 2 * len(plan.blocks) + int(plan.norm_pre) + int(plan.norm == "before_pool")
    pooled = (2 if plan.dist_token else 1) if plan.norm == "after_pool" else 0
    return (everywhere * plan.num_tokens + pooled) * plan.embed_dim


def scored(plan: ShapePlan) -> int:
    """Returns the multiply-accumulates of queries by keys and of scores by values."""
    return plan.num_tokens**2 * sum(block.num_heads * (block.qk_dim + block.v_dim) for block in plan.blocks)


# What fvcore adds to MACs (convolutions and matrix products, one for a multiply-accumulate, none for a bias) when a
# model has the operator. Where it is 0, neither counts the operator. fvcore lists no ReLU: it ignores it by design.
DIFFERENCES: dict[str, Callable[[ShapePlan], int]] = {
    "layer_norm": lambda plan: 5 * normalised(plan),  # an estimate of its own: five for each element
    "aten::scaled_dot_product_attention": lambda plan: -scored(plan),  # it does not know the fused kernel
    "aten::softmax": lambda plan: 0,
    "aten::gelu": lambda plan: 0,
    "aten::silu": lambda plan: 0,
    "aten::sigmoid": lambda plan: 0,
    "aten::add": lambda plan: 0,
    "aten::mul": lambda plan: 0,
    "aten::div": lambda plan: 0,
    "aten::mean": lambda plan: 0,
    "conv": lambda plan: 0,
    "linear": lambda plan: 0,
    "matmul": lambda plan: 0,
}

Analyse = Callable[[torch.nn.Module, ShapePlan], Any]


@pytest.fixture(scope="module")
def analyse() -> Analyse:
    with warnings.catch_warnings():
        # it compiles a loss of its own when it is imported, in a way that torch has since deprecated
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        from fvcore.nn import FlopCountAnalysis

    def analyse(model: torch.nn.Module, plan: ShapePlan) -> Any:
        """Returns fvcore's analysis of one image; what it would log of unknown operators, ``check`` looks at."""
        analysis = FlopCountAnalysis(model, images_for(plan, 1))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        with torch.no_grad():
            analysis.total()
        return analysis

    return analyse


def check(analysis: Any, plan: ShapePlan) -> None:
    """Asserts that fvcore's total is the plan's MACs and the table's differences, with no operator unaccounted for."""
    operators = {*analysis.by_operator(), *analysis.unsupported_ops()}
    assert operators <= DIFFERENCES.keys()
    assert analysis.total() == macs(plan) + sum(DIFFERENCES[operator](plan) for operator in operators)
    assert analysis.by_operator()["layer_norm"] == 5 * normalised(plan)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("key", ARCHITECTURES)
def test_an_unpruned_model_of_timm_costs_what_fvcore_counts(analyse: Analyse, key: str, fused: bool) -> None:
    plan, theirs = sliced_model(key).plan, timm_model(ARCHITECTURES[key])
    for block in theirs.blocks:
        block.attn.fused_attn = fused
    analysis = analyse(theirs, plan)
    check(analysis, plan)
    assert analysis.unsupported_ops()["aten::scaled_dot_product_attention"] == (len(plan.blocks) if fused else 0)
    assert analysis.by_operator()["matmul"] == (0 if fused else scored(plan))


@pytest.mark.parametrize("key", ARCHITECTURES)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_a_sliced_model_costs_what_fvcore_counts(analyse: Analyse, key: str, data: st.DataObject) -> None:
    model = sliced_model(key)
    check(analyse(model, model.plan), model.plan)
    small = slice_vit(model, data.draw(kepts(model.plan)))
    check(analyse(small, small.plan), small.plan)


@pytest.mark.parametrize("norm", get_args(NormPlace))
@pytest.mark.parametrize("act", get_args(Activation))
def test_no_norm_and_no_activation_is_forgotten(analyse: Analyse, act: Activation, norm: NormPlace) -> None:
    plan = replace(TINY_PLAN, act=act, norm=norm, norm_pre=True, dist_token=True, layer_scale=True)
    check(analyse(tiny_vit(plan), plan), plan)


@pytest.fixture(scope="module")
def vit_s() -> tuple[torch.nn.Module, SlicedViT]:
    theirs = timm_model(VIT_S, num_classes=1000)
    return theirs, from_timm(theirs)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=3, deadline=None)
def test_vit_s_at_224_px_costs_what_fvcore_counts(
    analyse: Analyse, vit_s: tuple[torch.nn.Module, SlicedViT], data: st.DataObject
) -> None:
    theirs, model = vit_s
    for one in (theirs, model):
        check(analyse(one, model.plan), model.plan)
    small = slice_vit(model, data.draw(kepts(model.plan)))
    check(analyse(small, small.plan), small.plan)


def test_a_multiply_accumulate_is_one_flop_of_fvcores_and_two_of_ours(analyse: Analyse) -> None:
    model = sliced_model("vit")
    counted = analyse(model, model.plan).by_operator()
    assert flops(model.plan) == 2 * (counted["conv"] + counted["linear"] + counted["matmul"])
