"""A Vision Transformer built from a ``ShapePlan``, which may give every block other widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from runtime import BlockPlan, PlanError, ShapePlan

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}


class Axis(NamedTuple):
    """One prunable dimension of the model: a kind, and the block it belongs to (-1: the whole model).

    Kinds: ``embed`` (the residual stream), ``mlp`` (hidden units), ``qk`` and ``v`` (all heads' widths of a
    block, head after head).
    """

    kind: str
    block: int = -1


EMBED = Axis("embed")


class RmsNorm(nn.Module):
    """Divides tokens by their root mean square: ``x / sqrt(sum(x^2) / dim + eps)``.

    Args:
        dim: number that the sum of squares is divided by. In a stream that was cut it is the width before the cut, so
            that removed dimensions count as zeros; ``eps`` then includes their mean energy.
        eps: constant added to the mean square.

    Ref: Zhang and Sennrich 2019 (arXiv 1910.07467), eq. 4; here without a gain, which the next Linear takes.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``(..., C)`` to ``(..., C)``."""
        return x * (x.square().sum(-1, keepdim=True) / self.dim + self.eps).rsqrt()


def norm_of(plan: ShapePlan, name: str) -> nn.Module:
    """Returns a new norm of ``SlicedViT(plan)``, such as ``blocks.0.norm1``."""
    width = plan.token_dim if name == "norm_pre" else plan.embed_dim
    if plan.norm_type == "layer":
        return nn.LayerNorm(width, eps=plan.eps_of(name))
    return RmsNorm(plan.norm_dim or width if name != "norm_pre" else width, plan.eps_of(name))


UNIT_EPS = 2.0**-24
"""Added to the mean square of a vector that is scaled to length 1, so that a vector of zeros stays.

It is the least positive number of float16, and leaves the direction as it is."""


def unit_length(x: torch.Tensor) -> torch.Tensor:
    """Scales vectors ``(..., D)`` to length 1; a vector of zeros stays."""
    inverse: torch.Tensor = (x.square().mean(-1, keepdim=True) + UNIT_EPS).rsqrt()
    return x * inverse / float(x.shape[-1] ** 0.5)


class Attention(nn.Module):
    """Multi-head self-attention whose value width may differ from its query and key width."""

    def __init__(self, plan: ShapePlan, block: BlockPlan) -> None:
        super().__init__()
        c, heads = plan.embed_dim, block.num_heads
        self.num_heads, self.qk_dim, self.v_dim, self.scale = heads, block.qk_dim, block.v_dim, plan.attn_scale
        self.q = nn.Linear(c, heads * block.qk_dim, bias=plan.qkv_bias)
        self.k = nn.Linear(c, heads * block.qk_dim, bias=plan.qkv_bias)
        self.v = nn.Linear(c, heads * block.v_dim, bias=plan.qkv_bias)
        self.proj = nn.Linear(heads * block.v_dim, c, bias=plan.proj_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``(B, N, C)`` to ``(B, N, C)``."""
        out: torch.Tensor = self.proj(self.mixed(x))
        return out

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what the projection reads: the heads' averages of values, ``(B, N, num_heads * v_dim)``."""
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.num_heads, self.qk_dim).transpose(1, 2)
        k = self.k(x).view(b, n, self.num_heads, self.qk_dim).transpose(1, 2)
        v = self.v(x).view(b, n, self.num_heads, self.v_dim).transpose(1, 2)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        out: torch.Tensor = (weights @ v).transpose(1, 2).reshape(b, n, self.num_heads * self.v_dim)
        return out


class Mlp(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, plan: ShapePlan, block: BlockPlan) -> None:
        super().__init__()
        self.fc1 = nn.Linear(plan.embed_dim, block.mlp_dim)
        self.fc2 = nn.Linear(block.mlp_dim, plan.embed_dim)
        self.act = ACTIVATIONS[plan.act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``(B, N, C)`` to ``(B, N, C)``."""
        out: torch.Tensor = self.fc2(self.hidden(x))
        return out

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the input of the second Linear, ``(B, N, mlp_dim)``."""
        out: torch.Tensor = self.act(self.fc1(x))
        return out


class Block(nn.Module):
    """Pre-norm transformer block, with LayerScale where the plan has it."""

    def __init__(self, plan: ShapePlan, index: int) -> None:
        super().__init__()
        c, block = plan.embed_dim, plan.blocks[index]
        self.norm1 = norm_of(plan, f"blocks.{index}.norm1")
        self.attn = Attention(plan, block)
        self.norm2 = norm_of(plan, f"blocks.{index}.norm2")
        self.mlp = Mlp(plan, block)
        self.gamma1 = nn.Parameter(torch.ones(c)) if plan.layer_scale else None
        self.gamma2 = nn.Parameter(torch.ones(c)) if plan.layer_scale else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``(B, N, C)`` to ``(B, N, C)``."""
        attended: torch.Tensor = self.attn(self.norm1(x))
        x = x + (attended if self.gamma1 is None else attended * self.gamma1)
        transformed: torch.Tensor = self.mlp(self.norm2(x))
        return x + (transformed if self.gamma2 is None else transformed * self.gamma2)


class SlicedViT(nn.Module):
    """The Vision Transformer that a ``ShapePlan`` describes.

    Args:
        plan: its shape; kept as ``self.plan``.

    Ref: Dosovitskiy et al. 2021 (ViT), arXiv 2010.11929; Touvron et al. 2021, 2022 (DeiT, DeiT III).
    """

    def __init__(self, plan: ShapePlan) -> None:
        super().__init__()
        self.plan = plan
        c, first = plan.embed_dim, plan.token_dim
        self.patch_embed = nn.Conv2d(
            plan.in_chans, first, kernel_size=plan.patch_size, stride=plan.patch_size, bias=plan.patch_bias
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, first)) if plan.class_token else None
        self.dist_token = nn.Parameter(torch.zeros(1, 1, first)) if plan.dist_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, plan.reg_tokens, first)) if plan.reg_tokens else None
        positions = {"none": 0, "patches": plan.num_patches, "all": plan.num_tokens}[plan.pos_embed]
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, first)) if positions else None
        self.norm_pre = norm_of(plan, "norm_pre") if plan.norm_pre else nn.Identity()
        self.pre = nn.Linear(plan.pre_dim, c) if plan.pre_dim else nn.Identity()
        self.blocks = nn.ModuleList(Block(plan, index) for index in range(len(plan.blocks)))
        self.norm = norm_of(plan, "norm") if plan.norm != "none" else nn.Identity()
        self.head = nn.Linear(c, plan.num_classes)
        self.head_dist = nn.Linear(c, plan.num_classes) if plan.two_heads else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images ``(B, C, H, W)`` to logits or vectors ``(B, num_classes)``; two heads are averaged."""
        return self.answers(*self.features(images))

    def answers(self, x: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Maps what ``features`` returns to logits or vectors ``(B, num_classes)``."""
        out: torch.Tensor = self.head(pooled)
        if self.head_dist is not None:
            out = (out + self.head_dist(self.second(x))) / 2
        return unit_length(out) if self.plan.output == "unit_vector" else out

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps images ``(B, C, H, W)`` to the last tokens ``(B, N, C)`` and the head's input ``(B, C)``.

        The tokens are normed where the model norms them before pooling.
        """
        x = self.stream(images)
        for block in self.blocks:
            x = block(x)
        if self.plan.norm == "before_pool":
            x = self.norm(x)
        pooled = self.pool(x)
        return x, self.norm(pooled) if self.plan.norm == "after_pool" else pooled

    def stream(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images ``(B, C, H, W)`` to the residual stream before the first block, ``(B, N, embed_dim)``."""
        out: torch.Tensor = self.pre(self.norm_pre(self.embed(images)))
        return out

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images ``(B, C, H, W)`` to tokens ``(B, N, token_dim)``: prefix tokens first, positions added."""
        x: torch.Tensor = self.patch_embed(images).flatten(2).transpose(1, 2)
        if self.pos_embed is not None and self.plan.pos_embed == "patches":
            x = x + self.pos_embed
        prefix = [t for t in (self.cls_token, self.dist_token, self.reg_token) if t is not None]
        if prefix:
            x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in prefix), x], dim=1)
        if self.pos_embed is not None and self.plan.pos_embed == "all":
            x = x + self.pos_embed
        return x

    def second(self, x: torch.Tensor) -> torch.Tensor:
        """Maps what ``features`` returns as tokens, ``(B, N, C)``, to the input of the second head, ``(B, C)``."""
        if self.plan.pooling == "token_and_avg":
            return x[:, self.plan.num_prefix_tokens :].mean(dim=1)
        normed: torch.Tensor = x[:, 1] if self.plan.norm == "before_pool" else self.norm(x[:, 1])
        return normed

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``(B, N, C)`` to the input of the head, ``(B, C)``."""
        if self.plan.pooling in ("token", "token_and_avg"):
            return x[:, 0]
        return x.mean(dim=1) if self.plan.pooling == "avg_all" else x[:, self.plan.num_prefix_tokens :].mean(dim=1)


def parameter_axes(plan: ShapePlan) -> dict[str, tuple[Axis | None, ...]]:
    """Returns for every parameter of ``SlicedViT(plan)`` the prunable axis of each of its dimensions.

    Slicing selects by this table, and importance is summed over it. ``None`` marks a dimension that pruning never
    changes.
    """
    first = None if plan.pre_dim else EMBED
    axes: dict[str, tuple[Axis | None, ...]] = {"patch_embed.weight": (first, None, None, None)}
    if plan.patch_bias:
        axes["patch_embed.bias"] = (first,)
    for name, present in (
        ("cls_token", plan.class_token),
        ("dist_token", plan.dist_token),
        ("reg_token", plan.reg_tokens > 0),
        ("pos_embed", plan.pos_embed != "none"),
    ):
        if present:
            axes[name] = (None, None, first)
    if plan.pre_dim:
        axes["pre.weight"], axes["pre.bias"] = (EMBED, None), (EMBED,)
    for name in plan.norm_names if plan.norm_type == "layer" else ():
        axes[f"{name}.weight"] = axes[f"{name}.bias"] = (EMBED,)
    for i in range(len(plan.blocks)):
        axes |= _block_axes(plan, i)
    for head in ("head", "head_dist") if plan.two_heads else ("head",):
        axes[f"{head}.weight"], axes[f"{head}.bias"] = (None, EMBED), (None,)
    return axes


def _block_axes(plan: ShapePlan, index: int) -> dict[str, tuple[Axis | None, ...]]:
    qk, v, mlp = Axis("qk", index), Axis("v", index), Axis("mlp", index)
    axes: dict[str, tuple[Axis | None, ...]] = {}
    for name, out in (("q", qk), ("k", qk), ("v", v)):
        axes[f"attn.{name}.weight"] = (out, EMBED)
        if plan.qkv_bias:
            axes[f"attn.{name}.bias"] = (out,)
    axes["attn.proj.weight"] = (EMBED, v)
    if plan.proj_bias:
        axes["attn.proj.bias"] = (EMBED,)
    axes["mlp.fc1.weight"], axes["mlp.fc1.bias"] = (mlp, EMBED), (mlp,)
    axes["mlp.fc2.weight"], axes["mlp.fc2.bias"] = (EMBED, mlp), (EMBED,)
    if plan.layer_scale:
        axes["gamma1"] = axes["gamma2"] = (EMBED,)
    return {f"blocks.{index}.{name}": value for name, value in axes.items()}


def build(plan: ShapePlan, weights: Mapping[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> SlicedViT:
    """Builds the model of ``plan`` with copies of the given weights in ``dtype``, in evaluation mode.

    Raises:
        PlanError: a weight is missing, unknown, or has another shape than in the plan.
    """
    with torch.device("meta"):
        model = SlicedViT(plan)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in sorted(wanted.keys() ^ weights.keys()):
        raise PlanError(f"The weights do not fit the plan: '{name}' is {'missing' if name in wanted else 'unknown'}")
    for name, shape in wanted.items():
        if tuple(weights[name].shape) != shape:
            got = tuple(weights[name].shape)
            raise PlanError(f"The weight '{name}' does not fit the plan", expected=shape, got=got)
    own = {name: weights[name].detach().clone().to(dtype) for name in wanted}
    model.load_state_dict(own, assign=True)
    return model.requires_grad_(True).eval()
