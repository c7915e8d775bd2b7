"""Reconstruction of a pruned model: least squares fit the remaining weights to the whole model, block by block."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn

from compress.devices import copy_on, device_in_use
from runtime import PlanError, Progress, ShapePlan, silent

from .parts.block import Block
from .slicing import KeptUnits, plan_of, same_widths
from .vit import SlicedViT

RIDGE = 1e-2
"""Ridge as a share of the mean square of a Linear's input: how strongly weights are kept near their values."""

_TOKENS, _LEAST_IMAGES = 16_384, 64
_BIAS_RIDGE = 1e-6


@dataclass
class _Streams:
    """The residual streams of one batch in the sliced model (``own``) and in the whole model.

    ``before`` and ``whole_before`` are those that the MLP of the present block reads: those before its attention in a
    parallel block, else those after it.
    """

    own: torch.Tensor
    whole: torch.Tensor
    before: torch.Tensor = field(init=False)
    whole_before: torch.Tensor = field(init=False)


def images_needed(plan: ShapePlan) -> int:
    """Returns how many images the least squares need: 16,384 tokens, and at least 64 images."""
    return max(_LEAST_IMAGES, math.ceil(_TOKENS / plan.num_tokens))


def reconstruct(
    model: SlicedViT,
    whole: SlicedViT,
    kept: KeptUnits,
    batches: Iterable[torch.Tensor],
    *,
    ridge: float = RIDGE,
    device: torch.device | None = None,
    progress: Progress = silent,
) -> SlicedViT:
    """Returns a copy of a sliced model whose residual stream is as close as possible to that of the whole model.

    In every block, attention's projection and the MLP's second Linear write to the residual stream. One after the
    other, each gets the weights W and biases b that minimise, over all tokens of the images,

        ``sum ||x + W h + b - y||^2 + ridge * sum(h^2) / len(h) * ||W - W_sliced||^2``

    where x is the residual stream before the Linear and h its input, both in the sliced model as reconstructed so far,
    and y holds the kept dimensions of the whole model's residual stream after it. The last block also compensates for
    removed blocks. No label and no gradient is used.

    Args:
        model: ``slice_vit(whole, kept)``; it is not changed.
        whole: the model before slicing; it is not changed.
        kept: the units of the whole model that the sliced model has.
        batches: images ``(B, C, H, W)``, float32; ``images_needed`` in total.
        ridge: positive; with larger values W stays closer to the sliced weights.
        device: device that computes; None takes the device in use. The result is on the CPU.
        progress: called after every block.

    Raises:
        PlanError: the kept units do not give the sliced model, there are no images, or ``ridge`` is out of range.

    Ref: He, Zhang and Sun 2017 (arXiv 1707.06168), eq. 5, reconstruct the output of one layer at a time; here the
        target is the residual stream, so that later layers also correct the errors of earlier ones.
    """
    if not same_widths(plan_of(whole.plan, kept), model.plan):
        raise PlanError("These units of the whole model do not leave the sliced one")
    if not 0 < ridge < math.inf:
        raise PlanError("ridge must be positive", got=ridge)
    device = device or device_in_use()
    mended, other = copy.deepcopy(model).to(device), copy_on(whole, device)
    stays = torch.tensor(kept.embed, device=device)
    with torch.no_grad():
        streams = [_Streams(mended.stream(images.to(device)), other.stream(images.to(device))) for images in batches]
        if not streams:
            raise PlanError("Reconstruction needs images", got="none")
        blocks, theirs = ([cast(Block, block) for block in one.blocks] for one in (mended, other))
        for index, block in enumerate(blocks):
            done = index + 1
            _mend_block(block, theirs[index : done if done < len(blocks) else None], streams, stays, ridge)
            progress("reconstruct", done, len(blocks))
    return mended.cpu()


def _mend_block(
    block: Block, theirs: Sequence[Block], streams: Sequence[_Streams], stays: torch.Tensor, ridge: float
) -> None:
    """Fits both writers of a block and advances the streams, those of the whole model through all its blocks."""
    if block.kind == "post":  # what its Linears write is normed before it reaches the stream
        for each in streams:
            each.own = block(each.own)
            for other in theirs:
                each.whole = other(each.whole)
        return
    for each in streams:
        before, each.before = each.whole, each.own
        each.whole = _attended(theirs[0], before)
        each.whole_before = before if block.kind == "parallel" else each.whole
    _mend(
        block.attn.proj,
        block.gamma1,
        lambda own: block.attn.mixed(block.attention_read(own.own)),
        streams,
        stays,
        ridge,
    )
    for each in streams:
        each.own = _attended(block, each.own)
        if block.kind != "parallel":
            each.before = each.own  # the stream before the attention is not held: all batches' would be at once
        each.whole = each.whole_before = _transformed(theirs[0], each.whole, each.whole_before)
        for further in theirs[1:]:
            each.whole = further(each.whole)
    _mend(
        block.mlp.fc2,
        block.gamma2,
        lambda own: block.mlp.hidden(block.mlp_read(own.own, own.before)),
        streams,
        stays,
        ridge,
    )
    for each in streams:
        each.own = _transformed(block, each.own, each.before)


def _attended(block: Block, x: torch.Tensor) -> torch.Tensor:
    return x + block.attention_written(block.attn(block.attention_read(x)))


def _transformed(block: Block, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    return x + block.mlp_written(block.mlp(block.mlp_read(x, before)))


def _mend(
    linear: nn.Linear,
    gamma: torch.Tensor | None,
    read: Callable[[_Streams], torch.Tensor],
    streams: Sequence[_Streams],
    stays: torch.Tensor,
    ridge: float,
) -> None:
    """Solves for the change of one Linear's weights and biases, and applies it.

    Sums over batches are in float64, and products within a batch in the model's precision.
    """
    width = linear.in_features + (linear.bias is not None)
    squares = torch.zeros(width, width, dtype=torch.float64, device=stays.device)
    products = torch.zeros(width, linear.out_features, dtype=torch.float64, device=stays.device)
    for each in streams:
        h = read(each)
        out = linear(h)
        missing = each.whole[..., stays] - each.own - (out if gamma is None else out * gamma)
        h, missing = h.flatten(0, -2), missing.flatten(0, -2)
        if linear.bias is not None:
            h = torch.cat([h, h.new_ones(len(h), 1)], dim=1)
        squares += h.T @ h
        products += h.T @ missing
    held = torch.full((width,), float(squares.diagonal()[: linear.in_features].mean()) * ridge)
    if linear.bias is not None:
        held[-1] = float(squares[-1, -1]) * _BIAS_RIDGE
    added = torch.linalg.solve(squares + torch.diag(held.to(squares)), products).T
    if gamma is not None:
        # behind a LayerScale of zero the weights have no effect
        added = torch.where(gamma[:, None] == 0, 0.0, added / gamma[:, None])
    linear.weight.add_(added[:, : linear.in_features])
    if linear.bias is not None:
        linear.bias.add_(added[:, -1])
