"""The measured loss of every possible cut alone: how far it moves the model's output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from compress.model.parts.block import Block
from compress.model.slicing import KeptBlock, KeptUnits, keep_all
from compress.model.vit import SlicedViT
from runtime import MULTIPLE, Progress, ShapePlan, silent

from .folded import cut_and_fit
from .moments import Moments, batches_of
from .sensitivity import Sensitivity, features_of

SHARES = (0.95, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
"""Widths whose loss is looked at, as shares of the whole."""

_MIDDLE, _FEW = 0.5, 8

Curve = dict[int, float]
"""Loss by width."""


@dataclass(frozen=True)
class BlockLosses:
    """Losses of cuts of one block.

    Attributes:
        qk: by the query-key width of every head.
        v: by the value width of every head.
        mlp: by the hidden units.
        heads: of each head, removed alone.
    """

    qk: Curve
    v: Curve
    mlp: Curve
    heads: tuple[float, ...]


@dataclass(frozen=True)
class Losses:
    """Losses of all cuts.

    Attributes:
        blocks: those of each block.
        embed: by the width of the stream; empty where it cannot be cut.
    """

    blocks: tuple[BlockLosses, ...]
    embed: Curve


def widths_to_measure(width: int, shares: Sequence[float]) -> list[int]:
    """Returns the widths whose loss is looked at, largest first: all multiples of 8 where they are few, else some."""
    if width <= _FEW * MULTIPLE:
        return list(range(width - MULTIPLE, 0, -MULTIPLE))
    found = {max(MULTIPLE, MULTIPLE * round(share * width / MULTIPLE)) for share in shares}
    return sorted((own for own in found | {width - MULTIPLE} if own < width), reverse=True)


def measure_losses(
    model: SlicedViT,
    moments: Moments,
    orders: Sequence[Sequence[int]],
    images: torch.Tensor,
    back: torch.Tensor,
    rest: float,
    felt: Sensitivity,
    progress: Progress = silent,
) -> Losses:
    """Cuts every group alone to some widths and returns the loss of the model's features and answers.

    The error that a cut makes in the stream behind its block, weighted by the sensitivity of the features, predicts the
    loss at every width, up to a factor of the block and the kind of cut. One measurement finds the factor.

    Args:
        model: the model in its best bases.
        moments: its moments.
        orders: for each block, the hidden units in the order of their removal; those not named stay to the last.
        images: ``(N, C, H, W)`` float32.
        back: see ``features_of``.
        rest: see ``Features.error``.
        felt: sensitivity of the features to the stream, in the model's coordinates.
        progress: called after every cut.
    """
    plan, every = model.plan, keep_all(model.plan)
    widths = widths_to_measure(plan.embed_dim, SHARES) if plan.norm_type == "rms" else []
    total, found = 3 * len(plan.blocks) + len(widths), []
    with torch.no_grad():
        ruler = _Ruler(model, images, back, rest)
        for i in range(len(plan.blocks)):
            cutter = _Cutter(model, moments, felt, ruler.states[i], i)
            curves: dict[str, Curve] = {"qk": {}, "v": {}, "mlp": {}, "head": {}}
            factors: dict[str, float] = {}
            for kind, width, keep, measured in _cuts(plan, i, orders[i]):
                block = cutter.cut(keep)
                curves[kind][width] = cutter.predicted(block, kind)
                if measured:
                    factors[kind] = ruler.of_block(block, i) / max(curves[kind][width], 1e-12)
                    progress("losses", ruler.count, total)
            for kind, of in (("qk", "qk"), ("v", "v"), ("mlp", "mlp"), ("head", "v")):
                curves[kind] = {width: loss * factors.get(of, 1.0) for width, loss in curves[kind].items()}
            heads = tuple(curves["head"].get(h, 0.0) for h in range(plan.blocks[i].num_heads))
            found.append(BlockLosses(curves["qk"], curves["v"], curves["mlp"], heads))
        embed = {}
        for width in widths:
            cut_stream = cut_and_fit(model, moments, replace(every, embed=tuple(range(width))))
            embed[width] = ruler.of_model(cut_stream, back[:width])
            progress("losses", ruler.count, total)
    return Losses(tuple(found), embed)


def loss_between(
    whole: SlicedViT,
    cut: SlicedViT,
    images: torch.Tensor,
    back: torch.Tensor,
    cut_back: torch.Tensor,
    rest: float,
) -> float:
    """Returns the mean loss of a cut model, see ``Features.error``.

    Args:
        whole: the model before the cut.
        cut: the model after it.
        images: ``(N, C, H, W)`` float32.
        back: maps the whole model's features, see ``features_of``.
        cut_back: maps the cut model's features to the same coordinates.
        rest: see ``Features.error``.
    """
    with torch.no_grad():
        return _Ruler(whole, images, back, rest).of_model(cut, cut_back)


class _Cutter:
    """Cuts one block, and predicts the loss from the error in the stream behind it."""

    def __init__(
        self, model: SlicedViT, moments: Moments, felt: Sensitivity, states: Sequence[torch.Tensor], index: int
    ) -> None:
        plan = model.plan
        # no random number is drawn for weights that nothing reads
        with torch.device("meta"):
            self.alone = SlicedViT(replace(plan, blocks=(plan.blocks[index],), norm_eps=1.0, grid_blocks=()))
        self.alone.blocks[0] = model.blocks[index]
        self.moments = replace(moments, blocks=(moments.blocks[index],))
        self.every = tuple(range(plan.embed_dim))
        block = cast(Block, model.blocks[index])
        self.normed = [block.attention_read(x) for x in states]
        self.attended = [block.attention_written(block.attn(x)) for x in self.normed]
        self.normed2 = [block.mlp_read(x + own, x) for x, own in zip(states, self.attended, strict=True)]
        self.transformed = [block.mlp_written(block.mlp(x)) for x in self.normed2]
        self.block = block
        self.metrics = {"attn": felt.attended[index].float(), "mlp": felt.transformed[index].float()}
        self.tokens = {"attn": felt.tokens.attended[index].float(), "mlp": felt.tokens.transformed[index].float()}

    def cut(self, keep: KeptBlock) -> Block:
        """Returns the block with the units ``keep``."""
        cut = cast(Block, cut_and_fit(self.alone, self.moments, KeptUnits(self.every, (keep,))).blocks[0])
        cut.norm1, cut.norm2 = self.block.norm1, self.block.norm2
        return cut

    def predicted(self, cut: Block, kind: str) -> float:
        """Returns the loss of the cut block for small errors."""
        part = "mlp" if kind == "mlp" else "attn"
        if part == "mlp":
            found = [cut.mlp_written(cut.mlp(x)) for x in self.normed2]
        else:
            found = [cut.attention_written(cut.attn(x)) for x in self.normed]
        whole = self.transformed if part == "mlp" else self.attended
        pairs = [one - own for one, own in zip(found, whole, strict=True)]
        total = sum(float(((d @ self.metrics[part] * d).sum(-1) * self.tokens[part]).sum()) for d in pairs)
        return total / sum(len(d) for d in pairs)


class _Ruler:
    """Measures how far a changed model is from the whole one on some images."""

    def __init__(self, model: SlicedViT, images: torch.Tensor, back: torch.Tensor, rest: float) -> None:
        self.model, self.back, self.rest, self.count = model, back, rest, 0
        self.images = batches_of(images, model.plan.num_tokens)
        self.states = [[model.stream(batch) for batch in self.images]]
        for block in model.blocks:
            self.states.append([block(x) for x in self.states[-1]])
        inner = [[self.states[own][part] for own in model.plan.grid_blocks] for part in range(len(self.images))]
        self.wanted = [features_of(model, x, back, own) for x, own in zip(self.states[-1], inner, strict=True)]

    def of_block(self, changed: Block, index: int) -> float:
        """Returns the loss of the model with one block changed."""
        later = self.model.blocks[index + 1 :]
        return self._mean(self.model, [changed, *later], index, self.states[index], self.back)

    def of_model(self, cut: SlicedViT, back: torch.Tensor) -> float:
        """Returns the loss of another model."""
        return self._mean(cut, cut.blocks, 0, [cut.stream(batch) for batch in self.images], back)

    def _mean(
        self,
        model: SlicedViT,
        blocks: Iterable[nn.Module],
        skipped: int,
        states: list[torch.Tensor],
        back: torch.Tensor,
    ) -> float:
        """Returns the loss of ``blocks`` that go on from the states behind the first ``skipped`` ones."""
        error, own, read = 0.0, list(blocks), model.plan.grid_blocks
        for part, (x, wanted) in enumerate(zip(states, self.wanted, strict=True)):
            inner = [self.states[number][part] for number in read if number <= skipped]
            for number, block in enumerate(own, skipped + 1):
                x = block(x)
                if number in read:
                    inner.append(x)
            error += float(features_of(model, x, back, inner).error(wanted, self.rest).sum())
        self.count += 1
        return error / sum(len(batch) for batch in self.images)


def _cuts(plan: ShapePlan, index: int, order: Sequence[int]) -> Iterator[tuple[str, int, KeptBlock, bool]]:
    """Yields each cut of a block: its kind, its width or the head's number, what stays, and whether to measure it."""
    block, whole = plan.blocks[index], keep_all(plan).blocks[index]
    for kind, size in (("qk", block.qk_dim), ("v", block.v_dim), ("mlp", block.mlp_dim)):
        widths = widths_to_measure(size, SHARES)
        middle = min(widths, key=lambda width: abs(width / size - _MIDDLE), default=0)
        for width in widths:
            units = (tuple(range(width)),) * block.num_heads
            if kind == "mlp":
                gone = set(order[: size - width])
                keep = replace(whole, mlp=tuple(u for u in range(size) if u not in gone))
            else:
                keep = replace(whole, qk=units) if kind == "qk" else replace(whole, v=units)
            yield kind, width, keep, width == middle
    for head in range(block.num_heads) if block.num_heads > 1 else ():
        stay = tuple(h for h in range(block.num_heads) if h != head)
        yield "head", head, replace(whole, heads=stay, qk=whole.qk[1:], v=whole.v[1:]), False
