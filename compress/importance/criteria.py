"""The criteria that come with PocketViT. Imports no torch."""

from __future__ import annotations

from .base import Criterion

FISHER = Criterion(
    name="fisher",
    summary="squared weights times the mean of squared gradients",
    measure="compress.importance.scores:fisher",
)

TAYLOR = Criterion(
    name="taylor",
    summary="squared weights times the squared mean of gradients",
    measure="compress.importance.scores:taylor",
)

L2 = Criterion(
    name="l2",
    summary="squared weights",
    measure="compress.importance.scores:l2",
)

RANDOM = Criterion(
    name="random",
    summary="a random number times the unit's parameters",
    measure="compress.importance.scores:random",
)
