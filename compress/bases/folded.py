"""A model in its best bases, and what a cut of it gives."""

from __future__ import annotations

from dataclasses import replace

import torch

from compress.importance.units import together
from compress.model.canonical import rotate_stream
from compress.model.parts.axes import EMBED, Axis
from compress.model.slicing import KeptUnits, axis_indices, plan_of, slice_vit
from compress.model.vit import SlicedViT, build
from runtime import ShapePlan

from .heads import ordering, query_key_basis, value_basis
from .hidden import fitted
from .moments import BlockMoments, Moments
from .sensitivity import Sensitivity, metric_root
from .turning import turn_rows

Weights = dict[str, torch.Tensor]


def in_best_bases(model: SlicedViT, moments: Moments, felt: Sensitivity) -> tuple[SlicedViT, Moments, torch.Tensor]:
    """Returns the model in its best bases, its moments there, and the basis of the stream ``(C, C)``.

    In every head the first units matter most. The first dimensions of the stream hold the most energy, where the stream
    can be rotated; else its basis is the identity.
    """
    w = {name: value.detach().double() for name, value in model.state_dict().items()}
    blocks = []
    for i, own in enumerate(moments.blocks):
        blocks.append(_rotate_heads(w, model.plan, i, own, felt.attended[i]))
    basis = torch.eye(model.plan.embed_dim, dtype=torch.float64)
    if model.plan.norm_type == "rms":
        _, vectors = torch.linalg.eigh(moments.stream)
        basis = vectors.flip(1)
        w = rotate_stream(model.plan, w, basis)
    inputs = {name: basis.T @ value @ basis for name, value in moments.inputs.items()}
    turned = Moments(tuple(blocks), basis.T @ moments.stream @ basis, inputs)
    return build(model.plan, w, model.head.weight.dtype), turned, basis


def _rotate_heads(w: Weights, plan: ShapePlan, index: int, own: BlockMoments, metric: torch.Tensor) -> BlockMoments:
    """Changes the weights of one block to the best bases, and returns the moments in them.

    Where a rotation or a norm stands behind queries and keys, or a norm behind values, their units are only ordered.
    """
    at, block = f"blocks.{index}.attn", plan.blocks[index]
    heads, v = block.num_heads, block.v_dim
    if plan.mixes_qk:
        to_q, to_k = query_key_basis(own.queries, own.keys)
    else:
        to_q = to_k = _ordered_queries(w, plan, at, own)
    for part, turn in (("q", to_q), ("k", to_k)):
        turn_rows(w, f"{at}.{part}", turn)
    parts = torch.stack([own.mixed[h * v : (h + 1) * v, h * v : (h + 1) * v] for h in range(heads)])
    projection = w[f"{at}.proj.weight"].view(-1, heads, v).transpose(0, 1)
    if plan.attn_norm:
        felt = (metric_root(metric) @ projection).square().sum(1)
        to_v = ordering(parts.diagonal(dim1=1, dim2=2) * felt)
        back = to_v.transpose(1, 2)
        for name in ("weight", "bias"):
            w[f"{at}.norm.{name}"] = (to_v @ w[f"{at}.norm.{name}"].view(heads, v, 1)).flatten()
    else:
        to_v, back = value_basis(parts, metric_root(metric) @ projection)
    turn_rows(w, f"{at}.v", to_v)
    w[f"{at}.proj.weight"] = (projection @ back).transpose(0, 1).reshape(-1, heads * v)
    whole = _block_diagonal(to_v)
    return replace(
        own,
        queries=to_q @ own.queries @ to_q.transpose(-2, -1),
        keys=to_k @ own.keys @ to_k.transpose(-2, -1),
        mixed=whole @ own.mixed @ whole.T,
    )


def _ordered_queries(w: Weights, plan: ShapePlan, at: str, own: BlockMoments) -> torch.Tensor:
    """Returns the order of each head's queries and keys as maps ``(H, d, d)``; their norms and tables follow it."""
    energy = (own.queries.diagonal(dim1=1, dim2=2) * own.keys.diagonal(dim1=1, dim2=2)).sqrt()
    order = ordering(together(plan, energy))
    for part in ("q_norm", "k_norm"):
        for name in (f"{at}.{part}.weight", f"{at}.{part}.bias"):
            if name in w:
                w[name] = (order @ w[name].view(*energy.shape, 1)).flatten()
    if plan.rope != "none":
        tables = len(order) if plan.rope == "per_head" else 1
        pairs = order[:tables, 0::2, 0::2]
        for name in (f"{at}.rope.cos", f"{at}.rope.sin"):
            table = w[name].view(len(w[name]), tables, -1)
            w[name] = torch.einsum("npc,pdc->npd", table, pairs).flatten(1)
    return order


def _block_diagonal(turn: torch.Tensor) -> torch.Tensor:
    """Returns ``(H * d + 1, H * d + 1)`` with the maps of all heads on the diagonal, and a one for the bias."""
    heads, d, _ = turn.shape
    whole = torch.zeros(heads * d + 1, heads * d + 1, dtype=turn.dtype)
    for head, own in enumerate(turn):
        whole[head * d : (head + 1) * d, head * d : (head + 1) * d] = own
    whole[-1, -1] = 1.0
    return whole


def cut_and_fit(model: SlicedViT, moments: Moments, kept: KeptUnits) -> SlicedViT:
    """Returns the sliced model, with both writers of every block fitted to the whole block's output.

    Least squares give the part of removed heads, values and hidden units to those that stay. In a stream that was cut,
    the mean energy of the removed dimensions goes into each norm's epsilon.

    Args:
        model: the model in its best bases.
        moments: its moments.
        kept: the units that stay.
    """
    sliced = slice_vit(model, kept)
    if plan_of(model.plan, kept) == model.plan:
        return sliced
    w, index = dict(sliced.state_dict()), axis_indices(model.plan, kept)
    whole, rows = model.state_dict(), index[EMBED]
    for i, own in enumerate(moments.blocks[: len(kept.blocks)]):
        for name, moment, units in (
            ("attn.proj", own.mixed, index[Axis("v", i)]),
            ("mlp.fc2", own.hidden, index[Axis("mlp", i)]),
        ):
            at = f"blocks.{i}.{name}"
            if len(units) + 1 == len(moment):
                continue
            full = torch.cat([whole[f"{at}.weight"], whole[f"{at}.bias"][:, None]], 1).double()[rows]
            fit = fitted(moment, full, units).float()
            w[f"{at}.weight"], w[f"{at}.bias"] = fit[:, :-1].contiguous(), fit[:, -1].contiguous()
    return build(with_lost_energy(sliced.plan, moments, kept), w)


def with_lost_energy(plan: ShapePlan, moments: Moments, kept: KeptUnits) -> ShapePlan:
    """Returns the plan with the mean energy that each norm's input has lost in its epsilon."""
    if plan.norm_type != "rms" or len(kept.embed) == len(moments.stream):
        return plan
    dim = plan.norm_dim or plan.embed_dim
    stays = list(kept.embed)
    lost = {}
    for name, moment in moments.inputs.items():
        energy = moment.diagonal()
        lost[name] = max(0.0, float(energy.sum() - energy[stays].sum())) / dim
    return replace(plan, norm_eps=tuple(plan.eps_of(name) + lost.get(name, 0.0) for name in plan.norm_names))
