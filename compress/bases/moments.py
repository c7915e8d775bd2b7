"""Second moments of what each block computes, over unlabelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from compress.model.parts.attention import Attention
from compress.model.parts.block import Block
from compress.model.parts.norms import EARLY_NORMS
from compress.model.parts.tap import Tap
from compress.model.vit import SlicedViT
from runtime import Progress, silent

_ROWS = 24_576
"""Most tokens of all images that the moments of hidden units are summed over; more change nothing."""

_SPREAD = 0.02
"""Share of the mean energy that every hidden unit is given where few images stand for many."""


@dataclass(frozen=True)
class BlockMoments:
    """Weighted second moments of one block, float64; each is a mean over tokens.

    Attributes:
        queries: ``(H, qk, qk)``, of each head's queries.
        keys: ``(H, qk, qk)``, of each head's keys without what is equal for all keys of an image.
        mixed: ``(H * v + 1, H * v + 1)``, of what the projection reads, followed by a one.
        hidden: ``(mlp + 1, mlp + 1)``, of what the second Linear of the MLP reads, followed by a one.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    mixed: torch.Tensor
    hidden: torch.Tensor


def moment_tensors(own: BlockMoments) -> tuple[torch.Tensor, ...]:
    """Returns the moments of a block in the order of their declaration."""
    return own.queries, own.keys, own.mixed, own.hidden


@dataclass(frozen=True)
class Moments:
    """Moments of a whole model.

    Attributes:
        blocks: those of each block.
        stream: ``(C, C)``, of the inputs of all norms of blocks and of the last norm, each divided by its root mean
            square.
        inputs: ``(C, C)``, of the input of each norm, by the norm's name.
    """

    blocks: tuple[BlockMoments, ...]
    stream: torch.Tensor
    inputs: dict[str, torch.Tensor]


@dataclass(frozen=True)
class TokenWeights:
    """How much an error at each token matters, ``(N,)`` with mean 1, for every block.

    Attributes:
        attended: at the stream after the attention.
        transformed: at the stream after the MLP.
    """

    attended: tuple[torch.Tensor, ...]
    transformed: tuple[torch.Tensor, ...]


def batches_of(images: torch.Tensor, tokens: int) -> Sequence[torch.Tensor]:
    """Returns the images in batches of about 2,000 tokens, which suit a CPU's cache."""
    size = max(1, 2048 // tokens)
    return [images[start : start + size] for start in range(0, len(images), size)]


def second_moments(
    model: SlicedViT, images: torch.Tensor, weights: TokenWeights, progress: Progress = silent
) -> Moments:
    """Returns the moments of a model in canonical form.

    Args:
        model: the model.
        images: ``(N, C, H, W)`` float32, as the model reads them.
        weights: weights of the tokens.
        progress: called after every batch.
    """
    plan, tokens = model.plan, model.plan.num_tokens
    sums = [_Sums(cast(Block, block)) for block in model.blocks]
    stream = torch.zeros(plan.embed_dim, plan.embed_dim, dtype=torch.float64)
    inputs = {name: torch.zeros_like(stream) for name in plan.norm_names if name not in EARLY_NORMS}
    share = min(1.0, _ROWS / (len(images) * tokens))
    generator = torch.Generator().manual_seed(0)
    parts = batches_of(images, tokens)
    with torch.no_grad():
        for done, batch in enumerate(parts, 1):
            x = model.stream(batch)
            for i, (block, own) in enumerate(zip(model.blocks, sums, strict=True)):
                block = cast(Block, block)
                before, normed = x, block.attention_read(x)
                _add_stream(inputs[f"blocks.{i}.norm1"], stream, x, normed)
                mixed = own.attention(block.attn, normed, weights.attended[i])
                x = x + block.attention_written(block.attn.proj(mixed))
                normed = block.mlp_read(x, before)
                read = before if block.kind == "parallel" else x
                _add_stream(inputs[f"blocks.{i}.norm2"], stream, read, normed)
                hidden = block.mlp.hidden(normed)
                own.mlp(hidden, weights.transformed[i], share, generator)
                x = x + block.mlp_written(block.mlp.fc2(hidden))
                if i + 1 in plan.grid_blocks and plan.norm != "none":
                    tap = plan.grid_blocks.index(i + 1)
                    _add_stream(inputs[f"taps.{tap}.norm"], stream, x, cast(Tap, model.taps[tap]).norm(x))
            if "norm" in inputs:
                _add_stream(inputs["norm"], stream, x, model.norm(x))
            progress("basis", done, len(parts))
    rows = len(images) * tokens
    return Moments(
        tuple(own.means() for own in sums),
        stream / (rows * len(inputs)),
        {name: total / rows for name, total in inputs.items()},
    )


def with_spread(moments: Moments) -> Moments:
    """Returns the moments with a fiftieth of the mean energy of the hidden units of a block added to each of them.

    Few images leave units unused that others need. With this energy such units are removed later, and less of what is
    removed is given to the units that stay, whose weights keep closer to their values. It is a ridge
    (Hoerl and Kennard 1970) on the least squares of the MLP.
    """
    blocks = []
    for own in moments.blocks:
        hidden = own.hidden.clone()
        energy = hidden.diagonal()[:-1]
        energy += _SPREAD * energy.mean()
        blocks.append(replace(own, hidden=hidden))
    return replace(moments, blocks=tuple(blocks))


def _add_stream(own: torch.Tensor, together: torch.Tensor, x: torch.Tensor, normed: torch.Tensor) -> None:
    x, normed = x.flatten(0, 1), normed.flatten(0, 1)
    own += x.T @ x
    together += normed.T @ normed


class _Sums:
    """Sums over tokens for one block; products within a batch are in float32, and their sums in float64."""

    def __init__(self, block: Block) -> None:
        attn, double = block.attn, torch.float64
        self.queries = torch.zeros(attn.num_heads, attn.qk_dim, attn.qk_dim, dtype=double)
        self.keys = torch.zeros_like(self.queries)
        self.mixed = torch.zeros(2 * (attn.proj.in_features + 1,), dtype=double)
        self.hidden = torch.zeros(2 * (block.mlp.fc2.in_features + 1,), dtype=double)
        self.rows = self.hidden_rows = 0.0

    def attention(self, attn: Attention, normed: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Adds queries, keys and mixed values, and returns the mixed values ``(B, N, H * v)``."""
        b, n, _ = normed.shape
        q, k = attn.looked(normed)
        mixed = attn.averaged(q, k, normed)
        w = weight.view(1, 1, n, 1).to(q)
        # a softmax does not see what it adds to all keys alike
        away = k - k.mean(2, keepdim=True)
        self.queries += _by_head(q * w, q)
        self.keys += _by_head(away, away)
        self.mixed += _with_one(mixed, weight)
        self.rows += b * n
        return mixed

    def mlp(self, hidden: torch.Tensor, weight: torch.Tensor, share: float, generator: torch.Generator) -> None:
        """Adds hidden units ``(B, N, mlp)`` of a share of the tokens: the first of every image, and others drawn."""
        b, n, _ = hidden.shape
        if share < 1:
            count = max(2, round(share * n))
            drawn = 1 + torch.randperm(n - 1, generator=generator)[: count - 1]
            scale = (n - 1) / (count - 1)
            hidden = torch.cat([hidden[:, :1], hidden[:, drawn]], 1)
            weight = torch.cat([weight[:1], weight[drawn] * scale])
        self.hidden += _with_one(hidden, weight)
        self.hidden_rows += b * n

    def means(self) -> BlockMoments:
        sums = (
            (self.queries, self.rows),
            (self.keys, self.rows),
            (self.mixed, self.rows),
            (self.hidden, self.hidden_rows),
        )
        return BlockMoments(*(total / rows for total, rows in sums))


def _by_head(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Sums the products of ``(B, H, N, d)`` over images and tokens, ``(H, d, d)``."""
    return torch.einsum("bhnd,bhne->hde", a, b).double()


def _with_one(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    one = torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)
    scaled = one * weight.view(1, -1, 1).to(x)
    return (scaled.flatten(0, 1).T @ one.flatten(0, 1)).double()
