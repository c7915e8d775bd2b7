"""The supernet of a transformable architecture search: one set of weights that holds every width and depth.

Narrower candidates use the first units of wider ones. In a step some candidates of every width take part, and the
output of each layer is their weighted sum, interpolated to the channels of the widest one. Interpolation is linear, and
so are the layers that read or write those channels. Blending the weights instead of the features therefore gives the
same model for less work, and one step of the supernet is an ordinary ViT of the widest candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from compress.model.parts.axes import Axis, parameter_axes, table_axes
from compress.model.vit import SlicedViT
from runtime import ShapePlan

from .candidates import DEPTH, EMBED, Candidates, Choice, plan_with
from .interpolation import interpolate_channels, interpolate_readers
from .sampling import Pick, pick_some, relaxed
from .settings import Alignment

_WRITERS = (
    *("patch_embed.weight", "patch_embed.bias", "cls_token", "dist_token", "reg_token", "pos_embed"),
    *("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
)
"""Endings of the names of parameters that write to the residual stream."""

_PRE = "pre."
"""Beginning of the names of the Linear that writes to the residual stream behind an RMSNorm of the embedding."""


@dataclass(frozen=True)
class Sample:
    """The candidates of one step.

    Attributes:
        picks: drawn candidates of every width.
        depths: candidates of the depth.
        shares: weights of the residual streams after each depth, ``(len(depths),)``, which sum to 1.
        align: how channels of two candidates are added.
    """

    picks: Mapping[Choice, Pick]
    depths: tuple[int, ...]
    shares: torch.Tensor
    align: Alignment = "mask"


def draw_sample(
    logits: Mapping[Choice, torch.Tensor],
    candidates: Candidates,
    temperature: float,
    generator: np.random.Generator,
    align: Alignment = "mask",
    count: int = 2,
) -> Sample:
    """Draws the candidates of every width for one step, and the shares of all depths by a Gumbel-softmax sample.

    Args:
        logits: logits of every choice, ``(candidates,)`` float64, with or without gradients.
        candidates: candidates of every choice.
        temperature: temperature of the samples, positive.
        generator: source of all randomness.
        align: how channels of candidates are added.
        count: most candidates of a width.
    """
    shares = relaxed(logits[DEPTH], temperature, generator.random(len(candidates[DEPTH]))).exp()
    picks = {
        choice: pick_some(logits[choice], widths, count, temperature, generator)
        for choice, widths in candidates.items()
        if choice != DEPTH
    }
    return Sample(picks, candidates[DEPTH], shares, align)


def run_sample(model: SlicedViT, sample: Sample, images: torch.Tensor) -> torch.Tensor:
    """Returns the logits ``(B, num_classes)`` of one sample of the supernet.

    Args:
        model: the supernet, with its units in the order in which narrower candidates use them.
        sample: the candidates of the step.
        images: ``(B, C, H, W)``.
    """
    plan, weights = blend(model, sample)
    with torch.device("meta"):
        mixture = _AnyDepth(SlicedViT(plan), sample.depths)
    inner = {f"model.{name}": value for name, value in weights.items()}
    logits: torch.Tensor = functional_call(mixture, inner, (images, sample.shares.to(images.dtype)))
    return logits


def blend(model: SlicedViT, sample: Sample) -> tuple[ShapePlan, dict[str, torch.Tensor]]:
    """Returns the plan and the weights of the ViT that computes a sample of ``model`` at full depth."""
    widest = {choice: pick.widths[-1] for choice, pick in sample.picks.items()}
    plan = plan_with(model.plan, {**widest, DEPTH: sample.depths[-1]})
    axes = parameter_axes(model.plan) | table_axes(model.plan)
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    blended: dict[str, torch.Tensor] = {}
    for name in parameter_axes(plan) | table_axes(plan):
        value: torch.Tensor = weights[name]
        for dim, axis in enumerate(axes[name]):
            if axis is not None:
                value = _blended(value, name, dim, axis, model.plan, sample)
        blended[name] = value
    return plan, blended


def _blended(value: torch.Tensor, name: str, dim: int, axis: Axis, plan: ShapePlan, sample: Sample) -> torch.Tensor:
    """Returns a weight with one of its dimensions blended for the sample."""
    if axis.kind == "pair" and plan.rope == "shared":
        return value
    if axis.kind in ("qk", "v", "pair"):
        block, pick = plan.blocks[axis.block], sample.picks[Choice("heads", axis.block)]
        width = {"qk": block.qk_dim, "v": block.v_dim, "pair": block.qk_dim // 2}[axis.kind]
        per_head = value.reshape(*value.shape[:dim], block.num_heads, width, *value.shape[dim + 1 :])
        reads = name.endswith("proj.weight")
        blended = _reading(per_head, pick, dim, sample.align) if reads else _first(per_head, pick, dim)
        return blended.flatten(dim, dim + 1)
    if axis.kind == "head":
        return _first(value, sample.picks[Choice("heads", axis.block)], dim)
    if axis.kind == "mlp":
        pick = sample.picks[Choice("mlp", axis.block)]
        return _reading(value, pick, dim, sample.align) if name.endswith("fc2.weight") else _first(value, pick, dim)
    if name.endswith(_WRITERS) or name.startswith(_PRE):
        return _writing(value, sample.picks[EMBED], dim, sample.align)
    return _first(value, sample.picks[EMBED], dim)


def _first(value: torch.Tensor, pick: Pick, dim: int) -> torch.Tensor:
    return value.narrow(dim, 0, pick.widths[-1])


def _writing(value: torch.Tensor, pick: Pick, dim: int, align: Alignment) -> torch.Tensor:
    """Returns the weights that write the sum of all candidates' channels, aligned to the widest candidate's."""
    if align == "mask":
        return _masked(value, pick, dim)
    most = pick.widths[-1]
    return _summed([interpolate_channels(value.narrow(dim, 0, width), most, dim) for width in pick.widths], pick)


def _reading(value: torch.Tensor, pick: Pick, dim: int, align: Alignment) -> torch.Tensor:
    """Returns the weights that read the widest candidate's channels as ``value`` reads the sum over all candidates."""
    if align == "mask":
        return _masked(value, pick, dim)
    first = _first(value, pick, dim)
    parts = [interpolate_readers(first, width, dim) for width in pick.widths]
    return _summed([_padded(part, pick.widths[-1], dim) for part in parts], pick)


def _masked(value: torch.Tensor, pick: Pick, dim: int) -> torch.Tensor:
    """Returns the widest candidate's channels, each times the total weight of the candidates that have it."""
    share = (_has(pick.widths) @ pick.weights).to(value.dtype)
    return _first(value, pick, dim) * share.reshape([-1] + [1] * (value.ndim - 1 - dim))


@cache
def _has(widths: tuple[int, ...]) -> torch.Tensor:
    """Returns a matrix ``(widest, candidates)`` that is 1 where a candidate has a channel."""
    return (torch.arange(widths[-1])[:, None] < torch.tensor(widths)).double()


def _padded(value: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    after = 2 * (value.ndim - 1 - dim)
    return F.pad(value, [0] * (after + 1) + [width - value.shape[dim]])


def _summed(parts: list[torch.Tensor], pick: Pick) -> torch.Tensor:
    weighted = [weight * part for weight, part in zip(pick.weights.to(parts[0].dtype), parts, strict=True)]
    return torch.stack(weighted).sum(0)


class _AnyDepth(nn.Module):
    """A ViT whose classifier reads the weighted sum of the residual streams after several depths."""

    def __init__(self, model: SlicedViT, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.depths = model, depths

    def forward(self, images: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Maps images ``(B, C, H, W)`` and shares ``(len(depths),)`` to logits ``(B, num_classes)``."""
        x = self.model.stream(images)
        stream = torch.zeros_like(x)
        for count, block in enumerate(self.model.blocks, 1):
            x = block(x)
            if count in self.depths:
                stream = stream + shares[self.depths.index(count)] * x
        return self.classified(stream)

    def classified(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``(B, N, C)`` to logits, as in ``SlicedViT`` after the last block."""
        model, place = self.model, self.model.plan.norm
        if place == "before_pool":
            x = model.norm(x)
        pooled = model.pool(x)
        logits: torch.Tensor = model.head(model.norm(pooled) if place == "after_pool" else pooled)
        if model.head_dist is None:
            return model.compared(logits)
        averaged: torch.Tensor = (logits + model.head_dist(model.second(x))) / 2
        return averaged
