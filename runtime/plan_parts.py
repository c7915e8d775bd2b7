"""Widths of the parts of a model that are kept whole when it is pruned."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import PlanError


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
