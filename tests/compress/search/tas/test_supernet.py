from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compress.importance.units import group_importance, lost_importance
from compress.model.canonical import canonical
from compress.model.slicing import keep_all, plan_of, slice_vit
from compress.model.vit import SlicedViT, build
from compress.search.tas.candidates import DEPTH, EMBED, Candidates, Choice, candidates_of, plan_with
from compress.search.tas.sampling import Pick
from compress.search.tas.settings import Alignment
from compress.search.tas.supernet import Sample, blend, draw_sample, run_sample
from compress.search.tas.units import kept_first, order_of, ordered
from runtime import ShapePlan, macs
from tests.compress.kinds import model_of_kind
from tests.compress.search.test_one_shot import random_importance
from tests.compress.tiny import ARCHITECTURES, TINY_PLAN, images_for, sliced_model, tiny_vit

FLOAT32 = 1e-5


def certain(candidates: Candidates, chosen: Mapping[Choice, int]) -> Sample:
    """Returns the sample in which one candidate of everything has all the weight."""
    one = torch.ones(1, dtype=torch.float64)
    depths = candidates[DEPTH]
    shares = torch.tensor([float(depth == chosen[DEPTH]) for depth in depths])
    return Sample({c: Pick((w,), one) for c, w in chosen.items() if c != DEPTH}, depths, shares)


def random_choice(candidates: Candidates, seed: int) -> dict[Choice, int]:
    generator = np.random.default_rng(seed)
    return {choice: int(generator.choice(widths)) for choice, widths in candidates.items()}


def random_logits(candidates: Candidates, seed: int = 0) -> dict[Choice, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {c: torch.randn(len(w), dtype=torch.float64, generator=generator) for c, w in candidates.items()}


def logits_of(model: SlicedViT, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(images)
    return logits


@pytest.mark.parametrize("key", ARCHITECTURES)
def test_reordered_units_compute_the_same(key: str) -> None:
    model = sliced_model(key)
    order, images = order_of(random_importance(model.plan)), images_for(model.plan)
    assert order.embed != tuple(range(model.plan.embed_dim))
    torch.testing.assert_close(
        logits_of(ordered(model, order), images), logits_of(model, images), rtol=FLOAT32, atol=FLOAT32
    )


def canonical_or_cut(key: str, seed: int) -> SlicedViT:
    """Returns a canonical model, for odd seeds with a stream that was cut and an epsilon for each norm."""
    model = canonical(model_of_kind(key))
    if seed % 2:
        plan, c = model.plan, model.plan.embed_dim
        dim = {"norm_dim": c + 8} if plan.norm_type == "rms" else {}
        eps = tuple(1e-3 * (1 + place) for place in range(len(plan.norm_names)))
        return build(replace(plan, norm_eps=eps, **dim), model.state_dict())
    return model


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("form", ["whole", "canonical"])
@pytest.mark.parametrize("key", ARCHITECTURES)
def test_certain_candidates_are_the_model_sliced_to_their_plan(key: str, form: str, seed: int) -> None:
    """The supernet and the slicer agree on what a plan is, classifier, norms, tokens and depth included."""
    model = sliced_model(key) if form == "whole" else canonical_or_cut(key, seed)
    candidates, order = candidates_of(model.plan, 4, 0.2), order_of(random_importance(model.plan, seed))
    chosen, images = random_choice(candidates, seed), images_for(model.plan)
    plan = plan_with(model.plan, chosen)
    kept = kept_first(model.plan, order, plan)
    sliced = slice_vit(model, kept)
    assert sliced.plan == plan
    with torch.no_grad():
        found = run_sample(ordered(model, order), certain(candidates, chosen), images)
    torch.testing.assert_close(found, logits_of(sliced, images), rtol=FLOAT32, atol=FLOAT32)


class Direct:
    """The supernet as its definition has it: every layer's output of both candidates, aligned and summed."""

    def __init__(self, model: SlicedViT, sample: Sample) -> None:
        self.w, self.plan, self.sample = dict(model.named_parameters()), model.plan, sample
        self.c = sample.picks[EMBED].widths[-1]

    def mixed(self, x: torch.Tensor, pick: Pick) -> torch.Tensor:
        """Sums the first channels by weight, each part made as wide as the widest; channels are the last dimension."""
        flat, most = x.flatten(0, -2), pick.widths[-1]
        if self.sample.align == "interpolate":
            parts = [F.adaptive_avg_pool1d(flat[:, :width], most) for width in pick.widths]
        else:
            parts = [flat * (torch.arange(flat.shape[1]) < width) for width in pick.widths]
            parts = [part[:, :most] for part in parts]
        summed = sum(weight * part for weight, part in zip(pick.weights, parts, strict=True))
        assert isinstance(summed, torch.Tensor)
        return summed.unflatten(0, x.shape[:-1])

    def stream(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixed(x, self.sample.picks[EMBED])

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        scale, shift = self.w[f"{name}.weight"][: self.c], self.w[f"{name}.bias"][: self.c]
        return F.layer_norm(x, [self.c], scale, shift, self.plan.norm_eps)

    def scaled(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x * self.w[name][: self.c] if name in self.w else x

    def attention(self, x: torch.Tensor, i: int) -> torch.Tensor:
        block, pick = self.plan.blocks[i], self.sample.picks[Choice("heads", i)]
        count = pick.widths[-1]
        per_head = []
        for head in range(count):
            q, k, v = (
                F.linear(
                    x,
                    self.w[f"blocks.{i}.attn.{part}.weight"][head * width : (head + 1) * width, : self.c],
                    self.w[f"blocks.{i}.attn.{part}.bias"][head * width : (head + 1) * width],
                )
                for part, width in (("q", block.qk_dim), ("k", block.qk_dim), ("v", block.v_dim))
            )
            per_head.append((self.plan.attn_scale * q @ k.mT).softmax(-1) @ v)
        heads = self.mixed(torch.stack(per_head, dim=-1), pick).mT.flatten(-2)
        weight = self.w[f"blocks.{i}.attn.proj.weight"][:, : count * block.v_dim]
        return self.stream(F.linear(heads, weight, self.w[f"blocks.{i}.attn.proj.bias"]))

    def mlp(self, x: torch.Tensor, i: int) -> torch.Tensor:
        fc1, fc2 = (
            tuple(self.w[f"blocks.{i}.mlp.{name}.{part}"] for part in ("weight", "bias")) for name in ("fc1", "fc2")
        )
        pick = self.sample.picks[Choice("mlp", i)]
        hidden = self.mixed(F.gelu(F.linear(x, fc1[0][:, : self.c], fc1[1])), pick)
        return self.stream(F.linear(hidden, fc2[0][:, : pick.widths[-1]], fc2[1]))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(images, self.w["patch_embed.weight"], self.w["patch_embed.bias"], stride=self.plan.patch_size)
        x = x.flatten(2).mT
        positions = self.w["pos_embed"]
        if self.plan.pos_embed == "patches":
            x, positions = x + positions, torch.zeros(1, 1, self.plan.embed_dim, dtype=x.dtype)
        x = self.stream(torch.cat([self.w["cls_token"].expand(len(x), -1, -1), x], dim=1) + positions)
        total = torch.zeros_like(x)
        for i in range(self.sample.depths[-1]):
            x = x + self.scaled(self.attention(self.norm(x, f"blocks.{i}.norm1"), i), f"blocks.{i}.gamma1")
            x = x + self.scaled(self.mlp(self.norm(x, f"blocks.{i}.norm2"), i), f"blocks.{i}.gamma2")
            for depth, share in zip(self.sample.depths, self.sample.shares, strict=True):
                total = total + share * x if depth == i + 1 else total
        pooled = self.norm(total, "norm")[:, 0]
        return F.linear(pooled, self.w["head.weight"][:, : self.c], self.w["head.bias"])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("align", ["interpolate", "mask"])
@pytest.mark.parametrize("key", ["vit", "deit3"])
def test_blended_weights_are_aligned_outputs(key: str, align: Alignment, count: int, seed: int) -> None:
    model = slice_vit(sliced_model(key), keep_all(sliced_model(key).plan)).double()
    candidates, images = candidates_of(model.plan, 4, 0.2), images_for(model.plan).double()
    logits = random_logits(candidates, seed)
    sample = draw_sample(logits, candidates, 1.0, np.random.default_rng(seed), align, count)
    assert max(len(pick.widths) for pick in sample.picks.values()) == min(count, 4)
    found = run_sample(model, sample, images)
    torch.testing.assert_close(found, Direct(model, sample).logits(images), rtol=1e-10, atol=1e-10)


def test_a_sample_is_two_of_every_width_and_all_of_the_depth() -> None:
    candidates = candidates_of(replace(TINY_PLAN, embed_dim=48), 4, 0.2)
    sample = draw_sample(random_logits(candidates), candidates, 0.5, np.random.default_rng(0))
    assert sample.picks.keys() == candidates.keys() - {DEPTH}
    assert all(len(pick.widths) == min(2, len(candidates[choice])) for choice, pick in sample.picks.items())
    assert sample.depths == candidates[DEPTH] == (1, 2)
    assert float(sample.shares.sum()) == pytest.approx(1.0)


def setting(plan: ShapePlan = TINY_PLAN) -> tuple[SlicedViT, dict[Choice, tuple[int, ...]], torch.Tensor]:
    model = tiny_vit(plan).double()
    return model, candidates_of(plan, 3, 0.2), images_for(plan, 6).double()


def loss_of(model: SlicedViT, candidates: Candidates, logits: Any, images: torch.Tensor, seed: int) -> torch.Tensor:
    sample = draw_sample(logits, candidates, 1.0, np.random.default_rng(seed))
    return F.cross_entropy(run_sample(model, sample, images), torch.arange(6) % 3)


def test_gradients_of_the_loss_reach_every_candidate() -> None:
    model, candidates, images = setting()
    logits = {choice: torch.zeros(len(w), dtype=torch.float64, requires_grad=True) for choice, w in candidates.items()}
    reached = {choice: torch.zeros(len(widths), dtype=torch.bool) for choice, widths in candidates.items()}
    for seed in range(20):
        gradients = torch.autograd.grad(loss_of(model, candidates, logits, images, seed), list(logits.values()))
        for choice, gradient in zip(logits, gradients, strict=True):
            reached[choice] |= gradient.abs() > 1e-9
    for choice, widths in candidates.items():
        assert reached[choice].all() == (len(widths) > 1), choice
    assert sum(len(widths) > 1 for widths in candidates.values()) >= 4


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_the_loss_under_the_same_noise(seed: int) -> None:
    model, candidates, images = setting()
    logits = random_logits(candidates, seed)
    for choice in candidates:
        for i in range(len(candidates[choice])):
            leaf = logits[choice].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss_of(model, candidates, logits | {choice: leaf}, images, seed), leaf)
            step = torch.zeros_like(leaf)
            step[i] = 1e-6
            with torch.no_grad():
                above, below = (
                    loss_of(model, candidates, logits | {choice: logits[choice] + sign * step}, images, seed)
                    for sign in (1, -1)
                )
            assert float(gradient[i]) == pytest.approx(float(above - below) / 2e-6, abs=1e-7)


def test_gradients_reach_every_weight_that_takes_part() -> None:
    model, candidates, images = setting()
    sample = draw_sample(random_logits(candidates), candidates, 1.0, np.random.default_rng(0))
    F.cross_entropy(run_sample(model, sample, images), torch.arange(6) % 3).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # a key's bias moves all of a query's scores alike
        assert name.endswith("attn.k.bias") or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_is_the_most_important_and_what_is_lost_the_rest(seed: int) -> None:
    plan = replace(TINY_PLAN, blocks=TINY_PLAN.blocks * 2)
    importance, candidates = random_importance(plan, seed), candidates_of(plan, 4, 0.2)
    smaller = plan_with(plan, random_choice(candidates, seed))
    kept = kept_first(plan, order_of(importance), smaller)
    assert plan_of(replace(plan, blocks=plan.blocks[: len(smaller.blocks)]), kept) == smaller
    assert sorted(importance.embed[list(kept.embed)]) == sorted(importance.embed)[-smaller.embed_dim :]
    lost, total = lost_importance(importance, kept), 0.0
    for i, (scores, keep) in enumerate(zip(importance.blocks, kept.blocks, strict=False)):
        heads = scores.qk.sum(1) + scores.v.sum(1)
        assert heads[list(keep.heads)].sum() == pytest.approx(np.sort(heads)[-len(keep.heads) :].sum())
        assert scores.mlp[list(keep.mlp)].sum() == pytest.approx(np.sort(scores.mlp)[-len(keep.mlp) :].sum())
        stays = heads[list(keep.heads)].sum() + scores.mlp[list(keep.mlp)].sum()
        assert lost.blocks[i] == pytest.approx(heads.sum() + scores.mlp.sum() - stays)
        total += heads.sum() + scores.mlp.sum()
    every = sum(block.qk.sum() + block.v.sum() + block.mlp.sum() for block in importance.blocks)
    assert lost.depth == pytest.approx(every - total, abs=1e-9)
    assert lost.embed == pytest.approx(importance.embed.sum() - importance.embed[list(kept.embed)].sum())


def test_equal_importance_keeps_the_first_and_trailing_blocks_go() -> None:
    ones = group_importance(TINY_PLAN, {n: torch.ones_like(w) for n, w in tiny_vit().named_parameters()})
    order = order_of(ones)
    assert order.embed == tuple(range(16))
    model = tiny_vit()
    short = slice_vit(model, kept_first(TINY_PLAN, order, replace(TINY_PLAN, blocks=TINY_PLAN.blocks[:1])))
    assert short.plan == replace(TINY_PLAN, blocks=TINY_PLAN.blocks[:1])
    assert macs(short.plan) < macs(model.plan)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in short.state_dict().items())
    with torch.no_grad():
        short.head.weight.zero_()
    assert model.head.weight.abs().sum() > 0


@pytest.mark.parametrize("align", ["interpolate", "mask"])
def test_the_linear_behind_an_early_norm_is_blended_as_other_writers_are(align: Alignment) -> None:
    model = canonical_or_cut("clip", 0)
    whole, shares = model.plan.embed_dim, torch.tensor([0.25, 0.75], dtype=torch.float64)
    sample = certain(candidates_of(model.plan, 4, 0.2), plain_choice(model.plan))
    narrow, wide = 24, whole
    sample = replace(sample, picks={**sample.picks, EMBED: Pick((narrow, wide), shares)}, align=align)
    weights = dict(model.state_dict())
    same = weights["blocks.0.mlp.fc2.bias"]
    weights["pre.bias"] = same.clone()
    _, blended = blend(build(model.plan, weights), sample)
    assert torch.equal(blended["pre.bias"], blended["blocks.0.mlp.fc2.bias"])
    assert not torch.allclose(blended["pre.bias"], same)
    # the embedding itself stands before the stream
    assert torch.equal(blended["patch_embed.weight"], weights["patch_embed.weight"])


def plain_choice(plan: ShapePlan) -> dict[Choice, int]:
    """Returns the choice of everything whole."""
    whole = {Choice("heads", i): block.num_heads for i, block in enumerate(plan.blocks)}
    whole |= {Choice("mlp", i): block.mlp_dim for i, block in enumerate(plan.blocks)}
    return {EMBED: plan.embed_dim, DEPTH: len(plan.blocks), **whole}
