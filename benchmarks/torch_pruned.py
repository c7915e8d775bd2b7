"""Prunes with the package Torch-Pruning, by its own recipe for timm's ViTs, and returns what is left as ours."""

from __future__ import annotations

from typing import Any

import torch

from compress.budget import Budget
from compress.model.load import ModelSpec
from compress.model.timm_vit import from_timm
from compress.model.vit import SlicedViT


def torch_pruned(
    baseline: SlicedViT, spec: ModelSpec, budget: Budget, gradients: dict[str, torch.Tensor], ranked: bool
) -> SlicedViT:
    """Prunes at the largest ratio that leaves no less than the budget.

    No less, not no more: its widths move together, so it cannot land on the budget, and the difference is to its good.

    Args:
        baseline: the model to prune, unpruned.
        spec: timm's name for it, and its input.
        budget: what to reach.
        gradients: of its parameters, by timm's names.
        ranked: rank the units of all layers together, and do not take the same ratio of each layer.
    """
    low, high, best = 0.0, 0.8, baseline
    for _ in range(9):
        ratio = (low + high) / 2
        model = torch_pruned_by(baseline, spec, gradients, ratio, ranked)
        if budget.of(model.plan) >= budget.limit:
            low, best = ratio, model
        else:
            high = ratio
    return best


def torch_pruned_by(
    baseline: SlicedViT, spec: ModelSpec, gradients: dict[str, torch.Tensor], ratio: float, ranked: bool
) -> SlicedViT:
    """Prunes as the package's example for timm's ViTs does (``examples/transformers/prune_timm_vit.py``).

    Args:
        baseline: the model to prune.
        spec: as for ``torch_pruned``.
        gradients: of its parameters, by timm's names.
        ratio: of the units to remove, 0..1.
        ranked: rank the units of all layers together, and do not take the same ratio of each layer.
    """
    import torch_pruning as tp
    from timm.models.vision_transformer import Attention

    model, plan, heads = timm_of(baseline, spec), baseline.plan, {}
    for module in model.modules():
        if isinstance(module, Attention):
            module.forward = attend.__get__(module)
            heads[module.qkv] = module.num_heads
    pruner = tp.pruner.MetaPruner(
        model,
        torch.zeros(1, plan.in_chans, *plan.img_size),
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=ranked,
        pruning_ratio=ratio,
        ignored_layers=[model.head],
        num_heads=heads,
        prune_num_heads=False,
        prune_head_dims=True,
        round_to=8,
    )
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    pruner.step()
    return sliced_of(model, pruner.num_heads)


def attend(self: Any, x: torch.Tensor, **unused: Any) -> torch.Tensor:
    """Attends as timm's ``Attention`` does, and takes head widths other than those it was made with."""
    b, n, _ = x.shape
    q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return self.proj(mixed.transpose(1, 2).reshape(b, n, -1))  # type: ignore[no-any-return]


def timm_of(model: SlicedViT, spec: ModelSpec) -> Any:
    """Returns an unpruned model as timm's own module."""
    import timm

    other = timm.create_model(
        spec.name,
        img_size=spec.img_size,
        patch_size=spec.patch_size,
        in_chans=spec.in_chans,
        num_classes=model.plan.num_classes,
    )
    weights = {name.replace("patch_embed.", "patch_embed.proj."): w.clone() for name, w in model.state_dict().items()}
    for name in [name for name in weights if ".attn.q." in name]:
        parts = [weights.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        weights[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    other.load_state_dict(weights)
    return other.eval()


def sliced_of(model: Any, heads: dict[Any, int]) -> SlicedViT:
    """Returns a model that Torch-Pruning has pruned; attention keeps the scale it was trained with."""
    for block in model.blocks:
        block.attn.num_heads = heads[block.attn.qkv]
        block.attn.head_dim = block.attn.qkv.out_features // (3 * block.attn.num_heads)
    model.embed_dim = model.norm.normalized_shape[0]
    return from_timm(model)
