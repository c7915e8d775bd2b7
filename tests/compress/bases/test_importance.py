"""What a cut costs: the sensitivity, the measured losses, and the importance of units made from them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.bases.analysis import BasisAnalysis, analyse
from compress.bases.hidden import removal_order
from compress.bases.losses import SHARES, BlockLosses, Losses, measure_losses, widths_to_measure
from compress.bases.ranking import importance_of
from compress.bases.sensitivity import Features, Sensitivity, features_of, sensitivity_of
from compress.budget import parse_budget
from compress.importance.units import Importance
from compress.model.slicing import KeptUnits, keep_all, plan_of, same_widths
from compress.model.vit import SlicedViT
from compress.search.uniform import scale_evenly
from runtime import BlockPlan, ShapePlan
from tests.compress.bases.analysed import ROOMY, analysis_of, without_last
from tests.compress.kinds import KINDS, WITH_RMS
from tests.compress.tiny import TINY_PLAN, images_for, tiny_vit

REST = 0.5


def compared(
    found: BasisAnalysis, model: SlicedViT, kept: KeptUnits, images: torch.Tensor
) -> tuple[Features, Features]:
    """Returns the features of a cut model and those of the whole one."""

    def features(own: SlicedViT, back: torch.Tensor) -> Features:
        stream = own.stream(images)
        for block in own.blocks:
            stream = block(stream)
        return features_of(own, stream, back)

    with torch.no_grad():
        return features(model, found.coordinates_of(kept).matrix), features(found.model, found.coordinates.matrix)


def features_error(got: Features, wanted: Features) -> float:
    """Returns the relative squared error of the features, half of it that of the pooled one."""
    away = [
        float(((a - b).square().sum(-1) / b.square().sum(-1)).mean())
        for a, b in ((got.pooled, wanted.pooled), (got.tokens, wanted.tokens))
    ]
    return away[0] * (1 - REST) + away[1] * REST


def loss_of(found: BasisAnalysis, model: SlicedViT, kept: KeptUnits, images: torch.Tensor) -> float:
    """Returns the loss of a cut model: the error of its features, and by 0.08 that of its answers."""
    got, wanted = compared(found, model, kept, images)
    likely, own = wanted.logits.softmax(-1), got.logits.softmax(-1)
    answers = float((likely * (likely / own).log()).sum(-1).mean())
    return 0.92 * features_error(got, wanted) + 0.08 * 2 * answers


# sensitivity


@cache
def felt_by(key: str) -> tuple[SlicedViT, Sensitivity]:
    found = analysis_of(key)
    images = images_for(found.model.plan, 96)
    return found.model, sensitivity_of(found.model, images, found.coordinates.matrix, REST, 4)


def measured_change(key: str, block: int, side: str, noise: torch.Tensor) -> float:
    """Returns the loss where ``noise`` ``(B, N, C)`` is added to the stream after one part of a block."""
    model, back = analysis_of(key).model, analysis_of(key).coordinates.matrix.double()
    with torch.no_grad():
        outputs = []
        for own in (torch.zeros_like(noise), noise):
            x = model.stream(images_for(model.plan, len(noise)))
            for i, layer in enumerate(model.blocks):
                x = x + layer.attn(layer.norm1(x))
                x = x + own if (i, side) == (block, "attended") else x
                x = x + layer.mlp(layer.norm2(x))
                x = x + own if (i, side) == (block, "transformed") else x
            outputs.append(features_of(model, x, back.float()))
        return float(outputs[1].error(outputs[0], REST).mean())


@pytest.mark.parametrize("side", ["attended", "transformed"])
@pytest.mark.parametrize("key", ["vit", "dinov2-reg", "avg-pool", "after-pool", "no-norm", "clip"])
def test_the_sensitivity_predicts_the_loss_of_a_small_change(key: str, side: str) -> None:
    model, felt = felt_by(key)
    plan, generator = model.plan, torch.Generator().manual_seed(2)
    noise = 1e-2 * torch.randn(96, plan.num_tokens, plan.embed_dim, generator=generator)
    for block in range(len(plan.blocks)):
        metric, weights = getattr(felt, side)[block], getattr(felt.tokens, side)[block]
        errors = (noise.double() @ metric * noise.double()).sum(-1) * weights
        assert float(errors.sum() / len(noise)) == pytest.approx(measured_change(key, block, side, noise), rel=0.2)
        assert float(weights.mean()) == pytest.approx(1.0)


def test_the_sensitivity_knows_directions_and_tokens() -> None:
    model, felt = felt_by("vit")
    plan = model.plan
    _, vectors = torch.linalg.eigh(felt.attended[1])
    shape = (96, plan.num_tokens, 1)
    sizes = 1e-2 * torch.randn(shape, generator=torch.Generator().manual_seed(3))
    most, least = (measured_change("vit", 1, "attended", sizes * vectors[:, column].float()) for column in (-1, 0))
    assert most > 4 * least
    values = torch.linalg.eigvalsh(felt.attended[1])
    assert most / least == pytest.approx(float(values[-1] / values[0]), rel=0.5)
    noise = 1e-2 * torch.randn(96, plan.num_tokens, plan.embed_dim, generator=torch.Generator().manual_seed(4))
    only = torch.zeros_like(noise)
    only[:, :1] = noise[:, :1]
    share = measured_change("vit", 1, "attended", only) / measured_change("vit", 1, "attended", noise)
    assert share > 2 / plan.num_tokens, "half of the loss is the class token's"
    assert float(felt.tokens.attended[1][0]) / plan.num_tokens == pytest.approx(share, rel=0.2)


# losses


@cache
def losses_of(key: str) -> tuple[BasisAnalysis, tuple[tuple[int, ...], ...], Losses, torch.Tensor]:
    found = analysis_of(key)
    images = images_for(found.model.plan, 48)
    _, felt = felt_by(key)
    orders = []
    for own, block in zip(found.moments.blocks, found.model.blocks, strict=True):
        weight = torch.cat([block.mlp.fc2.weight, block.mlp.fc2.bias[:, None]], 1).detach().double()
        orders.append(tuple(removal_order(own.hidden, weight, 8)))
    back = found.coordinates.matrix
    return found, tuple(orders), measure_losses(found.model, found.moments, orders, images, back, REST, felt), images


def cut_alone(found: BasisAnalysis, order: tuple[int, ...], block: int, kind: str, width: int) -> KeptUnits:
    plan = found.model.plan
    if kind != "mlp":
        own = plan.blocks[block]
        return without_last(plan, block, kind, (own.qk_dim if kind == "qk" else own.v_dim) - width)
    kept = keep_all(plan)
    size = plan.blocks[block].mlp_dim
    stays = tuple(sorted(set(range(size)) - set(order[: size - width])))
    blocks = [replace(own, mlp=stays) if i == block else own for i, own in enumerate(kept.blocks)]
    return replace(kept, blocks=tuple(blocks))


@pytest.mark.parametrize("kind", ["qk", "v", "mlp"])
@pytest.mark.parametrize("key", ["roomy", "dinov2-reg", "no-norm"])
def test_the_losses_are_those_of_the_cut_model(key: str, kind: str) -> None:
    found, orders, losses, images = losses_of(key)
    for block, own in enumerate(losses.blocks):
        plan = found.model.plan.blocks[block]
        size = {"qk": plan.qk_dim, "v": plan.v_dim, "mlp": plan.mlp_dim}[kind]
        curve = getattr(own, kind)
        assert list(curve) == widths_to_measure(size, SHARES)
        middle = min(curve, key=lambda width: abs(width / size - 0.5), default=0)
        for width, loss in curve.items():
            kept = cut_alone(found, orders[block], block, kind, width)
            measured = loss_of(found, found.cut(kept), kept, images)
            # one width is measured, and the others follow the error in the stream
            assert loss == pytest.approx(measured, rel=1e-3 if width == middle else 0.5), width


@pytest.mark.parametrize("key", ["roomy", "vit", "clip"])
def test_the_losses_of_the_stream_are_measured(key: str) -> None:
    found, _, losses, images = losses_of(key)
    c = found.model.plan.embed_dim
    assert list(losses.embed) == widths_to_measure(c, SHARES)
    for width, loss in losses.embed.items():
        kept = replace(keep_all(found.model.plan), embed=tuple(range(width)))
        assert loss == pytest.approx(loss_of(found, found.cut(kept), kept, images), rel=1e-3)
    assert not losses_of("no-norm")[2].embed


def test_few_widths_are_all_looked_at() -> None:
    assert widths_to_measure(8, SHARES) == []
    assert widths_to_measure(32, SHARES) == [24, 16, 8]
    assert widths_to_measure(64, SHARES) == [56, 48, 40, 32, 24, 16, 8]
    wide = widths_to_measure(1536, SHARES)
    assert wide == sorted(wide, reverse=True)
    assert all(width % 8 == 0 for width in wide)
    assert (wide[0], wide[-1], len(wide)) == (1528, 384, 8)


# importance


def one_block(plan: BlockPlan, embed: int = 32) -> ShapePlan:
    return replace(TINY_PLAN, embed_dim=embed, blocks=(plan,))


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_units_that_a_cut_removes_add_up_to_its_loss(data: st.DataObject) -> None:
    def curve(width: int) -> dict[int, float]:
        """Draws a convex curve of the measured widths."""
        steps = data.draw(st.lists(st.floats(1e-4, 1.0), min_size=8, max_size=8))
        known, loss, last, own = widths_to_measure(width, SHARES), 0.0, width, {}
        for rise, here in zip(sorted(steps), known, strict=False):
            loss, last = loss + rise * (last - here), here
            own[here] = loss
        return own

    heads = data.draw(st.integers(1, 3))
    widths = [8 * data.draw(st.integers(2, 8)) for _ in range(3)]
    plan = one_block(BlockPlan(heads, *widths), 8 * data.draw(st.integers(2, 8)))
    order = data.draw(st.permutations(range(widths[2])))[: widths[2] - 8]
    curves = [curve(width) for width in widths]
    losses = Losses((BlockLosses(*curves, (0.1,) * heads),), curve(plan.embed_dim))
    found = importance_of(plan, losses, [order])
    own = found.blocks[0]
    for units, measured in ((own.qk, curves[0]), (own.v, curves[1]), (found.embed[None], losses.embed)):
        for width, loss in measured.items():
            assert units[:, width:].sum() == pytest.approx(loss, rel=1e-6)
        assert (np.diff(units[:, 8:]) <= 1e-12).all(), "the last unit is the first to go"
    for width, loss in curves[2].items():
        assert own.mlp[order[: widths[2] - width]].sum() == pytest.approx(loss, rel=1e-6)
    assert (np.diff(own.mlp[order]) >= -1e-12).all()
    assert all(np.isfinite(part).all() and (part >= 0).all() for part in found.parts())


def test_between_measured_widths_and_beyond_them_losses_rise_steadily() -> None:
    plan = one_block(BlockPlan(1, 8, 8, 384))
    measured = {width: 1e-3 * (384 - width) ** 2 / 384 for width in widths_to_measure(384, SHARES)}
    losses = Losses((BlockLosses({}, {}, measured, (0.0,)),), {})
    order = list(range(383, 95, -1))
    mlp = importance_of(plan, losses, [order]).blocks[0].mlp
    assert (np.diff(mlp[order]) >= 0).all()
    for width, loss in measured.items():
        assert mlp[order[: 384 - width]].sum() == pytest.approx(loss, rel=0.1)
    assert mlp.sum() > measured[96]
    assert np.isfinite(mlp).all()


def test_a_curve_that_falls_is_made_to_rise() -> None:
    plan = one_block(BlockPlan(1, 32, 8, 8))
    losses = Losses((BlockLosses({24: 0.3, 16: 0.2, 8: 0.9}, {}, {}, (0.0,)),), {})
    qk = importance_of(plan, losses, [[]]).blocks[0].qk[0]
    assert (np.diff(qk) <= 0).all()
    assert qk[8:].sum() == pytest.approx(0.9)
    assert qk[16:].sum() == pytest.approx(0.2)


@pytest.mark.parametrize("key", [*KINDS, "roomy"])
def test_importance_is_finite_and_ordered_in_every_head(key: str) -> None:
    found = analysis_of(key)
    assert all(np.isfinite(part).all() and (part >= 0).all() for part in found.importance.parts())
    assert (np.diff(found.importance.embed) <= 0).all()
    for own in found.importance.blocks:
        for units in (own.qk, own.v):
            assert (np.diff(units[:, 8:]) <= 0).all()
            assert (units[:, :8].min(1) >= units[:, 8:].max(1, initial=0.0)).all(), "a width of 8 goes last"


def with_empty_head(plan: ShapePlan, block: int, head: int) -> SlicedViT:
    model, width = tiny_vit(plan), plan.blocks[block].v_dim
    with torch.no_grad():
        model.blocks[block].attn.proj.weight[:, head * width : (head + 1) * width] = 0.0
    return model


def totals(importance: Importance, block: int) -> list[float]:
    own = importance.blocks[block]
    return [float(a.sum() + b.sum()) for a, b in zip(own.qk, own.v, strict=True)]


NARROW = replace(ROOMY, blocks=(BlockPlan(4, 8, 8, 16), BlockPlan(3, 8, 16, 16)))


@pytest.mark.parametrize(("plan", "block", "head"), [(ROOMY, 0, 1), (ROOMY, 1, 2), (NARROW, 0, 3), (NARROW, 1, 0)])
def test_an_empty_head_is_the_first_to_go(plan: ShapePlan, block: int, head: int) -> None:
    found = analyse(with_empty_head(plan, block, head), images_for(plan, 32))
    heads = totals(found.importance, block)
    others = [total for h, total in enumerate(heads) if h != head]
    assert heads[head] < min(others)


def test_half_of_the_units_cost_nothing_where_they_are_there_twice() -> None:
    model, plan = tiny_vit(ROOMY), ROOMY
    with torch.no_grad():
        for block in model.blocks:
            half = block.mlp.fc1.out_features // 2
            block.mlp.fc1.weight[half:] = block.mlp.fc1.weight[:half]
            block.mlp.fc1.bias[half:] = block.mlp.fc1.bias[:half]
    images = images_for(plan, 128)
    found, other = analyse(model, images), analyse(tiny_vit(ROOMY), images)
    losses = []
    for own in (found, other):
        kept = keep_all(plan)
        stays = [np.sort(np.argsort(-b.mlp, kind="stable")[: len(b.mlp) // 2]).tolist() for b in own.importance.blocks]
        kept = replace(kept, blocks=tuple(replace(b, mlp=tuple(s)) for b, s in zip(kept.blocks, stays, strict=True)))
        losses.append(features_error(*compared(own, own.cut(kept), kept, images)))
    assert losses[0] < 1e-3
    assert losses[0] < 0.01 * losses[1]


# cuts


@pytest.mark.parametrize("key", WITH_RMS)
def test_cut_widths_are_multiples_of_8_and_fit_the_budget(key: str) -> None:
    found = analysis_of(key)
    plan = found.model.plan
    budget = parse_budget("macs=0.8", plan)
    proposal = scale_evenly(plan, found.importance, budget)
    kept = proposal.kept
    cut = found.cut(kept)
    assert proposal.plan == plan_of(plan, kept)
    assert same_widths(cut.plan, proposal.plan)
    widths = [w for b in cut.plan.blocks for w in (b.qk_dim, b.v_dim, b.mlp_dim)] + [cut.plan.embed_dim]
    assert all(width % 8 == 0 for width in widths)
    assert budget.of(cut.plan) <= budget.limit
    with torch.no_grad():
        assert torch.isfinite(cut(images_for(plan))).all()
    assert found.coordinates_of(kept).matrix.shape == (cut.plan.embed_dim, plan.embed_dim)


def test_a_model_without_a_last_norm_keeps_its_stream() -> None:
    found = analysis_of("no-norm")
    assert found.model.plan.norm_type == "layer"
    others = np.concatenate([part.ravel() for b in found.importance.blocks for part in (b.mlp, b.qk[:, 8:])])
    assert found.importance.embed.min() > 100 * others.max()
