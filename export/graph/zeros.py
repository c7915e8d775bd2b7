"""Chooses the rewrites that keep the zeros of a sparse model in its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .rewrites import DEFAULT_REWRITES, Rewrites

if TYPE_CHECKING:
    from compress.model.vit import SlicedViT

_SHARE = 0.01
"""Least share of zeros in a model that was made sparse; freely trained weights are hardly ever 0."""


def rewrites_for(model: SlicedViT) -> Rewrites:
    """Returns the default rewrites, without centring for a model with zeros in its output projections or fc2.

    Centring subtracts the mean over the channels from those weights, and their zeros would become other numbers.
    Without it the file computes that mean in every norm.
    """
    from compress.search.unstructured import sparse_weights

    weights = sparse_weights(model, ("proj", "fc2")).values()
    zeros, every = (sum(counts) for counts in zip(*((int((w == 0).sum()), w.numel()) for w in weights), strict=True))
    return DEFAULT_REWRITES.without("centre") if zeros > _SHARE * every else DEFAULT_REWRITES
