"""Random rotations of a model's stream and heads that keep its function and spread outlying channels over all."""

from __future__ import annotations

import torch

from compress.model.canonical import canonical, folds_norms, keeps_norms, plain_norms, rotate_stream
from compress.model.vit import SlicedViT, build
from runtime import ShapePlan

from .turning import random_rotation, turned_heads


def rotated_model(model: SlicedViT, seed: int = 0, layer_norms: bool = False) -> SlicedViT:
    """Returns a model in float64 that computes the same function in random coordinates.

    The residual stream is rotated, and in every head the space of queries and keys and that of values. Norms are folded
    into the Linears that read them. A LayerNorm is the same in all coordinates whose rotation maps the vector of ones
    to itself, so models with LayerNorms keep them. A model with a norm after the embedding becomes one of RMSNorms with
    a Linear behind that norm. Hidden units are made equally large where the activation is ReLU, which alone lets a
    positive factor pass, and where a gate multiplies them. What a norm inside a block reads keeps its basis, and so do
    queries and keys with rotary positions.

    Args:
        model: the model; it is not changed.
        seed: of the rotations.
        layer_norms: whether a model with LayerNorms must keep them. Where a norm follows the embedding, only the heads
            are rotated then, as where norms stand behind the branches of blocks.

    Ref: Ashkboos et al. 2024 (QuaRot, arXiv 2404.00456), sections 4.1 and 4.2; Liu et al. 2024 (SpinQuant, arXiv
    2405.16406), section 3.
    """
    plan, generator = model.plan, torch.Generator().manual_seed(seed)
    basis: torch.Tensor | None = None
    early = plan.norm_pre or plan.patch_norm
    if plan.norm_type == "rms" or (early and folds_norms(plan) and not layer_norms):
        plain = canonical(model, torch.float64)
        basis = random_rotation(plan.embed_dim, generator)
    else:
        plain = plain_norms(model, torch.float64)
        if not early and not keeps_norms(plan):
            basis = mean_keeping_rotation(plan.embed_dim, generator)
    w = {name: value.detach() for name, value in plain.state_dict().items()}
    w = turned_heads(plain.plan, w, generator)
    if (plan.act == "relu" or plan.gated_mlp) and not plan.mlp_norm:
        w = equal_hidden_units(plain.plan, w)
    if basis is not None:
        w = rotate_stream(plain.plan, w, basis)
    return build(plain.plan, w, torch.float64)


def equal_hidden_units(plan: ShapePlan, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the weights of the same function in which fc1's rows are as large as fc2's columns.

    It is exact for ReLUs, and for hidden units that a gate multiplies.

    Ref: Nagel et al. 2019, arXiv 1906.04721, eq. 11, with norms in place of ranges.
    """
    w = dict(weights)
    for name in (f"blocks.{i}.mlp" for i in range(len(plan.blocks))):
        written = torch.cat([w[f"{name}.fc1.weight"], w[f"{name}.fc1.bias"][:, None]], 1).norm(dim=1)
        read = w[f"{name}.fc2.weight"].norm(dim=0)
        factor = torch.where((written > 0) & (read > 0), (read / written).sqrt(), torch.ones_like(read))
        w[f"{name}.fc1.weight"] = w[f"{name}.fc1.weight"] * factor[:, None]
        w[f"{name}.fc1.bias"] = w[f"{name}.fc1.bias"] * factor
        w[f"{name}.fc2.weight"] = w[f"{name}.fc2.weight"] / factor
    return w


def mean_keeping_rotation(size: int, generator: torch.Generator) -> torch.Tensor:
    """Returns a random orthogonal matrix ``(size, size)``, float64, that maps the vector of ones to itself.

    A reflection that swaps the first axis with the direction of ones turns a rotation of all other axes into it.
    """
    inner = torch.eye(size, dtype=torch.float64)
    inner[1:, 1:] = random_rotation(size - 1, generator)
    axis = torch.full((size,), -(size**-0.5), dtype=torch.float64)
    axis[0] += 1
    mirror = torch.eye(size, dtype=torch.float64)
    if size > 1:
        mirror -= 2 * torch.outer(axis, axis) / axis.dot(axis)
    turned: torch.Tensor = mirror @ inner @ mirror
    return turned
