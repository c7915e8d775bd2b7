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
    return DEFAULT_REWRITES.without("centre") if is_sparse(model) else DEFAULT_REWRITES


def rotated_unless_sparse(model: SlicedViT, layer_norms: bool = False) -> SlicedViT:
    """Returns ``model`` in rotated coordinates, or a sparse one as it is, since a rotation would fill its zeros.

    Args:
        model: the model; it is not changed.
        layer_norms: whether a model with LayerNorms must keep them.
    """
    from compress.bases.rotated import rotated

    return model if is_sparse(model) else rotated(model, layer_norms=layer_norms)


def is_sparse(model: SlicedViT) -> bool:
    """Returns whether output projections and fc2 have more zeros than freely trained weights."""
    from compress.search.unstructured import sparse_weights

    weights = sparse_weights(model, ("proj", "fc2")).values()
    zeros, every = (sum(counts) for counts in zip(*((int((w == 0).sum()), w.numel()) for w in weights), strict=True))
    return bool(zeros > _SHARE * every)
