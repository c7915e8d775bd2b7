"""What pruning took from a model, given back by the weights that are left: least squares, block after block."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from compress.devices import copy_on, device_in_use
from runtime import PlanError, Progress, ShapePlan, silent

from .slicing import KeptUnits, plan_of
from .vit import Block, SlicedViT

RIDGE = 1e-2
"""Of the mean square of what a Linear reads: how strongly weights are held where they are."""

_TOKENS, _LEAST_IMAGES = 16_384, 64
_BIAS_RIDGE = 1e-6


@dataclass
class _Streams:
    """The residual streams of one batch: the sliced model's, and the whole one's."""

    own: torch.Tensor
    whole: torch.Tensor


def images_needed(plan: ShapePlan) -> int:
    """Returns how many images give least squares enough to go by: 16,384 tokens, and 64 images at least."""
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
    """Returns a copy of a sliced model whose residual stream follows that of the whole model as closely as it can.

    In every block, attention's projection and the MLP's second Linear write to the residual stream. One after the
    other, each is given the weights W and biases b that minimise, over all tokens of the images,

        ``sum ||x + W h + b - y||^2 + ridge * sum(h^2) / len(h) * ||W - W_sliced||^2``

    with x the sliced model's residual stream before it and h what it reads, both of the model as mended so far, and y
    the kept dimensions of the whole model's residual stream after it. The last block has to make good what blocks
    that are gone wrote. No label is used and no gradient taken.

    Args:
        model: ``slice_vit(whole, kept)``; left as it is.
        whole: the model before slicing; left as it is.
        kept: the units that stayed.
        batches: images ``(B, C, H, W)``, float32; ``images_needed`` in all.
        ridge: above 0; the larger, the closer W stays to what it was.
        device: where to compute; by default where ``use_device`` says. What is returned lives on the CPU.
        progress: told after every block.

    Raises:
        PlanError: these units do not leave this model, there are no images, or ``ridge`` is out of range.

    Ref: He, Zhang and Sun 2017 (arXiv 1707.06168), eq. 5, rebuild one layer's output at a time so; here the target is
        the residual stream, so that later layers make good what earlier ones could not.
    """
    if plan_of(whole.plan, kept) != model.plan:
        raise PlanError("These units of the whole model do not leave the sliced one")
    if not 0 < ridge < math.inf:
        raise PlanError("ridge must be positive", got=ridge)
    device = device or device_in_use()
    mended, other = copy.deepcopy(model).to(device), copy_on(whole, device)
    stays = torch.tensor(kept.embed, device=device)
    with torch.no_grad():
        streams = [_Streams(_first(mended, images.to(device)), _first(other, images.to(device))) for images in batches]
        if not streams:
            raise PlanError("Reconstruction needs images", got="none")
        blocks, theirs = ([cast(Block, block) for block in one.blocks] for one in (mended, other))
        for index, block in enumerate(blocks):
            done = index + 1
            _mend_block(block, theirs[index : done if done < len(blocks) else None], streams, stays, ridge)
            progress("reconstruct", done, len(blocks))
    return mended.cpu()


def _first(model: SlicedViT, images: torch.Tensor) -> torch.Tensor:
    """Returns the residual stream before the first block."""
    stream: torch.Tensor = model.norm_pre(model.embed(images))
    return stream


def _mend_block(
    block: Block, theirs: Sequence[Block], streams: Sequence[_Streams], stays: torch.Tensor, ridge: float
) -> None:
    """Mends both writers of a block, and moves the streams on; the whole model's go through all of its blocks."""
    for each in streams:
        each.whole = _attended(theirs[0], each.whole)
    _mend(block.attn.proj, block.gamma1, lambda x: block.attn.mixed(block.norm1(x)), streams, stays, ridge)
    for each in streams:
        each.own = _attended(block, each.own)
        each.whole = _transformed(theirs[0], each.whole)
        for further in theirs[1:]:
            each.whole = further(each.whole)
    _mend(block.mlp.fc2, block.gamma2, lambda x: block.mlp.hidden(block.norm2(x)), streams, stays, ridge)
    for each in streams:
        each.own = _transformed(block, each.own)


def _attended(block: Block, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = block.attn(block.norm1(x))
    return x + (out if block.gamma1 is None else out * block.gamma1)


def _transformed(block: Block, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = block.mlp(block.norm2(x))
    return x + (out if block.gamma2 is None else out * block.gamma2)


def _mend(
    linear: nn.Linear,
    gamma: torch.Tensor | None,
    read: Callable[[torch.Tensor], torch.Tensor],
    streams: Sequence[_Streams],
    stays: torch.Tensor,
    ridge: float,
) -> None:
    """Solves for what is to be added to the weights and biases of one Linear, and adds it.

    Sums run in float64 over batches, products within one in the model's precision.
    """
    width = linear.in_features + (linear.bias is not None)
    squares = torch.zeros(width, width, dtype=torch.float64, device=stays.device)
    products = torch.zeros(width, linear.out_features, dtype=torch.float64, device=stays.device)
    for each in streams:
        h = read(each.own)
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
        # a scale of zero passes nothing on, whatever the weights
        added = torch.where(gamma[:, None] == 0, 0.0, added / gamma[:, None])
    linear.weight.add_(added[:, : linear.in_features])
    if linear.bias is not None:
        linear.bias.add_(added[:, -1])
