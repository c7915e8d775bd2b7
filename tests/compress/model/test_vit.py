from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from compress.model.parts.axes import EMBED, Axis, parameter_axes
from compress.model.slicing import slice_vit
from compress.model.vit import SlicedViT, build
from runtime import PlanError, macs, params
from tests.compress.strategies import kepts
from tests.compress.tiny import ARCHITECTURES, TINY_PLAN, images_for, sliced_model, tiny_vit


@pytest.mark.parametrize("key", ARCHITECTURES)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_cost_is_counted_exactly(key: str, data: st.DataObject) -> None:
    model = sliced_model(key)
    small = slice_vit(model, data.draw(kepts(model.plan)))
    assert params(small.plan) == sum(p.numel() for p in small.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(images_for(small.plan, 1))
    assert 2 * macs(small.plan) == counter.get_total_flops()


@pytest.mark.parametrize("key", ARCHITECTURES)
def test_every_dimension_of_every_parameter_has_its_axis(key: str) -> None:
    plan = sliced_model(key).plan
    shapes = {name: tuple(value.shape) for name, value in sliced_model(key).named_parameters()}
    axes = parameter_axes(plan)
    assert axes.keys() == shapes.keys()
    widths = {EMBED: plan.embed_dim}
    for i, block in enumerate(plan.blocks):
        widths |= {
            Axis("qk", i): block.num_heads * block.qk_dim,
            Axis("v", i): block.num_heads * block.v_dim,
            Axis("mlp", i): block.mlp_dim,
        }
    for name, along in axes.items():
        assert len(along) == len(shapes[name]), name
        for axis, size in zip(along, shapes[name], strict=True):
            assert axis is None or widths[axis] == size, name


def test_images_of_a_batch_do_not_see_each_other() -> None:
    model, images = sliced_model("clip"), images_for(sliced_model("clip").plan, 4)
    with torch.no_grad():
        together, alone = model(images), torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_build_copies_and_takes_any_float_type() -> None:
    weights = {name: value.half() for name, value in tiny_vit().state_dict().items()}
    model = build(TINY_PLAN, weights)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    again = build(TINY_PLAN, model.state_dict())
    with torch.no_grad():
        again.head.weight.zero_()
    assert bool(model.head.weight.any())
    assert all(value.requires_grad for value in again.parameters())
    assert not again.training


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (lambda w: w.pop("head.bias"), ["do not fit the plan: 'head.bias' is missing"]),
        (lambda w: w.update(extra=torch.zeros(1)), ["do not fit the plan: 'extra' is unknown"]),
        (lambda w: w.update(cls_token=torch.zeros(1, 1, 8)), ["'cls_token'", "Expected (1, 1, 16).", "Got (1, 1, 8)."]),
    ],
)
def test_build_refuses_weights_of_another_plan(change, texts) -> None:  # type: ignore[no-untyped-def]
    weights = dict(tiny_vit().state_dict())
    change(weights)
    with pytest.raises(PlanError) as caught:
        build(TINY_PLAN, weights)
    assert all(text in str(caught.value) for text in texts), str(caught.value)


def test_a_fresh_model_of_a_plan_has_the_parameters_its_axes_name() -> None:
    assert SlicedViT(TINY_PLAN).state_dict().keys() == parameter_axes(TINY_PLAN).keys()
