"""A Vision Transformer built from a ``ShapePlan``, which may give every block other widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from runtime import PlanError, ShapePlan

from .parts.attention_pool import AttentionPool
from .parts.block import Block
from .parts.norms import norm_of
from .parts.rope import check_tables
from .parts.stem import Stem
from .parts.tap import Tap
from .parts.text_vectors import TextVectors

UNIT_EPS = 2.0**-24
"""Added to the mean square of a vector that is scaled to length 1, so that a vector of zeros stays.

It is the least positive number of float16, and leaves the direction as it is."""


def unit_length(x: torch.Tensor) -> torch.Tensor:
    """Scales vectors ``(..., D)`` to length 1; a vector of zeros stays."""
    inverse: torch.Tensor = (x.square().mean(-1, keepdim=True) + UNIT_EPS).rsqrt()
    return x * inverse / float(x.shape[-1] ** 0.5)


class SlicedViT(nn.Module):
    """The Vision Transformer that a ``ShapePlan`` describes.

    Args:
        plan: its shape; kept as ``self.plan``.

    Ref: Dosovitskiy et al. 2021 (ViT), arXiv 2010.11929; Touvron et al. 2021, 2022 (DeiT, DeiT III).
    """

    def __init__(self, plan: ShapePlan) -> None:
        super().__init__()
        self.plan = plan
        c, first = plan.embed_dim, plan.placed_dim
        self.stem = Stem(plan) if plan.stem else None
        self.patch_embed = nn.Conv2d(
            plan.map_chans, plan.token_dim, kernel_size=plan.patch_size, stride=plan.patch_size, bias=plan.patch_bias
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, first)) if plan.class_token else None
        self.dist_token = nn.Parameter(torch.zeros(1, 1, first)) if plan.dist_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, plan.reg_tokens, first)) if plan.reg_tokens else None
        positions = {"none": 0, "patches": plan.num_patches, "all": plan.num_tokens}[plan.pos_embed]
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, first)) if positions else None
        self.patch_norm = norm_of(plan, "patch_norm") if plan.patch_norm else nn.Identity()
        self.norm_pre = norm_of(plan, "norm_pre") if plan.norm_pre else nn.Identity()
        self.pre = nn.Linear(plan.pre_dim, c) if plan.pre_dim else nn.Identity()
        self.blocks = nn.ModuleList(Block(plan, index) for index in range(len(plan.blocks)))
        self.norm = norm_of(plan, "norm") if plan.norm != "none" else nn.Identity()
        self.attn_pool = AttentionPool(plan) if plan.attn_pool else None
        self.head = nn.Linear(plan.head_dim, plan.head_outputs)
        self.head_dist = nn.Linear(c, plan.num_classes) if plan.two_heads else None
        self.text = TextVectors(plan) if plan.text_dim else None
        if plan.grid_blocks:
            self.taps = nn.ModuleList(Tap(plan, index) for index in range(len(plan.grid_blocks)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images ``(B, C, H, W)`` to logits or vectors ``(B, num_classes)``, or to a grid; two heads are averaged.

        A grid is ``(B, rows, columns, values)``, with the values of all blocks that it reads side by side.
        """
        inner: list[torch.Tensor] = []
        return self.answers(*self.features(images, inner), inner)

    def answers(self, x: torch.Tensor, pooled: torch.Tensor, inner: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Maps what ``features`` returns and adds to ``inner`` to the outputs, as ``forward`` returns them."""
        if self.plan.output == "grid":
            parts = [tap(own) for tap, own in zip(self.taps, inner, strict=True)] if self.plan.grid_blocks else []
            parts.append(self.head(x[:, self.plan.num_prefix_tokens :]))
            return torch.cat(parts, dim=-1).reshape(x.shape[0], *self.plan.output_shape)
        out: torch.Tensor = self.head(pooled)
        if self.head_dist is not None:
            out = (out + self.head_dist(self.second(x))) / 2
        return self.compared(out)

    def compared(self, out: torch.Tensor) -> torch.Tensor:
        """Maps what the heads give, ``(B, head_outputs)``, to logits or vectors ``(B, num_classes)``."""
        if self.text is not None:
            logits: torch.Tensor = self.text(unit_length(out))
            return logits
        return unit_length(out) if self.plan.output == "unit_vector" else out

    def features(
        self, images: torch.Tensor, inner: list[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps images ``(B, C, H, W)`` to the last tokens ``(B, N, C)`` and the head's input ``(B, head_dim)``.

        The tokens are normed where the model norms them before pooling.

        Args:
            images: as the model reads them.
            inner: gets the stream ``(B, N, C)`` behind each of the inner blocks that a grid reads.
        """
        x = self.stream(images)
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if inner is not None and number in self.plan.grid_blocks:
                inner.append(x)
        if self.plan.norm == "before_pool":
            x = self.norm(x)
        pooled = self.pool(x)
        return x, self.norm(pooled) if self.plan.norm == "after_pool" else pooled

    def stream(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images ``(B, C, H, W)`` to the residual stream before the first block, ``(B, N, embed_dim)``."""
        x = self.norm_pre(self.embed(images))
        out: torch.Tensor = x if self.plan.patch_norm else self.pre(x)
        return out

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images ``(B, C, H, W)`` to tokens ``(B, N, placed_dim)``: prefix tokens first, positions added."""
        images = images if self.stem is None else self.stem(images)
        x: torch.Tensor = self.patch_embed(images).flatten(2).transpose(1, 2)
        if self.plan.patch_norm:
            x = self.pre(self.patch_norm(x))
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
        """Maps tokens ``(B, N, C)`` to the input of the head, ``(B, head_dim)``."""
        if self.attn_pool is not None:
            found: torch.Tensor = self.attn_pool(x)
            return found
        if self.plan.pooling in ("token", "token_and_avg"):
            return x[:, 0]
        return x.mean(dim=1) if self.plan.pooling == "avg_all" else x[:, self.plan.num_prefix_tokens :].mean(dim=1)


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
    check_tables(plan, weights)
    own = {name: weights[name].detach().clone().to(dtype) for name in wanted}
    model.load_state_dict(own, assign=True)
    return model.requires_grad_(True).eval()
