"""Prunes with the package Torch-Pruning, by its own recipe for timm's ViTs, and returns what is left as ours."""

from __future__ import annotations

from typing import Any

import torch

from compress.budget import Budget
from compress.model.load import ModelSpec
from compress.model.timm_vit import from_timm, to_timm
from compress.model.vit import SlicedViT


def torch_pruned(
    baseline: SlicedViT, spec: ModelSpec, budget: Budget, gradients: dict[str, torch.Tensor], ranked: bool
) -> SlicedViT:
    """Prunes at the largest ratio that leaves no less than the budget.

    No less, not no more: its widths move together, so it cannot land on the budget, and the difference is to its good.
    The arguments are those of ``torch_pruned_around``.
    """
    return torch_pruned_around(baseline, spec, budget, gradients, ranked)[0]


def torch_pruned_around(
    baseline: SlicedViT,
    spec: ModelSpec,
    budget: Budget,
    gradients: dict[str, torch.Tensor],
    ranked: bool,
    costs: dict[float, int] | None = None,
) -> tuple[SlicedViT, ...]:
    """Returns the smallest model of at least the budget, and the largest below it; one model where it is exactly met.

    Args:
        baseline: the model to prune, unpruned.
        spec: timm's name for it, and its input.
        budget: what to reach.
        gradients: of its parameters, by timm's names.
        ranked: rank the units of all layers together, and do not take the same ratio of each layer.
        costs: what models of the same plan cost after pruning by a ratio, as far as known; new ones are added. Without
            ranking, the cost depends on nothing but the ratio.

    Raises:
        PlanError: the package cannot go below the budget.
    """
    known = {} if costs is None else costs
    low, high, made = 0.0, 1.0, {0.0: baseline}
    for _ in range(9):
        ratio = (low + high) / 2
        if ratio not in known:
            made[ratio] = torch_pruned_by(baseline, spec, gradients, ratio, ranked)
            known[ratio] = budget.of(made[ratio].plan)
        if known[ratio] >= budget.limit:
            low = ratio
        else:
            high = ratio
    if high == 1:
        raise budget.unreachable(known[low])
    ends = (low,) if low and known[low] == budget.limit else (low, high)
    return tuple(made.get(ratio) or torch_pruned_by(baseline, spec, gradients, ratio, ranked) for ratio in ends)


def torch_pruned_by(
    baseline: SlicedViT, spec: ModelSpec, gradients: dict[str, torch.Tensor], ratio: float, ranked: bool
) -> SlicedViT:
    """Prunes as ``pruned_timm`` does, and returns a ``SlicedViT`` with the outputs of what is left."""
    return sliced_of(*pruned_timm(baseline, spec, gradients, ratio, ranked))


def pruned_timm(
    baseline: SlicedViT, spec: ModelSpec, gradients: dict[str, torch.Tensor], ratio: float, ranked: bool
) -> tuple[Any, dict[Any, int]]:
    """Prunes as the package's example for timm's ViTs does (``examples/transformers/prune_timm_vit.py``).

    Args:
        baseline: the model to prune.
        spec: as for ``torch_pruned``.
        gradients: of its parameters, by timm's names.
        ratio: of the units to remove, 0..1.
        ranked: rank the units of all layers together, and do not take the same ratio of each layer.

    Returns:
        The pruned module of timm, and the number of heads of each of its joint layers of queries, keys and values.
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
        unwrapped_parameters=[(value, value.ndim - 1) for value in _loose(model)],
    )
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    pruner.step()
    return model, pruner.num_heads


def _loose(model: Any) -> list[torch.nn.Parameter]:
    """Returns the parameters that the package has no rule for: tokens, positions and LayerScale, embed_dim last."""
    known = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.LayerNorm)
    others = [module for module in model.modules() if not isinstance(module, known)]
    return [value for module in others for value in module.parameters(recurse=False)]


def attend(self: Any, x: torch.Tensor, **unused: Any) -> torch.Tensor:
    """Attends as timm's ``Attention`` does, and takes head widths other than those it was made with."""
    b, n, _ = x.shape
    q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
    return self.proj(mixed.transpose(1, 2).reshape(b, n, -1))  # type: ignore[no-any-return]


def timm_of(model: SlicedViT, spec: ModelSpec) -> Any:
    """Returns an unpruned model as timm's own module, with equal outputs.

    Args:
        model: the model, whose plan is that of the architecture.
        spec: its architecture and its input.
    """
    import timm

    sizes = {"img_size": spec.img_size, "patch_size": spec.patch_size}
    other = timm.create_model(
        spec.name,
        in_chans=spec.in_chans,
        num_classes=model.plan.num_classes,
        **{name: value for name, value in sizes.items() if value is not None},
        **spec.overrides,
    )
    weights = to_timm(model.state_dict(), other.state_dict().keys())
    other.load_state_dict({name: value.clone() for name, value in weights.items()})
    return other.eval()


def sliced_of(model: Any, heads: dict[Any, int]) -> SlicedViT:
    """Returns a model that Torch-Pruning has pruned; attention keeps the scale it was trained with."""
    for block in model.blocks:
        block.attn.num_heads = heads[block.attn.qkv]
        block.attn.head_dim = block.attn.qkv.out_features // (3 * block.attn.num_heads)
    model.embed_dim = model.norm.normalized_shape[0]
    return from_timm(model)
