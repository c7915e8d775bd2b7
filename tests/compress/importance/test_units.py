from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compress.importance.scores import fisher_scores
from compress.importance.units import group_importance
from compress.model.vit import SlicedViT
from runtime import PlanError
from tests.compress.tiny import ARCHITECTURES, TINY_PLAN, images_for, sliced_model, tiny_vit

Batch = tuple[torch.Tensor, torch.Tensor]


def batches_for(model: SlicedViT, count: int = 3, size: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    classes = model.plan.num_classes
    return [
        (images_for(model.plan, size, seed), torch.randint(0, classes, (size,), generator=generator))
        for seed in range(count)
    ]


@pytest.mark.parametrize("key", ARCHITECTURES)
def test_scores_are_weights_squared_times_the_mean_of_squared_gradients(key: str) -> None:
    model = sliced_model(key)
    batches = batches_for(model)
    seen: list[tuple[str, int, int]] = []
    scores = fisher_scores(model, batches, progress=lambda *a: seen.append(a[:3]), total=3)
    assert seen == [("importance", 1, 3), ("importance", 2, 3), ("importance", 3, 3)]
    assert scores.keys() == dict(model.named_parameters()).keys()
    for name, weight in model.named_parameters():
        mean = torch.zeros_like(weight)
        for images, labels in batches:
            log_p = model(images).log_softmax(-1)
            loss = -log_p[torch.arange(len(labels)), labels].sum() / len(labels)
            (gradient,) = torch.autograd.grad(loss, weight)
            mean += gradient * gradient / len(batches)
        expected = (weight * weight * mean).detach()
        torch.testing.assert_close(scores[name], expected, rtol=1e-4, atol=1e-4 * float(expected.max()) + 1e-12)
        assert scores[name].shape == weight.shape
        assert not scores[name].requires_grad


class Linear(torch.nn.Module):
    """Logits (w, 0) whatever the image: the gradient of w is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shifted = self.w + 2.0 - self.w.detach()
        return torch.stack([shifted * 0 + self.w, torch.zeros(())]).expand(len(images), 2)


def test_opposite_batches_do_not_cancel() -> None:
    """At w = 0 the two labels pull with gradients -1/2 and +1/2: their mean is 0, the mean of squares 1/4."""
    model, image = Linear(), torch.zeros(1, 1, 1, 1)
    batches = [(image, torch.tensor([0])), (image, torch.tensor([1]))]
    gradients = [torch.autograd.grad(F.cross_entropy(model(x), y), model.w)[0] for x, y in batches]
    assert [float(g) for g in gradients] == [-0.5, 0.5]
    with torch.no_grad():
        model.w.fill_(1e-3)
    scores = fisher_scores(model, batches)  # type: ignore[arg-type]
    assert float(scores["w"]) == pytest.approx(1e-6 * 0.25, rel=1e-3)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_vit()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fisher_scores(model, batches_for(model))
    assert all(value.grad is None and value.requires_grad for value in model.parameters())
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_bfloat16_scores_are_near_and_float32() -> None:
    model = tiny_vit()
    exact = group_importance(TINY_PLAN, fisher_scores(model, batches_for(model)))
    rough_scores = fisher_scores(model, batches_for(model), bf16=True)
    assert {value.dtype for value in rough_scores.values()} == {torch.float32}
    rough = group_importance(TINY_PLAN, rough_scores)
    assert not np.array_equal(rough.embed, exact.embed)
    np.testing.assert_allclose(rough.embed, exact.embed, rtol=0.3)


def test_no_images_is_an_error() -> None:
    with pytest.raises(PlanError, match=r"Importance needs images. Got none."):
        fisher_scores(tiny_vit(), [])


def test_groups_sum_what_belongs_to_a_unit() -> None:
    """Written out by hand for every kind of parameter, against the table that slicing selects by."""
    model = sliced_model("deit-distilled")
    plan = model.plan
    s = {name: value.double().numpy() for name, value in fisher_scores(model, batches_for(model)).items()}
    importance = group_importance(plan, {name: torch.from_numpy(value) for name, value in s.items()})
    embed = np.zeros(plan.embed_dim)
    for d in range(plan.embed_dim):
        embed[d] += s["patch_embed.weight"][d].sum() + s["patch_embed.bias"][d]
        embed[d] += s["cls_token"][0, :, d].sum() + s["dist_token"][0, :, d].sum() + s["pos_embed"][0, :, d].sum()
        embed[d] += s["head.weight"][:, d].sum() + s["head_dist.weight"][:, d].sum()
        embed[d] += s["norm.weight"][d] + s["norm.bias"][d]
        for i in range(len(plan.blocks)):
            b = f"blocks.{i}."
            for norm in ("norm1", "norm2"):
                embed[d] += s[f"{b}{norm}.weight"][d] + s[f"{b}{norm}.bias"][d]
            for part in "qkv":
                embed[d] += s[f"{b}attn.{part}.weight"][:, d].sum()
            embed[d] += s[f"{b}attn.proj.weight"][d].sum() + s[f"{b}attn.proj.bias"][d]
            embed[d] += s[f"{b}mlp.fc1.weight"][:, d].sum()
            embed[d] += s[f"{b}mlp.fc2.weight"][d].sum() + s[f"{b}mlp.fc2.bias"][d]
    np.testing.assert_allclose(importance.embed, embed, rtol=1e-9)
    for i, block in enumerate(plan.blocks):
        b, got = f"blocks.{i}.", importance.blocks[i]
        assert got.qk.shape == (block.num_heads, block.qk_dim)
        assert got.v.shape == (block.num_heads, block.v_dim)
        assert got.mlp.shape == (block.mlp_dim,)
        for head in range(block.num_heads):
            for dim in range(block.qk_dim):
                row = head * block.qk_dim + dim
                qk = sum(s[f"{b}attn.{p}.weight"][row].sum() + s[f"{b}attn.{p}.bias"][row] for p in "qk")
                v = s[f"{b}attn.v.weight"][row].sum() + s[f"{b}attn.v.bias"][row]
                v += s[f"{b}attn.proj.weight"][:, row].sum()
                assert got.qk[head, dim] == pytest.approx(qk, rel=1e-9)
                assert got.v[head, dim] == pytest.approx(v, rel=1e-9)
        for unit in range(block.mlp_dim):
            mlp = s[f"{b}mlp.fc1.weight"][unit].sum() + s[f"{b}mlp.fc1.bias"][unit]
            mlp += s[f"{b}mlp.fc2.weight"][:, unit].sum()
            assert got.mlp[unit] == pytest.approx(mlp, rel=1e-9)


def test_residual_scales_and_first_norm_count_for_their_dimension() -> None:
    for key, names in (
        ("deit3", ("blocks.1.gamma1", "blocks.2.gamma2")),
        ("clip", ("norm_pre.weight", "norm_pre.bias")),
    ):
        model = sliced_model(key)
        zero = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
        for k, name in enumerate(names, 1):
            zero[name][5 * k] = k
        embed = group_importance(model.plan, zero).embed
        assert embed.nonzero()[0].tolist() == [5, 10]
        assert embed[[5, 10]].tolist() == [1, 2]


def test_a_unit_without_weights_is_worth_nothing() -> None:
    model = tiny_vit()
    with torch.no_grad():
        block = model.blocks[0]
        for value in (block.mlp.fc1.weight[3], block.mlp.fc1.bias[3], block.mlp.fc2.weight[:, 3]):
            value.zero_()
        for part in (block.attn.q, block.attn.k):  # head 1, dimension 2 of 16
            part.weight[18].zero_()
            part.bias[18].zero_()
        for value in (block.attn.v.weight[9], block.attn.v.bias[9], block.attn.proj.weight[:, 9]):  # head 1, dim 1 of 8
            value.zero_()
    importance = group_importance(TINY_PLAN, fisher_scores(model, batches_for(model)))
    first = importance.blocks[0]
    assert first.mlp[3] == 0
    assert first.qk[1, 2] == 0
    assert first.v[1, 1] == 0
    assert (np.delete(first.mlp, 3) > 0).all()
    assert np.count_nonzero(first.qk == 0) == np.count_nonzero(first.v == 0) == 1
    assert (importance.embed > 0).all()
