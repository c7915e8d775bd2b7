"""How much a small error in the residual stream changes the model's output: per token, and per direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from compress.model.parts.block import Block
from compress.model.vit import SlicedViT
from runtime import Progress, silent

from .moments import TokenWeights, batches_of

_LEAST_WEIGHT = 0.05
ANSWERS = 0.08
"""Share of the answers in the loss; the features have the rest. The larger it is, the fewer answers of a classifier
change and the farther go features that its classes do not need."""

_TINY = 1e-12
"""Lower bound of the energy of a feature that an error is divided by; features that are zero have no relative error."""


@dataclass(frozen=True)
class Sensitivity:
    """The sensitivity of a model's output to its residual stream.

    Attributes:
        tokens: weight of each token.
        attended: for each block, ``(C, C)`` float64: the mean of ``J^T J`` over tokens, where J is the derivative of
            the output by the stream after the attention.
        transformed: the same for the stream after the MLP.
    """

    tokens: TokenWeights
    attended: tuple[torch.Tensor, ...]
    transformed: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Features:
    """What a model's head can see, in the coordinates of the whole model, and what it answers.

    Attributes:
        pooled: the input of the head, ``(B, F)``.
        tokens: all tokens after the last norm, ``(B, N, F)``.
        logits: ``(B, classes)``, the vectors ``(B, D)`` that the model answers with, or those of a grid, one for each
            patch and block that it reads, ``(B, vectors, D)``.
        vectors: whether they are vectors.
    """

    pooled: torch.Tensor
    tokens: torch.Tensor
    logits: torch.Tensor
    vectors: bool = False

    def error(self, wanted: Features, rest: float) -> torch.Tensor:
        """Returns the loss of each image, ``(B,)``.

        It is the relative squared error of the features, and twice the divergence of the answers, which for small
        changes of the logits z is ``sum_c p_c (dz_c - sum_k p_k dz_k)^2``. The error of vectors is the relative
        squared one, too. That of a grid is the mean over its vectors alone, since nothing else of the features is read.

        Args:
            wanted: features of the whole model.
            rest: share of the error of all tokens, 0 to 1; the pooled feature has the remaining share.
        """
        pooled = (self.pooled - wanted.pooled).square().sum(-1) / wanted.pooled.square().sum(-1).clamp_min(_TINY)
        tokens = (self.tokens - wanted.tokens).square().sum(-1) / wanted.tokens.square().sum(-1).clamp_min(_TINY)
        if self.vectors:
            answers = (self.logits - wanted.logits).square().sum(-1) / wanted.logits.square().sum(-1).clamp_min(_TINY)
            if answers.ndim > 1:
                mean: torch.Tensor = answers.mean(-1)
                return mean
        else:
            likely = wanted.logits.log_softmax(-1)
            answers = 2 * (likely.exp() * (likely - self.logits.log_softmax(-1))).sum(-1)
        return (1 - ANSWERS) * ((1 - rest) * pooled + rest * tokens.mean(-1)) + ANSWERS * answers

    def scaled(self, rest: float) -> torch.Tensor:
        """Returns everything in one tensor ``(B, F + N * F + classes)``, whose small squared changes are ``error``.

        A grid has its ``(B, vectors * D)`` alone.
        """
        least, kept = _TINY**0.5, 1 - ANSWERS
        pooled = self.pooled / self.pooled.detach().norm(dim=-1, keepdim=True).clamp_min(least)
        tokens = self.tokens / self.tokens.detach().norm(dim=-1, keepdim=True).clamp_min(least)
        if self.vectors:
            answers = self.logits / self.logits.detach().norm(dim=-1, keepdim=True).clamp_min(least)
            if answers.ndim > 2:
                every: torch.Tensor = answers.flatten(1) * answers.shape[1] ** -0.5
                return every
        else:
            likely = self.logits.detach().softmax(-1)
            answers = (self.logits - (likely * self.logits).sum(-1, keepdim=True)) * likely.sqrt()
        parts = (
            pooled * (kept * (1 - rest)) ** 0.5,
            tokens.flatten(1) * (kept * rest / tokens.shape[1]) ** 0.5,
            answers * ANSWERS**0.5,
        )
        return torch.cat(parts, 1)


def features_of(
    model: SlicedViT, stream: torch.Tensor, back: torch.Tensor, inner: Sequence[torch.Tensor] = ()
) -> Features:
    """Returns the features of a model.

    Args:
        model: the model.
        stream: its residual stream after the last block, ``(B, N, C)``.
        back: ``(C, F)``, maps what the last norm gives to the coordinates of the whole model.
        inner: the stream behind each inner block that a grid reads.
    """
    tokens: torch.Tensor = model.norm(stream)
    after = model.plan.norm == "after_pool"
    pooled = model.norm(model.pool(stream)) if after else model.pool(tokens)
    answers = model.answers(stream if after else tokens, pooled, inner)
    if model.plan.output == "grid":
        answers = answers.reshape(len(answers), -1, model.plan.num_classes)
    # what an attention pooling gives is in coordinates of its own, which no cut changes
    return Features(pooled if model.plan.attn_pool else pooled @ back, tokens @ back, answers, model.plan.is_vector)


def sensitivity_of(
    model: SlicedViT, images: torch.Tensor, back: torch.Tensor, rest: float, probes: int, progress: Progress = silent
) -> Sensitivity:
    """Estimates the sensitivity from gradients of random projections of the output.

    For a random sign vector u, the gradient ``g = J^T u`` has the mean square ``J^T J``.

    Args:
        model: the model, in canonical form.
        images: ``(N, C, H, W)`` float32.
        back: see ``features_of``.
        rest: see ``Features.error``.
        probes: random projections of each image.
        progress: called after every batch.
    """
    count, c, n = len(model.blocks), model.plan.embed_dim, model.plan.num_tokens
    squares = torch.zeros(2 * count, n, dtype=torch.float64)
    metrics = torch.zeros(2 * count, c, c, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    parts = batches_of(images, n)
    for done, batch in enumerate(parts, 1):
        with torch.enable_grad():
            x, seen = model.stream(batch).detach().requires_grad_(True), []
            for block in map(lambda own: cast(Block, own), model.blocks):
                before, x = x, x + block.attention_written(block.attn(block.attention_read(x)))
                seen.append(x)
                x = x + block.mlp_written(block.mlp(block.mlp_read(x, before)))
                seen.append(x)
            inner = [seen[2 * number - 1] for number in model.plan.grid_blocks]
            output = features_of(model, x, back, inner).scaled(rest)
            for probe in range(probes):
                signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
                gradients = torch.autograd.grad(output, seen, signs, retain_graph=probe + 1 < probes)
                for place, own in enumerate(gradients):
                    squares[place] += own.square().sum((0, 2))
                    flat = own.flatten(0, 1)
                    metrics[place] += flat.T @ flat
        progress("sensitivity", done, len(parts))
    rows = len(images) * probes
    metrics /= rows * n
    weights = [_smooth(own / own.mean().clamp_min(1e-30), model.plan.num_prefix_tokens) for own in squares]
    tokens = TokenWeights(tuple(weights[0::2]), tuple(weights[1::2]))
    return Sensitivity(tokens, tuple(metrics[0::2]), tuple(metrics[1::2]))


def rotated(felt: Sensitivity, basis: torch.Tensor) -> Sensitivity:
    """Returns the sensitivity in other coordinates of the stream; the columns of ``basis`` are the new axes."""
    attended, transformed = (tuple(basis.T @ own @ basis for own in side) for side in (felt.attended, felt.transformed))
    return Sensitivity(felt.tokens, attended, transformed)


def metric_root(metric: torch.Tensor) -> torch.Tensor:
    """Returns the square root of a metric of the stream, with a floor, so that no direction is free."""
    values, vectors = torch.linalg.eigh(metric)
    values = values.clamp_min(1e-3 * float(values.mean().clamp_min(1e-30)))
    root: torch.Tensor = vectors * values.sqrt() @ vectors.T
    return root


def _smooth(weight: torch.Tensor, prefix: int) -> torch.Tensor:
    """Returns the weight of each prefix token and the mean weight of patches, none very small."""
    own = weight.clone()
    own[prefix:] = own[prefix:].mean()
    own = own.clamp_min(_LEAST_WEIGHT * float(own.max()) / len(own) + 1e-3)
    return own / own.mean()
