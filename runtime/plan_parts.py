"""The parts of a model that are kept whole when it is pruned: an attention pooling, and a convolutional stem."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from .errors import PlanError

StemKind = Literal["conv", "group_norm", "layer_norm", "gelu", "relu", "silu", "max_pool", "mean_pool", "add"]


@dataclass(frozen=True)
class PoolPlan:
    """The widths of an attention pooling: one learnt query looks at the last tokens, and an MLP follows.

    Pruning leaves these widths as they are; only the tokens that the pooling reads become narrower.

    Attributes:
        num_heads: attention heads, at least 1.
        head_width: width of each head's query, key and value.
        mlp_dim: hidden units of the MLP.
        norm_eps: epsilon of the LayerNorm before the MLP.
        prefix: whether the pooling reads class token and registers, too.

    Raises:
        PlanError: a width is not positive, or the epsilon is not.
    """

    num_heads: int
    head_width: int
    mlp_dim: int
    norm_eps: float
    prefix: bool = False

    def __post_init__(self) -> None:
        for name in ("num_heads", "head_width", "mlp_dim"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} of the attention pooling must be at least 1", got=getattr(self, name))
        if not (math.isfinite(self.norm_eps) and self.norm_eps > 0):
            raise PlanError("norm_eps of the attention pooling must be positive", got=self.norm_eps)

    @property
    def dim(self) -> int:
        """Width of the pooled feature, which is that of all heads together."""
        return self.num_heads * self.head_width


@dataclass(frozen=True)
class StemOp:
    """One operator of a convolutional stem, on feature maps ``(C, H, W)``.

    Attributes:
        kind: a convolution; a GroupNorm with weight and bias, or a LayerNorm of the channels of every pixel; an
            activation; a maximum over windows of values that are not negative; a mean over windows that leaves padding
            out; or a sum of two maps.
        sources: numbers of the operators that it reads, one or two for a sum; -1 is the image.
        out_chans: channels of the output.
        kernel: height and width of windows.
        stride: steps of the windows, down and across.
        padding: zeros above, below, left and right.
        groups: groups of channels of a GroupNorm, or as many as channels for a convolution of each alone.
        eps: epsilon of a norm.

    Raises:
        PlanError: a value is out of range.
    """

    kind: StemKind
    sources: tuple[int, ...]
    out_chans: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.kind not in get_args(StemKind):
            raise PlanError("Unknown operator of a stem", expected=", ".join(get_args(StemKind)), got=self.kind)
        if len(self.sources) != (2 if self.kind == "add" else 1):
            raise PlanError("An operator of a stem reads another number of maps", got=self.sources)
        if min(*self.kernel, *self.stride, self.out_chans, self.groups) < 1 or min(self.padding) < 0:
            raise PlanError(f"The sizes of the stem's {self.kind} must be positive", got=(self.kernel, self.stride))
        if self.kind == "conv" and self.groups not in (1, self.out_chans):
            raise PlanError("A stem's convolution has one group, or one for each channel", got=self.groups)
        if self.kind == "mean_pool" and (self.padding[0] != self.padding[1] or self.padding[2] != self.padding[3]):
            raise PlanError("A stem's mean over windows has equal padding on both sides", got=self.padding)
        if self.out_chans % self.groups or not (math.isfinite(self.eps) and self.eps > 0):
            raise PlanError("A stem's GroupNorm needs equal groups and a positive epsilon", got=(self.groups, self.eps))

    def out_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns height and width of the output for an input of ``size``."""
        top, bottom, left, right = self.padding
        rows = (size[0] + top + bottom - self.kernel[0]) // self.stride[0] + 1
        return rows, (size[1] + left + right - self.kernel[1]) // self.stride[1] + 1


def stem_sizes(ops: tuple[StemOp, ...], in_chans: int, size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Returns channels, height and width of the output of each operator of a stem.

    Raises:
        PlanError: an operator reads what comes later, or maps of other sizes are added.
    """
    found: list[tuple[int, int, int]] = []
    for number, op in enumerate(ops):
        if not all(-1 <= source < number for source in op.sources):
            raise PlanError("An operator of a stem reads what comes after it", got=op.sources)
        maps = [found[source] if source >= 0 else (in_chans, *size) for source in op.sources]
        chans, *spatial = maps[0]
        alone = op.kind != "conv" or op.groups > 1
        if any(own != maps[0] for own in maps) or (alone and op.out_chans != chans):
            raise PlanError(f"The maps of the stem's {op.kind} do not fit together", got=maps)
        rows, columns = op.out_size((spatial[0], spatial[1]))
        if rows < 1 or columns < 1:
            raise PlanError("The image is too small for the stem", got=size, fix="Give a larger --img-size")
        found.append((op.out_chans, rows, columns))
    return found
