"""Keeps the zeros of a model zero in its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .rewrites import DEFAULT_REWRITES, Rewrites

if TYPE_CHECKING:
    from compress.model.vit import SlicedViT

_SHARE = 0.01
"""Share of zeros from which a model was made sparse on purpose; weights that were trained freely are hardly ever 0."""


def rewrites_for(model: SlicedViT) -> Rewrites:
    """Returns the default rewrites, or for a model with zeros in what its blocks write those that leave them zeros.

    Centring takes the mean over the channels out of the weights of the output projection and of fc2, which would make
    other numbers of their zeros. Without it the file computes that mean in every norm.
    """
    from compress.search.unstructured import sparse_weights

    weights = sparse_weights(model, ("proj", "fc2")).values()
    zeros, every = (sum(counts) for counts in zip(*((int((w == 0).sum()), w.numel()) for w in weights), strict=True))
    return DEFAULT_REWRITES.without("centre") if zeros > _SHARE * every else DEFAULT_REWRITES
